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
        "Number of starts, which share each read of SOURCE; the start with the lowest loss is kept.",
        default=1,
        metavar="N",
    )
    halving: bool = flag("With --n-init: drop the worse half of the starts after 4, 8, 16, … passes.")


@command(Fit, CONFIG)
def fit(job: Fit) -> None:
    """Factorize SOURCE and save every pass in the store RUN.

    SOURCE is a Zarr or HDF5 array, or an AnnData (a Zarr store or an .h5ad file). The cells of several
    AnnData are concatenated, with the genes that all of them have. With --sample-dims, SOURCE is a stack of
    images that xarray wrote to a Zarr store. A GeoTIFF is a stack; several GeoTIFFs of one grid are its
    dates.

    The same command resumes an interrupted run after its last saved pass. A larger --max-iter or a smaller
    --tol continues a finished run.
    """
    with job.working() as (V, parameters, options):
        model = NMF(job.n_components, n_init=job.n_init, halving=job.halving, **parameters)
        model.fit(V, holdout=job.holdout, **options)
    result(summary(open_run(job.run)))
    job.report_next_steps()
