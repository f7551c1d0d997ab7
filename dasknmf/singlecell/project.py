"""Programs that are known, in other cells."""

from __future__ import annotations

import copy as copying
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from dasknmf import NMF, Prepared
from dasknmf.data.anndata_file import matrix_of
from dasknmf.singlecell.entries import Keys
from dasknmf.singlecell.genes_mask import advising, first_of
from dasknmf.singlecell.output import in_memory, target_of

if TYPE_CHECKING:
    from anndata import AnnData


def project(
    adata: AnnData,
    model: Any,
    *,
    layer: str | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """The usage, in other cells, of programs that are known: one read, and no iteration.

    Genes are matched by name. Genes of the programs that `adata` does not have are taken as unobserved: H is
    restricted to the others. What was done to the counts when the programs were found is done to these:
    each cell's total is over all genes that `adata` has.

    Parameters
    ----------
    adata : AnnData of shape (n_obs, n_vars)
        In memory, backed or lazy.
    model : NMF, Run, or the path, URL or Zarr store of one
        A fit with the names of its genes: ``NMF.fit(Prepared(..., feature_names=...))``, or what
        ``nmf(..., checkpoint=)`` or ``dasknmf fit`` of an AnnData left.
    layer : str, optional
    key_added : str, optional
        Instead of ``X_nmf``.
    copy : bool, default=False

    Returns
    -------
    AnnData or None
        The copy, with ``copy=True``. Sets ``obsm["X_nmf"]``, ndarray of shape (n_obs, n_components).

    Raises
    ------
    ValueError
        If the model does not know the names of its genes, or `adata` has none of them, or one twice.
    """
    adata = target_of(adata, copy)
    with advising():
        W = usage(matrix_of(adata, layer), np.asarray(adata.var_names, dtype=str), model)
        adata.obsm[Keys.named(key_added).obsm] = in_memory(W)
    return adata if copy else None


def usage(X: Any, names: np.ndarray, model: Any) -> Any:
    """W of rows whose columns are known by name; the array behind `project`.

    Parameters
    ----------
    X : array of shape (n_obs, n_vars)
        Whatever `NMF.transform` takes.
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
            "the model does not know the names of its genes, by which those of adata are found: fit it to an "
            "AnnData, or to Prepared(X, feature_names=...)."
        )
    steps = steps_to_repeat(model)
    places: dict[str, int] = {}
    twice: set[str] = set()
    for place, name in enumerate(names):
        if name in places:
            twice.add(name)
        places[name] = place
    present = np.asarray([name in places for name in known])
    if not present.any():
        raise ValueError(
            f"none of the {len(known)} genes of the model ({first_of(known)}) is among the {len(names)} "
            f"of adata ({first_of(names)}); genes are matched by name: give var_names of the same kind."
        )
    if doubled := [name for name in known if name in twice]:
        raise ValueError(
            f"{len(doubled)} genes of the model are in adata more than once ({first_of(doubled)}); which is "
            "meant nobody knows: call adata.var_names_make_unique(), or leave out the others."
        )
    if not present.all():
        warnings.warn(
            f"{np.sum(~present)} of {len(known)} genes of the model are not in adata "
            f"({first_of(known[~present])}); they are taken as unobserved.",
            UserWarning,
            stacklevel=3,
        )
    if steps.get("scale") is not None:
        steps["scale"] = steps["scale"][present]
    columns = np.asarray([places[name] for name in known[present]])
    restricted = copying.copy(model)
    restricted.components_ = np.ascontiguousarray(model.components_[:, present])
    restricted.feature_names_in_ = known[present]
    restricted.n_features_in_ = len(columns)
    return restricted.transform(Prepared(X, columns=columns, **steps, feature_names=known[present]))


def steps_to_repeat(model: NMF) -> dict[str, Any]:
    """What was done to the X of a model, as arguments of `Prepared`; empty where nothing was.

    Raises
    ------
    ValueError
        If it was prepared twice.
    """
    if "before" in model.preparation_:
        raise ValueError(
            "the model was fitted to a Prepared of a Prepared; only one can be repeated: fit it to one."
        )
    return dict(model.preparation_)
