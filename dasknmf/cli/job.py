"""The job of a command that factorizes: its options, and the work that they describe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import click

from dasknmf import __version__, open_run
from dasknmf.cli.config_file import set_defaults
from dasknmf.cli.fixed_components import rows_at
from dasknmf.cli.heartbeat import Heartbeat, in_directory
from dasknmf.cli.options import EXISTING_FILE, FILE, argument, flag, option
from dasknmf.cli.output import FORMATS, event, is_json, json_records, note, result
from dasknmf.cli.parameter_types import BETA, BYTES
from dasknmf.cli.progress import progress
from dasknmf.cli.scheduling import SchedulerOptions
from dasknmf.cli.signals import TRY_AGAIN, Stop
from dasknmf.cli.sources import MatrixOptions, anndata_at
from dasknmf.cli.stacks import StackOptions, missing_of_matrix
from dasknmf.core.history import Record
from dasknmf.core.solvers.table import SOLVERS
from dasknmf.errors import DaskNMFError
from dasknmf.fitting.model import SAMPLE_BYTES, Init
from dasknmf.plots.report.models import is_unfinished
from dasknmf.singlecell.genes_mask import advising
from dasknmf.stacks.geotiff_in import is_raster

CONFIG = click.Option(
    ["--config"],
    type=EXISTING_FILE,
    is_eager=True,
    expose_value=False,
    callback=set_defaults,
    help="Read options from this TOML file; options on the command line override it.",
)


@dataclass(frozen=True, kw_only=True)
class RunOptions(SchedulerOptions):
    """Options of a run."""

    stage: str | None = option(
        "From the first pass on, keep a copy of SOURCE in memory or in a local directory.",
        metavar="memory|DIRECTORY",
    )
    overwrite: bool = flag("Discard the run that RUN holds and start over.")
    max_seconds: float | None = option(
        f"Stop within this time with exit code {TRY_AGAIN}, before a pass that would not end in time; the "
        "same command then resumes.",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
    )
    log_format: str = option(
        "Format of stderr: text, or one JSON object per line.",
        type=click.Choice(FORMATS),
        default="text",
    )
    heartbeat: Path | None = option(
        "Touch this file every 10 s while the process lives and its scheduler answers, for a liveness "
        "probe; a pass that hangs is not detected.",
        type=FILE,
        callback=in_directory,
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options of the model."""

    beta_loss: float | str = option(
        "The beta-divergence D(V | WH): frobenius (2), kullback-leibler (1), itakura-saito (0), or β.",
        type=BETA,
        default="frobenius",
    )
    solver: str = option(
        "cd: coordinate descent; bpp: exact least squares (both for the Frobenius loss only); newton: "
        "second-order steps (Kullback-Leibler only); mu: multiplicative updates; auto: cd for the Frobenius "
        "loss, newton for Kullback-Leibler, else mu.",
        type=click.Choice(["auto", *SOLVERS]),
        default="auto",
    )
    init: str | None = option(
        "Start of W and H.  [default: depends on size, loss and missing values; random with --n-init]",
        type=click.Choice([name for name in get_args(Init) if name != "custom"]),
    )
    sample_bytes: int = option(
        "Total size of the rows that --init sample draws.  [default: 64 MiB]",
        type=BYTES,
        default=SAMPLE_BYTES,
        show_default=False,
    )
    max_iter: int = option("Largest number of passes over SOURCE after the start.", default=200)
    tol: float = option(
        "Stop when two passes in a row each lower the objective by at most this share of it; 0: run "
        "--max-iter passes.",
        default=1e-4,
    )
    random_state: int | None = option(
        "Seed of the random numbers.  [default: random, and stored in RUN]", type=int
    )
    alpha_W: float = option("Strength of the penalty on W.", "--alpha-w", default=0.0)
    alpha_H: float | None = option(
        "Strength of the penalty on H.  [default: --alpha-w]", "--alpha-h", type=float
    )
    l1_ratio: float = option("Share of the L1 norm in the penalties.", default=0.0)
    dtype: str | None = option(
        "Precision of W, H and products.  [default: float32 for float32 and integers of at most 16 bits, "
        "else float64]",
        type=click.Choice(["float32", "float64"]),
    )


@dataclass(frozen=True, kw_only=True)
class ConstrainedModelOptions(ModelOptions):
    """Options of the model that `consensus` does not take."""

    sum_to_one: bool = flag("Make the rows of W sum to one, as the fractions of a pixel do.")
    fixed_components: str | None = option(
        "Known rows of H, which stay fixed: .npy, .csv (one row for each component, such as spectra.csv of "
        "an export) or a Zarr array.",
        metavar="FILE",
    )
    holdout: float | None = option(
        "Hide this share of the entries from the fit, and report the loss over them.",
        type=float,
        metavar="SHARE",
    )


@dataclass(frozen=True, kw_only=True)
class FitJob(RunOptions, MatrixOptions, StackOptions, ModelOptions):
    """Arguments and options that `fit`, `sweep` and `consensus` share, from the command line and a TOML file.

    Raises
    ------
    click.UsageError
        If an argument is missing, or options contradict each other.
    """

    places: tuple[str, ...] = argument(nargs=-1, required=True, metavar="SOURCE... RUN")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.places) < 2:
            raise click.UsageError(
                f"one argument is given, {self.run!r}, and two are needed: SOURCE and RUN."
            )
        self.check_matrix_options(is_stack=self.is_stack)

    @property
    def sources(self) -> tuple[str, ...]:
        return self.places[:-1]

    @property
    def run(self) -> str:
        return self.places[-1]

    @property
    def is_stack(self) -> bool:
        return self.is_stack_at(self.sources)

    def parameters(self) -> dict[str, Any]:
        """Parameters of `NMF` but for `n_components` and `n_init`, without those that keep their defaults."""
        values = {each.name: getattr(self, each.name) for each in fields(ModelOptions)}
        if not self.is_stack:
            values["missing_values"] = missing_of_matrix(self.missing)
        return {name: value for name, value in values.items() if value is not None}

    @contextmanager
    def working(self) -> Iterator[tuple[Any, dict[str, Any], dict[str, Any]]]:
        """Context in which the job is done: signals, time limit, heartbeat, scheduler and progress.

        Returns
        -------
        V : array
            Input of `NMF.fit`.
        parameters : dict
            Parameters of `NMF` but for `n_components` and `n_init`.
        options : dict
            ``checkpoint``, ``overwrite``, ``stage`` and ``callbacks``, for fits, sweeps and consensus.

        Raises
        ------
        SourceError, SchedulerError, UnavailableError
            If a source or scheduler cannot be opened, or does not answer.
        """
        stop = Stop(self.run, overwrite=self.overwrite, max_seconds=self.max_seconds)
        heartbeat = Heartbeat(self.heartbeat)

        passes = 0

        def committed(record: Record) -> None:
            nonlocal passes
            passes += 1
            stop.committed(record)
            heartbeat.committed()
            report(record)
            if stop.is_due(record.seconds) and not _is_finished(self.run):
                stop.exit_before_limit()

        with ExitStack() as stack:
            stack.enter_context(stop.listening())
            if is_json():
                stack.enter_context(json_records())
            parameters = self.parameters()
            stop.resumes = not self.overwrite and _has_commits(self.run)
            if is_json():
                facts = {"sources": self.sources, "run": self.run, "scheduler": self.scheduler}
                event("start", "start", **facts, version=__version__, resumed=stop.resumes)
            stack.enter_context(heartbeat.beating())
            heartbeat.client = stack.enter_context(self.computing())
            report = stack.enter_context(progress(self.max_iter, workers=heartbeat.workers))
            V = self.stack(self.sources) if self.is_stack else self.matrix(self.sources)
            stack.enter_context(advising())
            options = {"checkpoint": self.run, "overwrite": self.overwrite, "stage": self.stage}
            yield V, parameters, options | {"callbacks": [committed]}
            if not passes:
                note(
                    f"{self.run} had ended before, and nothing was computed: a larger --max-iter or a "
                    "smaller --tol continues it, --overwrite starts over"
                )

    def report_next_steps(self) -> None:
        """Write where W and H are, and the commands that use them."""
        result(f"W and H: dasknmf.open_run({self.run!r})")
        if self.is_stack:
            maps = "maps.tif" if is_raster(self.sources) else "maps.zarr"
            page = f"HTML report: dasknmf report {self.run}"
            result(f"maps: dasknmf export {self.run} {maps}   {page}")
        elif anndata_at(self.sources) is not None:
            # None of several AnnData files has all the cells of W.
            export = f"dasknmf export {self.run} {self.sources[0]}"
            into = f"   into the AnnData: {export}" if len(self.sources) == 1 else ""
            result(f"genes: dasknmf top {self.run}{into}")


@dataclass(frozen=True, kw_only=True)
class ConstrainedJob(FitJob, ConstrainedModelOptions):
    """Arguments and options that `fit` and `sweep` share."""

    def parameters(self) -> dict[str, Any]:
        """The parameters of a `FitJob`, with constraints.

        Raises
        ------
        SourceError
            If the file of fixed components cannot be read.
        """
        fixed = None if self.fixed_components is None else rows_at(self.fixed_components)
        return super().parameters() | {"sum_to_one": self.sum_to_one, "fixed_components": fixed}


def _has_commits(run: str) -> bool:
    """Whether a run store has readable commits."""
    with suppress(DaskNMFError):
        return len(open_run(run).history) > 0
    return False


def _is_finished(run: str) -> bool:
    """Whether a run has no more passes to do."""
    opened = open_run(run)
    return opened.status != "running" and not is_unfinished(opened)
