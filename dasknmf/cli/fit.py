"""``dasknmf fit``."""

from __future__ import annotations

from dataclasses import dataclass

from dasknmf import NMF, open_run
from dasknmf.cli.job import CONFIG, ConstrainedJob
from dasknmf.cli.options import command, flag, option
from dasknmf.cli.output import result
from dasknmf.cli.parameter_types import COUNT
from dasknmf.cli.summary import summary


@dataclass(frozen=True, kw_only=True)
class Fit(ConstrainedJob):
    """Arguments and options of `fit`."""

    n_components: int | str = option(
        "Number of components.", "-k", "--n-components", type=COUNT, required=True
    )
    n_init: int = option(
        "Number of starts; all share each read of V, and the lowest loss is kept.", default=1, metavar="N"
    )
    halving: bool = flag("With --n-init: give up the worse half after 4, 8, 16… passes.")


@command(Fit, CONFIG)
def fit(job: Fit) -> None:
    """Factorize SOURCE, and commit every pass to the run store RUN.

    SOURCE is a Zarr or HDF5 array, or an AnnData (a Zarr store or an .h5ad file); cells of several AnnData
    are concatenated, with the genes that all have. With --sample-dims SOURCE is a stack of images in a Zarr
    store that xarray has written. A GeoTIFF is a stack; several of one grid are its dates.

    Started again, the same command is resumed from the last commit. With a larger --max-iter or a smaller
    --tol a finished run is continued.
    """
    with job.working() as (V, parameters, options):
        model = NMF(job.n_components, n_init=job.n_init, halving=job.halving, **parameters)
        model.fit(V, holdout=job.holdout, **options)
    result(summary(open_run(job.run)))
    job.report_next_steps()
