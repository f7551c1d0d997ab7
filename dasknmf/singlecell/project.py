"""Usages of known programs in other cells."""

from __future__ import annotations

import copy as copying
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.storage import StoreLike

from dasknmf import NMF, Prepared
from dasknmf.core.feature_names import places_of
from dasknmf.core.text import counted
from dasknmf.data.anndata_file import matrix_of
from dasknmf.data.source import MatrixLike
from dasknmf.fitting.problem import Factor
from dasknmf.singlecell.entries import Keys
from dasknmf.singlecell.genes_mask import advising, first_of
from dasknmf.singlecell.output import target_of
from dasknmf.store.run import Run

if TYPE_CHECKING:
    from anndata import AnnData


def project(
    adata: AnnData,
    model: NMF | Run | StoreLike,
    *,
    layer: str | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Usages of known programs in other cells, in one read of `adata`; the programs stay as they are.

    Genes are matched by name. Genes of the programs that `adata` lacks are treated as unobserved: H is
    restricted to the other genes. Counts are prepared (normalised, log-transformed, scaled) as they were when
    the programs were fitted; the total of each cell is over all genes of `adata`.

    Parameters
    ----------
    adata : AnnData of shape (n_obs, n_vars)
        In memory, backed or lazy.
    model : NMF, Run, or the path, URL or Zarr store of one
        A fit that has names of genes: ``NMF.fit(Prepared(..., feature_names=...))``, or the checkpoint of
        ``nmf(..., checkpoint=)`` or of ``dasknmf fit`` of an AnnData.
    layer : str, optional
        Layer with the counts; by default X.
    key_added : str, optional
        Key of `obsm` in place of ``X_nmf``.
    copy : bool, default=False
        Return a copy with the entry and leave `adata` as it is.

    Returns
    -------
    AnnData or None
        The copy, with ``copy=True``. Sets ``obsm["X_nmf"]``, ndarray of shape (n_obs, n_components).

    Raises
    ------
    ValueError
        If the model has no names of genes, or `adata` has none of its genes, or has one of them twice.

    Warns
    -----
    UserWarning
        With the number of genes of the model that `adata` lacks.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> from dasknmf import NMF, Prepared
    >>> from dasknmf.singlecell import project
    >>> counts = np.random.default_rng(0).poisson(2.0, size=(60, 8)).astype("float32")
    >>> genes = [f"gene {number}" for number in range(8)]
    >>> model = NMF(3, random_state=0, tol=1e-3).fit(Prepared(counts, feature_names=genes))
    >>> others = anndata.AnnData(counts[:5])
    >>> others.var_names = genes
    >>> project(others, model)
    >>> others.obsm["X_nmf"].shape
    (5, 3)
    """
    key = Keys.named(key_added).obsm
    adata = target_of(adata, copy)
    with advising():
        W = usage(matrix_of(adata, layer), np.asarray(adata.var_names, dtype=str), model)
        adata.obsm[key] = np.asarray(W)
    return adata if copy else None


def usage(X: MatrixLike, names: np.ndarray, model: NMF | Run | StoreLike) -> Factor:
    """W of an array whose columns have names; `project` without AnnData.

    Parameters
    ----------
    X : array of shape (n_obs, n_vars)
        Any input of `NMF.transform`.
    names : ndarray of str of shape (n_vars,)
    model : as for `project`

    Returns
    -------
    W : ndarray or dask.array.Array of shape (n_obs, n_components)
        Lazy where X is chunked.
    """
    model = model if isinstance(model, NMF) else NMF.from_run(model)
    known = getattr(model, "feature_names_in_", None)
    if known is None:
        raise ValueError(
            "the model does not know the names of its genes; genes are matched by name: fit the model to an "
            "AnnData, or to Prepared(X, feature_names=...)."
        )
    steps = steps_to_repeat(model)
    places, repeated = places_of(known, names)
    present = places >= 0
    if not present.any():
        raise ValueError(
            f"none of the {len(known)} genes of the model ({first_of(known)}) is among the {len(names)} "
            f"of adata ({first_of(names)}); genes are matched by name: give var_names of the same kind."
        )
    if repeated.any():
        raise ValueError(
            f"adata has {counted(int(repeated.sum()), 'gene')} of the model more than once "
            f"({first_of(known[repeated])}); genes are matched by name: call adata.var_names_make_unique(), "
            "or leave out the duplicates."
        )
    if not present.all():
        warnings.warn(
            f"genes of the model that adata lacks: {np.sum(~present)} of {len(known)} "
            f"({first_of(known[~present])}); they are treated as unobserved.",
            UserWarning,
            stacklevel=3,
        )
    if steps.get("scale") is not None:
        steps["scale"] = steps["scale"][present]
    columns = places[present]
    restricted = copying.copy(model)
    restricted.components_ = np.ascontiguousarray(model.components_[:, present])
    restricted.feature_names_in_ = known[present]
    restricted.n_features_in_ = len(columns)
    return restricted.transform(Prepared(X, columns=columns, **steps, feature_names=known[present]))


def steps_to_repeat(model: NMF) -> dict[str, Any]:
    """The preparation of the X of a model, as arguments of `Prepared`; empty if X was not prepared.

    Raises
    ------
    ValueError
        If X was prepared twice.
    """
    if "before" in model.preparation_:
        raise ValueError(
            "the model was fitted to a Prepared of a Prepared; only a single preparation can be repeated: "
            "fit the model to one Prepared."
        )
    return dict(model.preparation_)
