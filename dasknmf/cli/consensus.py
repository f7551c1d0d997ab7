"""``dasknmf consensus``."""

from __future__ import annotations

from dataclasses import dataclass

import dasknmf
from dasknmf import open_run
from dasknmf.cli.job import CONFIG, FitJob
from dasknmf.cli.options import command, option
from dasknmf.cli.output import result
from dasknmf.cli.summary import summary
from dasknmf.cli.top import leading


@dataclass(frozen=True, kw_only=True)
class ConsensusJob(FitJob):
    """Arguments and options of `consensus`."""

    n_components: int = option("Number of programs.", "-k", "--n-components", type=int, required=True)
    n_init: int = option(
        "Number of factorizations, which share each read of SOURCE.", default=100, metavar="N"
    )
    density_threshold: float = option(
        "Keep spectra whose mean distance to their nearest spectra is below this; 2 keeps all.",
        default=0.5,
    )
    local_neighborhood_size: float = option(
        "Number of nearest spectra, as a share of --n-init.", default=0.30, metavar="SHARE"
    )


@command(ConsensusJob, CONFIG)
def consensus(job: ConsensusJob) -> None:
    """Find the programs that most of many factorizations share.

    This is consensus NMF. SOURCE is as in `dasknmf fit`. W of RUN holds the usages of the programs, H their
    spectra.

    The same command resumes an interrupted run after its last saved pass. Another --density-threshold or
    --local-neighborhood-size only repeats the clustering.
    """
    with job.working() as (V, parameters, options):
        dasknmf.consensus(
            V,
            job.n_components,
            n_init=job.n_init,
            density_threshold=job.density_threshold,
            local_neighborhood_size=job.local_neighborhood_size,
            **options,
            **parameters,
        )
    run = open_run(job.run)
    result(summary(run))
    if run.feature_names is not None and not job.is_stack:
        result(leading(run, 10))
    job.report_next_steps()
    result(f"every spectrum and its cluster: dasknmf.open_consensus({job.run!r})")
