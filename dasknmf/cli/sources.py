"""What SOURCE is: a matrix, or an AnnData of which a matrix and genes are chosen and prepared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from dasknmf import Prepared, highly_variable, moments
from dasknmf.cli.options import TARGET_SUM, Target
from dasknmf.cli.output import noted
from dasknmf.data import opened
from dasknmf.data.anndata_file import AnnDataStore, open_anndata
from dasknmf.errors import SourceError
from dasknmf.singlecell import deviations
from dasknmf.singlecell.genes_mask import Mask, mask_name, mask_of

source_options = [
    click.option("--layer", metavar="NAME", help="Of an AnnData: factorize this layer, not X."),
    click.option(
        "--mask-var",
        metavar="NAME",
        help="Of an AnnData: the boolean column of var that chooses genes.  "
        "[default: highly_variable where there is one]",
    ),
    click.option("--all-genes", is_flag=True, help="Of an AnnData: no mask."),
    click.option(
        "--n-top-genes",
        type=click.IntRange(min=1),
        metavar="N",
        help="Choose the N genes that vary most beyond what their mean explains; they need names. One more "
        "read at every start, also of a run that goes on.",
    ),
    click.option(
        "--normalize",
        type=Target(),
        is_flag=False,
        flag_value=TARGET_SUM,
        metavar="[TARGET]",
        help="Make the counts of each cell add up to TARGET, over all genes. Without TARGET it stands last "
        f"or before another option; else write --normalize=1e4.  [TARGET if left out: {TARGET_SUM:g}]",
    ),
    click.option("--log1p", is_flag=True, help="Take log(1 + v), after --normalize."),
    click.option(
        "--scale",
        is_flag=True,
        help="Divide each gene by its standard deviation at last, without centring. One more read "
        "at every start, also of a run that goes on.",
    ),
]


@dataclass(frozen=True)
class Choice:
    """The options that say what is factorized."""

    layer: str | None = None
    mask_var: str | None = None
    all_genes: bool = False
    n_top_genes: int | None = None
    normalize: float | None = None
    log1p: bool = False
    scale: bool = False

    def __post_init__(self) -> None:
        ways = {
            "--mask-var": self.mask_var is not None,
            "--all-genes": self.all_genes,
            "--n-top-genes": self.n_top_genes is not None,
        }
        if len(given := [name for name, is_given in ways.items() if is_given]) > 1:
            raise click.UsageError(f"{' and '.join(given)} choose genes in different ways: give one of them.")

    def refuse_for_stacks(self) -> None:
        """Raise if anything is asked for, which is for matrices and AnnData."""
        named = {
            "--layer": self.layer is not None,
            "--mask-var": self.mask_var is not None,
            "--all-genes": self.all_genes,
            "--n-top-genes": self.n_top_genes is not None,
            "--normalize": self.normalize is not None,
            "--log1p": self.log1p,
            "--scale": self.scale,
        }
        if given := [name for name, is_given in named.items() if is_given]:
            raise click.UsageError(
                f"{' and '.join(given)}: for matrices and AnnData, and SOURCE is a stack of images, which is "
                "read as it is stored: leave this out."
            )

    def of(self, sources: tuple[str, ...]) -> Any:
        """V, as `NMF.fit` takes it.

        Raises
        ------
        SourceError
            If it cannot be read.
        click.UsageError
            If an option that needs an AnnData is given for something else.
        """
        store = anndata_at(sources)
        if store is None:
            self._refuse_anndata_options(sources[0])
            X = opened(sources[0])
            self._refuse_unnamed_choice(X, sources[0])
            return self._prepared(X, None, None)
        mask = None
        if self.n_top_genes is None and not self.all_genes:
            asked = Mask.HIGHLY_VARIABLE if self.mask_var is None else self.mask_var
            mask = mask_of(store.var, asked)
            name = mask_name(store.var, asked)
            chosen = "all" if mask is None else f"{int(mask.sum())} of {len(mask)}, by var[{name!r}]"
            noted(f"genes: {chosen}")
        return self._prepared(store.matrix(self.layer), mask, store.var_names)

    def _prepared(self, X: Any, mask: np.ndarray | None, names: np.ndarray | None) -> Any:
        """X with the steps that are asked for; as it is where there are none and its names are its own."""
        columns = None if mask is None else np.flatnonzero(mask)
        if self.n_top_genes is not None:
            noted("reading V once for the genes that vary most (--n-top-genes)")
            columns = np.flatnonzero(
                highly_variable(moments(Prepared(X, target_sum=self.normalize)), self.n_top_genes)
            )
            noted(f"genes: {len(columns)} of {X.shape[1]}, those that vary most")
        names = names if names is None or columns is None else names[columns]
        steps: dict[str, Any] = {"columns": columns, "target_sum": self.normalize, "log1p": self.log1p}
        scale = None
        if self.scale:
            noted("reading V once for standard deviations (--scale)")
            scale = deviations(Prepared(X, **steps))
        if names is None and not any([columns is not None, self.normalize, self.log1p, self.scale]):
            return X
        return Prepared(X, **steps, scale=scale, feature_names=names)

    def _refuse_anndata_options(self, source: str) -> None:
        named = {"--layer": self.layer, "--mask-var": self.mask_var, "--all-genes": self.all_genes or None}
        if given := [name for name, value in named.items() if value is not None]:
            raise click.UsageError(
                f"{' and '.join(given)} choose parts of an AnnData, and {source!r} is none: leave them out, "
                "or give the path of an AnnData (.h5ad, or a Zarr group with obs and var)."
            )

    def _refuse_unnamed_choice(self, X: Any, source: str) -> None:
        # A run keeps the names of its columns, and of their places a digest: H would be of unknown features.
        if self.n_top_genes is not None and X.feature_names is None:
            raise click.UsageError(
                f"--n-top-genes chooses among {X.shape[1]} features by their values, and those of {source!r} "
                "have no names that would tell which were chosen: give the path of an AnnData, or, in "
                "Python, Prepared(X, columns=..., feature_names=...)."
            )


def anndata_at(sources: tuple[str, ...]) -> AnnDataStore | None:
    """The AnnData at these places, or None where a single one holds something else.

    Raises
    ------
    SourceError
        If one of several is no AnnData.
    """
    if len(sources) > 1:
        return open_anndata(list(sources))
    try:
        return open_anndata(sources[0])
    except SourceError:
        # What is there, or is not, is told by whoever opens it as a matrix.
        if sources[0].endswith(".h5ad"):
            raise
        return None
