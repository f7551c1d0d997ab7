"""One factorization of the cells of an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.storage import StoreLike

from dasknmf import NMF, Prepared, moments
from dasknmf.data.anndata_file import matrix_of
from dasknmf.selection.parameters import RandomState, Stage
from dasknmf.singlecell.entries import Keys, gram, lifted, run_params, uns_entry
from dasknmf.singlecell.genes_mask import Mask, MaskLike, advising, mask_name, mask_of
from dasknmf.singlecell.output import in_memory, target_of, warn_of_zeros

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
    adata = target_of(adata, copy)
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
        W = in_memory(model.fit_transform(V, checkpoint=checkpoint, stage=stage, overwrite=overwrite))
    H = model.components_

    keys = Keys.named(key_added)
    params = run_params(model.get_params() | {"init": model.init_, "n_components": len(H)})
    params |= {"layer": layer, "obsm": obsm, "normalize": normalize, "log1p": log1p, "scale": scale}
    if obsm is None:
        column = mask_name(adata.var, mask_var)
        params["mask_var"] = mask if column is None else column
    entry = uns_entry(params, model.history_, gram([W], len(H)), H, model.sum_of_squares_)
    if divisors is not None:
        entry["scale"] = model.preparation_["scale"]  # a run that goes on keeps its own last bits
    adata.obsm[keys.obsm] = W
    if obsm is None:
        adata.varm[keys.varm] = lifted(H, columns, adata.n_vars)
    else:
        entry["H"] = H
    adata.uns[keys.uns] = entry
    warn_of_zeros(W, H, keys.obsm)
    return adata if copy else None


def deviations(V: Prepared) -> np.ndarray:
    """What each feature is divided by for unit variance, as in scanpy: its standard deviation, or 1 for 0."""
    found = moments(V).std()
    return np.where(found > 0, found, 1.0)
