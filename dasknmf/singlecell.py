"""Gene programs of single cells, in scanpy's manner: AnnData in, AnnData out. Needs the ``anndata`` extra."""

from __future__ import annotations

import copy as copying
import warnings
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from dasknmf import NMF, Prepared, moments
from dasknmf.anndata_entries import Keys, component_names, gram, lifted, run_params, uns_entry
from dasknmf.anndata_parts import Mask, advising, first_of, mask_name, mask_of
from dasknmf.inputs.anndata_store import matrix_of
from dasknmf.store.opened_run import Run

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def nmf(
    adata: AnnData,
    n_components: int,
    *,
    layer: str | None = None,
    obsm: str | None = None,
    mask_var: Any = Mask.HIGHLY_VARIABLE,
    key_added: str | None = None,
    random_state: Any = 0,
    copy: bool = False,
    normalize: float | None = None,
    log1p: bool = False,
    scale: bool = False,
    checkpoint: Any = None,
    stage: Any = None,
    overwrite: bool = False,
    **parameters: Any,
) -> AnnData | None:
    """Nonnegative matrix factorization of the cells of an AnnData, written into it.

    Parameters
    ----------
    adata : AnnData of shape (n_obs, n_vars)
        In memory, backed (``read_h5ad(..., backed="r")``) or lazy (``anndata.experimental.read_lazy``). Of
        the latter two X is read in panels, once per iteration; only W stays in memory.
    n_components : int
    layer : str, optional
        Factorize this layer instead of X.
    obsm : str, optional
        Factorize this entry of `obsm`. Its columns are no genes: H then stands in ``uns[...]["H"]``.
    mask_var : str, array or Series of bool, or None
        The genes to factorize: a boolean column of `var`, or one value per gene; None: all. By default
        ``var["highly_variable"]`` where there is one, else all.
    key_added : str, optional
        One name for the three entries, instead of ``X_nmf``, ``NMF`` and ``nmf``.
    random_state : int or RandomState, default=0
    copy : bool, default=False
        Return a copy with the entries and leave `adata` as it is.
    normalize : float, optional
        What the counts of each cell are made to add up to, over all genes: 1e4, for example.
    log1p : bool, default=False
        Take log(1 + v), after the normalisation.
    scale : bool, default=False
        Divide each gene by its standard deviation at last, without centring. One more read, also where a
        run at `checkpoint` goes on, which compares the deviations with its own.
    checkpoint, stage, overwrite
        Of `NMF.fit_transform`: where the run is kept, where its data is staged.
    **parameters
        Further parameters of `NMF`: `beta_loss`, `solver`, `max_iter`, `tol`, …

    Returns
    -------
    AnnData or None
        The copy, with ``copy=True``. Sets these entries:

        ``obsm["X_nmf"]`` : ndarray of shape (n_obs, n_components)
            W, the usage of each program in each cell.
        ``varm["NMF"]`` : ndarray of shape (n_vars, n_components)
            Hᵀ, the programs; zero for genes outside of the mask. In the units of what was factorized.
        ``uns["nmf"]`` : dict
            ``params``; ``components``, their names; ``variance`` and ``variance_ratio`` by component, see
            Notes; ``loss``, D(V | WH); ``history``, one array per column; ``scale``, with ``scale=True``,
            what each gene of the mask was divided by.

    Raises
    ------
    SourceError
        If a layer or an entry of `obsm` does not exist.
    ValueError
        If a mask does not exist, or the arguments do not fit each other.
    DataError
        If the values are negative, missing or infinite.

    Warns
    -----
    UserWarning
        Once, with the number of cells whose row of W is zero (no counts in these genes) and of genes that
        have a zero column of H (never seen). Both are kept.

    Notes
    -----
    With G = WᵀW and S = HHᵀ, ``variance`` of component c is Σ_d G_cd S_cd = ⟨w_c h_c, WH⟩, and
    ``variance_ratio`` its share of ‖V‖², which the first read of V sums. The shares add up to ‖WH‖² / ‖V‖²;
    at an optimum of the Frobenius loss that is 1 − ‖V − WH‖² / ‖V‖².

    Examples
    --------
    >>> import anndata, numpy as np
    >>> from dasknmf.singlecell import nmf
    >>> counts = np.random.default_rng(0).poisson(2.0, size=(60, 8)).astype("float32")
    >>> adata = anndata.AnnData(counts)
    >>> nmf(adata, 3, normalize=1e4, log1p=True, tol=1e-3)
    >>> adata.obsm["X_nmf"].shape, adata.varm["NMF"].shape
    ((60, 3), (8, 3))
    """
    if copy and adata.isbacked:
        raise ValueError(
            "copy is True and adata is backed by a file; a copy of it would need a file of its own: leave "
            "copy out, X is not changed, or give adata.to_memory()."
        )
    adata = adata.copy() if copy else adata
    X = matrix_of(adata, layer, obsm)
    mask = None if obsm is not None else mask_of(adata.var, mask_var)
    if obsm is not None and not (mask_var is None or mask_var is Mask.HIGHLY_VARIABLE):
        raise ValueError(f"mask_var selects genes and obsm={obsm!r} has none: give one of the two.")
    columns = None if mask is None else np.flatnonzero(mask)
    names = None if obsm is not None else np.asarray(adata.var_names, dtype=str)
    if names is not None and columns is not None:
        names = names[columns]
    steps: dict[str, Any] = {"columns": columns, "target_sum": normalize, "log1p": log1p}
    model = NMF(n_components, random_state=random_state, **parameters)
    with advising():
        divisors = deviations(Prepared(X, **steps)) if scale else None
        V = Prepared(X, **steps, scale=divisors, feature_names=names)
        W = _in_memory(model.fit_transform(V, checkpoint=checkpoint, stage=stage, overwrite=overwrite))
    H = model.components_

    keys = Keys.named(key_added)
    asked: dict[str, Any] = {
        "layer": layer,
        "obsm": obsm,
        "normalize": normalize,
        "log1p": log1p,
        "scale": scale,
    }
    if obsm is None:
        column = mask_name(adata.var, mask_var)
        asked["mask_var"] = mask if column is None else column
    params = run_params(model.get_params() | {"init": model.init_, "n_components": len(H)}) | asked
    entry = uns_entry(params, model.history_, gram([W], len(H)), H, model.sum_of_squares_)
    if divisors is not None:
        entry["scale"] = model.preparation_["scale"]  # a run that goes on keeps its own last bits
    adata.obsm[keys.obsm] = W
    if obsm is None:
        adata.varm[keys.varm] = lifted(H, columns, adata.n_vars)
    else:
        entry["H"] = H
    adata.uns[keys.uns] = entry
    _tell_empty(W, H, keys.obsm)
    return adata if copy else None


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
    if copy and adata.isbacked:
        raise ValueError("copy is True and adata is backed by a file: leave copy out, X is not changed.")
    adata = adata.copy() if copy else adata
    with advising():
        W = usage(matrix_of(adata, layer), np.asarray(adata.var_names, dtype=str), model)
        adata.obsm[Keys.named(key_added).obsm] = _in_memory(W)
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


def top_genes(source: Any, n: int = 20, *, key: str | None = None) -> pd.DataFrame:
    """The genes with the largest loadings in each component.

    Parameters
    ----------
    source : Run, NMF, AnnData, or the path of a run
    n : int, default=20
    key : str, optional
        The `key_added` of the entries of an AnnData.

    Returns
    -------
    DataFrame of shape (n_components, n)
        Names, the largest loading first; rows ``nmf0``, …; columns 1 to n. Empty where a component has fewer
        genes above zero. Loadings are in the units of what was factorized: with ``scale=True`` those of
        genes that vary much and little can be compared.

    Raises
    ------
    ValueError
        If the genes have no names.
    """
    import pandas as pd

    table = leading_genes(source, n, key=key)
    return pd.DataFrame(table, index=component_names(len(table)), columns=range(1, table.shape[1] + 1))


def leading_genes(source: Any, n: int = 20, *, key: str | None = None) -> np.ndarray:
    """The array of str behind `top_genes`, shape (n_components, n), which needs no pandas."""
    if n < 1:
        raise ValueError(f"n is {n}; a table needs one gene or more for each component: give at least 1.")
    H, names = _loadings(source, key)
    order = np.argsort(-H, axis=1, kind="stable")[:, :n]
    return np.where(np.take_along_axis(H, order, axis=1) > 0, names[order], "")


def deviations(V: Prepared) -> np.ndarray:
    """What each feature is divided by for unit variance, as in scanpy: its standard deviation, or 1 for 0."""
    found = moments(V).std()
    return np.where(found > 0, found, 1.0)


def _loadings(source: Any, key: str | None) -> tuple[np.ndarray, np.ndarray]:
    if hasattr(source, "varm"):
        where = Keys.named(key).varm
        if where not in source.varm:
            raise ValueError(
                f"varm has no {where!r}, only {sorted(source.varm)}: call nmf(adata, ...) first."
            )
        return np.asarray(source.varm[where]).T, np.asarray(source.var_names, dtype=object)
    if isinstance(source, NMF):
        H, names = source.components_, getattr(source, "feature_names_in_", None)
    else:
        run = source if isinstance(source, Run) else Run(source)
        H, names = run.H, run.feature_names
    if names is None:
        raise ValueError(
            f"the {H.shape[1]} features have no names; tables of genes need them: fit an AnnData, or "
            "Prepared(X, feature_names=...)."
        )
    return H, names


def _in_memory(W: Any) -> np.ndarray:
    return np.asarray(W.compute() if isinstance(W, da.Array) else W)


def _tell_empty(W: np.ndarray, H: np.ndarray, key: str) -> None:
    """One warning for all rows of W and columns of H that are zero."""
    cells, genes = int((W.max(axis=1) == 0).sum()), int((H.max(axis=0) == 0).sum())
    said = []
    if cells:
        said.append(f"{cells} of {len(W)} cells have no counts in genes of any component")
    if genes:
        said.append(f"{genes} of {H.shape[1]} genes are in no component, never seen or explained by none")
    if said:
        warnings.warn(
            f"{'; '.join(said)}: they are kept, their rows of obsm[{key!r}] and of varm are zero.",
            UserWarning,
            stacklevel=3,
        )
