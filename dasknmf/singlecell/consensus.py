"""Consensus NMF of the cells of an AnnData, as in cNMF."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.storage import StoreLike

from dasknmf import Consensus, RankSweep, consensus, highly_variable, moments
from dasknmf.data.anndata_file import matrix_of
from dasknmf.fitting.problem import FitOptions
from dasknmf.selection.k_selection import k_selection
from dasknmf.selection.parameters import Clustering, RandomState, Stage, check_starts
from dasknmf.selection.refit import normalised
from dasknmf.singlecell.entries import Keys, over_all_genes, plain
from dasknmf.singlecell.genes_mask import Mask, MaskLike, advising, mask_of
from dasknmf.singlecell.nmf import prepared
from dasknmf.singlecell.output import check_place, target_of, warn_of_zeros
from dasknmf.singlecell.tpm import in_all_genes, tpm_of

if TYPE_CHECKING:
    from anndata import AnnData

_TOP_GENES = 2000


def consensus_nmf(
    adata: AnnData,
    n_components: int | Iterable[int],
    *,
    layer: str | None = None,
    mask_var: MaskLike = Mask.HIGHLY_VARIABLE,
    n_top_genes: int | None = None,
    normalize: float | None = None,
    log1p: bool = False,
    scale: bool = True,
    n_init: int = 100,
    density_threshold: float = 0.5,
    local_neighborhood_size: float = 0.30,
    rule: str | None = None,
    random_state: RandomState = 0,
    key_added: str | None = None,
    copy: bool = False,
    checkpoint: StoreLike | None = None,
    stage: Stage = None,
    overwrite: bool = False,
    **parameters: Any,
) -> AnnData | None:
    """Consensus NMF of the cells of an AnnData, step by step as in cNMF [1]_; results are written into it.

    The factorized values are the counts of the most variable genes, each gene divided by its standard
    deviation, neither normalised nor centred. X stays unchanged.

    Parameters
    ----------
    adata : AnnData of shape (n_obs, n_vars)
        Counts, stored by rows (CSR or dense): in memory, backed (``read_h5ad(..., backed="r")``) or lazy
        (``anndata.experimental.read_lazy``).
    n_components : int or iterable of int
        Number of programs. Of several numbers, ascending, `rule` chooses one; all are factorized in the same
        reads.
    layer : str, optional
        Layer with the counts; by default X.
    mask_var : str, array or Series of bool, or None
        The genes to factorize: a boolean column of `var`, or one value per gene; None: all. By default
        ``var["highly_variable"]`` where there is one, else as with ``n_top_genes=2000``.
    n_top_genes : int, optional
        Number of genes to choose by the rule of cNMF; see `dasknmf.highly_variable`. One more read.
    normalize, log1p
        As for `nmf`; cNMF does neither.
    scale : bool, default=True
        Divide each gene by its standard deviation. One more read.
    n_init, density_threshold, local_neighborhood_size
        As for `dasknmf.consensus`.
    rule : {"silhouette", "stability"}, optional
        The rule that chooses among several `n_components`; see `dasknmf.selection.rules.choose`.
    random_state : int or RandomState, default=0
    key_added : str, optional
        One name for all entries, instead of ``X_cnmf``, ``cNMF`` and ``cnmf``.
    copy : bool, default=False
        Return a copy with the entries and leave `adata` as it is.
    checkpoint, stage, overwrite
        Of the factorizations, as for `NMF.fit`. `dasknmf.open_consensus` opens what is at the checkpoint, and
        ``dasknmf export --cnmf`` writes cNMF's files of it.
    **parameters
        Further parameters of `NMF`.

    Returns
    -------
    AnnData or None
        The copy, with ``copy=True``. Sets these entries, programs in the order of their usage:

        ``obsm["X_cnmf"]`` : ndarray of shape (n_obs, n_components)
            Usages scaled to a sum of one per cell, as `load_results` of cNMF returns them.
        ``obsm["X_cnmf_raw"]`` : ndarray of shape (n_obs, n_components)
            Usages as fitted, which cNMF writes to its files.
        ``varm["cNMF"]`` : ndarray of shape (n_vars, n_components)
            The consensus spectra, in the units of the factorized values, scaled to a sum of one per program;
            zero for genes outside of the mask.
        ``varm["cNMF_scores"]`` : ndarray of shape (n_vars, n_components)
            z-scores of all genes: the change of TPM per unit of usage, in standard deviations of the gene.
            cNMF ranks genes by them; ``top_genes(adata, key="cNMF_scores")``.
        ``varm["cNMF_tpm"]`` : ndarray of shape (n_vars, n_components)
            Spectra of all genes, in transcripts per million.
        ``uns["cnmf"]`` : dict
            ``params``; ``silhouette`` of the spectra that were kept; ``loss``; ``density``, ``kept`` and
            ``labels`` of every spectrum, see `dasknmf.Consensus`; ``scale``, with ``scale=True``, the
            divisor of each gene of the mask; ``k_selection``, of several `n_components`, the columns of
            `dasknmf.selection.k_selection`, and ``best`` and ``rule``.

    Raises
    ------
    SourceError
        If a layer does not exist, or counts are stored by columns.
    ValueError
        If a column of `var` does not exist, or arguments contradict each other.
    DataError
        If the values are negative, missing or infinite; or the threshold leaves too few spectra.

    Warns
    -----
    UserWarning
        With the numbers of cells without usage and of genes in no program; cNMF refuses such cells.

    Notes
    -----
    Reads of the counts: one to choose genes, one for deviations; the passes of the factorizations, all of
    them together; of several `n_components` one for their losses; two for spectra and usages of
    the consensus; three for TPM spectra, scores and usages. Usages are cNMF's last ones, fitted to the TPM
    of the genes that were factorized.

    With several `n_components`, the picture that users of cNMF know is drawn from what is stored, the
    clusters from what is at the checkpoint::

        stored = adata.uns["cnmf"]["k_selection"]
        plots.ranks(stored, best=stored["best"])
        plots.consensus(open_consensus("run.zarr"))

    References
    ----------
    .. [1] Kotliar, D., et al. (2019). Identifying gene expression programs of cell-type identity and
       cellular activity with single-cell RNA-Seq. eLife, 8, e43803.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> from dasknmf.singlecell import consensus_nmf
    >>> rng = np.random.default_rng(0)
    >>> rates = rng.gamma(0.3, size=(200, 3)) @ rng.gamma(0.3, size=(3, 20)) + 0.1
    >>> adata = anndata.AnnData(rng.poisson(9 * rates).astype("float32"))
    >>> consensus_nmf(adata, 3, mask_var=None, n_init=6)
    >>> adata.obsm["X_cnmf"].shape, adata.varm["cNMF_scores"].shape
    ((200, 3), (20, 3))
    """
    if n_top_genes is not None and mask_var is not Mask.HIGHLY_VARIABLE:
        raise ValueError(
            f"n_top_genes={n_top_genes} and mask_var choose genes in different ways: give one of them."
        )
    if rule is not None and not isinstance(n_components, Iterable):
        raise ValueError(
            f"rule={rule!r} chooses among several n_components, and {n_components} is one: give a range, or "
            "leave rule out."
        )
    ranks = list(n_components) if isinstance(n_components, Iterable) else [n_components]
    clustering = Clustering(n_init, density_threshold, local_neighborhood_size)
    for rank in ranks:
        clustering.check(rank)
    check_starts(parameters)  # before counts are read to choose genes
    if parameters.get("missing_values", "error") != "error":
        raise ValueError(
            f"missing_values is {parameters['missing_values']!r}; spectra and scores of all genes are "
            "computed from totals of cells, which need every entry: use nmf(adata, missing_values=)."
        )
    keys = Keys("X_cnmf", "cNMF", "cnmf") if key_added is None else Keys.named(key_added)
    check_place(checkpoint)
    adata = target_of(adata, copy)
    X = matrix_of(adata, layer)
    names = np.asarray(adata.var_names, dtype=str)
    mask = column = None
    if n_top_genes is None:
        mask, column = mask_of(adata.var, mask_var)
        if mask is None and mask_var is Mask.HIGHLY_VARIABLE:
            n_top_genes = _TOP_GENES
    nmf = {"random_state": random_state} | parameters
    options: dict[str, Any] = {"checkpoint": checkpoint, "stage": stage, "overwrite": overwrite}
    with advising():
        if n_top_genes is not None:
            mask = highly_variable(moments(tpm_of(X)), n_top_genes)
        columns = None if mask is None else np.flatnonzero(mask)
        V = prepared(X, names, columns, scale=scale, target_sum=normalize, log1p=log1p)
        sweep: RankSweep | None = None
        if isinstance(n_components, Iterable):
            sweep, found = k_selection(V, ranks, clustering, FitOptions(**options), rule=rule, **nmf)
        else:
            found = consensus(V, n_components, n_init=n_init, **clustering.numbers, **options, **nmf)
        whole = in_all_genes(X, columns, found.usages)
        usages = np.asarray(whole.usages)

    params = {
        "n_components": found.n_components,
        "layer": layer,
        "mask_var": mask if column is None else column,
        "n_top_genes": n_top_genes,
        "normalize": normalize,
        "log1p": log1p,
        "scale": scale,
        "n_init": n_init,
    }
    entry = _entry(params | clustering.numbers | nmf, found, sweep)
    if scale:
        entry["scale"] = V.preparation.scale
    adata.obsm[keys.obsm] = normalised(usages)
    adata.obsm[f"{keys.obsm}_raw"] = usages
    adata.varm[keys.varm] = over_all_genes(found.spectra, columns, adata.n_vars)
    adata.varm[f"{keys.varm}_scores"] = np.ascontiguousarray(whole.scores.T)
    adata.varm[f"{keys.varm}_tpm"] = np.ascontiguousarray(whole.spectra.T)
    adata.uns[keys.uns] = entry
    warn_of_zeros(usages, found.spectra, keys.obsm)
    return adata if copy else None


def _entry(params: dict[str, Any], found: Consensus, sweep: RankSweep | None) -> dict[str, Any]:
    """The entry of `uns`, in types that .h5ad and Zarr both hold."""
    entry: dict[str, Any] = {
        "params": {name: plain(value) for name, value in params.items() if value is not None},
        "silhouette": found.silhouette,
        "loss": found.loss,
        "density": found.density,
        "kept": found.kept,
        "labels": found.labels,
    }
    if sweep is not None:
        ranks = {"n_components": np.asarray(sweep.n_components), "best": sweep.best, "rule": sweep.rule}
        known = {name: values for name, values in sweep.columns.items() if np.isfinite(values).any()}
        entry["k_selection"] = ranks | known
    return entry
