"""V from a matrix or an AnnData: the options that choose and prepare it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import click
import numpy as np

from dasknmf import Prepared, highly_variable, moments
from dasknmf.cli.options import flag, given, option
from dasknmf.cli.output import note
from dasknmf.cli.parameter_types import TARGET, TARGET_SUM
from dasknmf.data import opened
from dasknmf.data.anndata_file import AnnDataStore, open_anndata
from dasknmf.errors import SourceError
from dasknmf.singlecell import deviations
from dasknmf.singlecell.genes_mask import Mask, mask_of

_TWICE = "Needs one more read of SOURCE each time the command starts, also when it resumes a run."


@dataclass(frozen=True, kw_only=True)
class MatrixOptions:
    """Options of a matrix or an AnnData."""

    layer: str | None = option("AnnData: use this layer instead of X.", metavar="NAME")
    mask_var: str | None = option(
        "AnnData: use the genes that this boolean column of var selects.  [default: highly_variable, if "
        "var has it]",
        metavar="NAME",
    )
    all_genes: bool = flag("AnnData: use all genes.")
    n_top_genes: int | None = option(
        "Use the N genes whose variance is largest relative to the variance expected from their mean; genes "
        f"need names. {_TWICE}",
        type=click.IntRange(min=1),
        metavar="N",
    )
    normalize: float | None = option(
        "Scale the counts of each cell, over all genes, to the sum TARGET. Write --normalize=1e4, or put "
        f"--normalize without TARGET last or before another option.  [TARGET if left out: {TARGET_SUM:g}]",
        type=TARGET,
        is_flag=False,
        flag_value=TARGET_SUM,
        metavar="[TARGET]",
    )
    log1p: bool = flag("Take log(1 + v), after --normalize.")
    scale: bool = flag(
        f"Divide each gene by its standard deviation, after --log1p; genes are not centred. {_TWICE}"
    )

    def check_matrix_options(self, *, is_stack: bool) -> None:
        """Refuse options that contradict each other.

        Raises
        ------
        click.UsageError
        """
        if len(names := given(self, "mask_var", "all_genes", "n_top_genes")) > 1:
            raise click.UsageError(f"{' and '.join(names)} choose genes in different ways: give one of them.")
        if is_stack and (names := given(self, *(field.name for field in fields(MatrixOptions)))):
            listed = " and ".join(names)
            raise click.UsageError(
                f"{listed} can only be used with matrices and AnnData, and SOURCE is a stack of images: "
                f"leave out {listed}."
            )

    def matrix(self, sources: tuple[str, ...]) -> Any:
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
            if names := given(self, "layer", "mask_var", "all_genes"):
                listed = " and ".join(names)
                raise click.UsageError(
                    f"{listed} can only be used with an AnnData, and {sources[0]!r} is not one: leave out "
                    f"{listed}, or give the path of an AnnData (.h5ad, or a Zarr group with obs and var)."
                )
            X: Any = opened(sources[0])
            # A run stores names of features, and of their positions only a digest.
            if self.n_top_genes is not None and X.feature_names is None:
                raise click.UsageError(
                    f"--n-top-genes needs names of the features, and those of {sources[0]!r} have no names: "
                    "give the path of an AnnData, or, in Python, Prepared(X, columns=..., feature_names=...)."
                )
            return self._prepared(X, None, None)
        mask = None
        if self.n_top_genes is None and not self.all_genes:
            wanted = Mask.HIGHLY_VARIABLE if self.mask_var is None else self.mask_var
            mask, name = mask_of(store.var, wanted)
            chosen = "all" if mask is None else f"{int(mask.sum())} of {len(mask)}, by var[{name!r}]"
            note(f"genes: {chosen}")
        return self._prepared(store.matrix(self.layer), mask, store.var_names)

    def _prepared(self, X: Any, mask: np.ndarray | None, names: np.ndarray | None) -> Any:
        """X with its steps of preparation; X itself where there are none and its names are its own."""
        columns = None if mask is None else np.flatnonzero(mask)
        if self.n_top_genes is not None:
            note("reading SOURCE once to find the genes that vary most (--n-top-genes)")
            columns = np.flatnonzero(
                highly_variable(moments(Prepared(X, target_sum=self.normalize)), self.n_top_genes)
            )
            note(f"genes: the {len(columns)} of {X.shape[1]} that vary most")
        names = names if names is None or columns is None else names[columns]
        steps: dict[str, Any] = {"columns": columns, "target_sum": self.normalize, "log1p": self.log1p}
        scale = None
        if self.scale:
            note("reading SOURCE once to compute standard deviations (--scale)")
            scale = deviations(Prepared(X, **steps))
        if names is None and columns is None and not (self.normalize or self.log1p or self.scale):
            return X
        return Prepared(X, **steps, scale=scale, feature_names=names)


def anndata_at(sources: tuple[str, ...]) -> AnnDataStore | None:
    """The AnnData at these places; None if there is one place, which holds something else.

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
        # The error of opening it as a matrix has the better message.
        if sources[0].endswith(".h5ad"):
            raise
        return None
