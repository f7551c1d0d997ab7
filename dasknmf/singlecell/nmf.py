"""One factorization of the cells of an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.storage import StoreLike

from dasknmf import NMF, Prepared, moments
from dasknmf.data.anndata_file import matrix_of
from dasknmf.data.source import MatrixLike
from dasknmf.selection.parameters import RandomState, Stage
from dasknmf.singlecell.entries import Keys, gram, over_all_genes, run_params, uns_entry
from dasknmf.singlecell.genes_mask import Mask, MaskLike, advising, mask_of
from dasknmf.singlecell.output import check_place, target_of, warn_of_zeros

if TYPE_CHECKING:
    from anndata import AnnData


def nmf(
    adata: AnnData,
    n_components: int,
    *,
    layer: str | None = None,
    obsm: str | None = None,
    mask_var: MaskLike = Mask.HIGHLY_VARIABLE,
    key_added: str | None = None,
    random_state: RandomState = 0,
    copy: bool = False,
    normalize: float | None = None,
    log1p: bool = False,
    scale: bool = False,
    checkpoint: StoreLike | None = None,
    stage: Stage = None,
    overwrite: bool = False,
    **parameters: Any,
) -> AnnData | None:
    """Nonnegative matrix factorization of the cells of an AnnData; results are written into the AnnData.

    Parameters
    ----------
    adata : AnnData of shape (n_obs, n_vars)
        In memory, backed (``read_h5ad(..., backed="r")``) or lazy (``anndata.experimental.read_lazy``). A
        backed or lazy X is read in panels, once per iteration; only W is held in memory.
    n_components : int
        Number of programs.
    layer : str, optional
        Factorize this layer instead of X.
    obsm : str, optional
        Factorize this entry of `obsm`. Its columns are not genes, and so H is written to ``uns[...]["H"]``.
    mask_var : str, array or Series of bool, or None
        The genes to factorize: a boolean column of `var`, or one value per gene; None: all. By default
        ``var["highly_variable"]`` where there is one, else all.
    key_added : str, optional
        One name for the three entries, instead of ``X_nmf``, ``NMF`` and ``nmf``.
    random_state : int or RandomState, default=0
    copy : bool, default=False
        Return a copy with the entries and leave `adata` as it is.
    normalize : float, optional
        Total to which the counts of each cell are scaled, over all genes: 1e4, for example.
    log1p : bool, default=False
        Apply log(1 + v) after the normalisation.
    scale : bool, default=False
        Divide each gene by its standard deviation, last and without centring. One more read, also when a run
        at `checkpoint` is resumed.
    checkpoint, stage, overwrite
        As for `NMF.fit_transform`.
    **parameters
        Further parameters of `NMF`: `beta_loss`, `solver`, `max_iter`, `tol`, …

    Returns
    -------
    AnnData or None
        The copy, with ``copy=True``. Sets these entries:

        ``obsm["X_nmf"]`` : ndarray of shape (n_obs, n_components)
            W, the usage of each program in each cell.
        ``varm["NMF"]`` : ndarray of shape (n_vars, n_components)
            Hᵀ, the programs, in the units of the factorized values; zero for genes outside of the mask.
        ``uns["nmf"]`` : dict
            ``params``; ``components``, their names; ``variance`` and ``variance_ratio`` by component, see
            Notes; ``loss``, D(V | WH); ``history``, one array per column; ``scale``, with ``scale=True``,
            the divisor of each gene of the mask.

    Raises
    ------
    SourceError
        If a layer or an entry of `obsm` does not exist.
    ValueError
        If a column of `var` does not exist, or arguments contradict each other.
    DataError
        If the values are negative, missing or infinite.

    Warns
    -----
    UserWarning
        With the numbers of cells whose row of W is zero (no counts in these genes) and of genes whose column
        of H is zero (no counts in any cell). These cells and genes stay in the results.

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
    if scale and parameters.get("missing_values", "error") != "error":
        raise ValueError(
            f"scale is True and missing_values is {parameters['missing_values']!r}; standard deviations are "
            "computed from all entries: give scale=False, or NMF.fit(Prepared(X, scale=...))."
        )
    keys = Keys.named(key_added)
    check_place(checkpoint)
    adata = target_of(adata, copy)
    X = matrix_of(adata, layer, obsm)
    mask, column = (None, None) if obsm is not None else mask_of(adata.var, mask_var)
    if obsm is not None and not (mask_var is None or mask_var is Mask.HIGHLY_VARIABLE):
        raise ValueError(f"mask_var selects genes and obsm={obsm!r} has no genes: give one of the two.")
    columns = None if mask is None else np.flatnonzero(mask)
    names = None if obsm is not None else np.asarray(adata.var_names, dtype=str)
    model = NMF(n_components, random_state=random_state, **parameters)
    with advising():
        V = prepared(X, names, columns, scale=scale, target_sum=normalize, log1p=log1p)
        W = np.asarray(model.fit_transform(V, checkpoint=checkpoint, stage=stage, overwrite=overwrite))
    H = model.components_
    params = run_params(model.get_params() | {"init": model.init_, "n_components": len(H)})
    params |= {"layer": layer, "obsm": obsm, "normalize": normalize, "log1p": log1p, "scale": scale}
    if obsm is None:
        params["mask_var"] = mask if column is None else column
    entry = uns_entry(params, model.history_, gram([W], len(H)), H, model.sum_of_squares_)
    if scale:
        entry["scale"] = model.preparation_["scale"]  # that of the run, if one is resumed
    adata.obsm[keys.obsm] = W
    if obsm is None:
        adata.varm[keys.varm] = over_all_genes(H, columns, adata.n_vars)
    else:
        entry["H"] = H
    adata.uns[keys.uns] = entry
    warn_of_zeros(W, H, keys.obsm)
    return adata if copy else None


def prepared(
    X: MatrixLike, names: np.ndarray | None, columns: np.ndarray | None, *, scale: bool, **steps: Any
) -> Prepared:
    """The matrix to factorize: chosen columns of X after the steps; with `scale`, a read for deviations."""
    V = Prepared(X, columns=columns, **steps)
    if names is not None and columns is not None:
        names = names[columns]
    return Prepared(X, columns=columns, **steps, scale=deviations(V) if scale else None, feature_names=names)


def deviations(V: Prepared) -> np.ndarray:
    """The divisor of each feature for unit variance, as in scanpy: its standard deviation, or 1 for 0."""
    found = moments(V).std()
    return np.where(found > 0, found, 1.0)
