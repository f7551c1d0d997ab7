"""What every command that factorizes has: its options, and the job that they describe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import click

from dasknmf import __version__, open_run
from dasknmf.cli.fixed_components import known_rows
from dasknmf.cli.heartbeat import Pulse, checked
from dasknmf.cli.options import Beta, Bytes, configured, scheduler_options
from dasknmf.cli.output import FORMATS, JSON, json_records, resulted, said
from dasknmf.cli.progress import progress
from dasknmf.cli.scheduling import Where
from dasknmf.cli.signals import Stop, stopping
from dasknmf.cli.signals_early import TRY_AGAIN
from dasknmf.cli.sources import Choice, anndata_at, source_options
from dasknmf.cli.stacks import Scene, missing_of_matrix, stack_options
from dasknmf.core.history import Record
from dasknmf.core.solvers.table import SOLVERS
from dasknmf.errors import DaskNMFError
from dasknmf.fitting.model import SAMPLE_BYTES, Init
from dasknmf.plots.report.facts_many import is_unfinished
from dasknmf.singlecell.genes_mask import advising
from dasknmf.stacks.geotiff_in import is_raster

places_argument = click.argument("places", nargs=-1, required=True, metavar="SOURCE... RUN")

model_options = [
    click.option("--beta-loss", type=Beta(), default="frobenius", show_default=True),
    click.option("--solver", type=click.Choice(["auto", *SOLVERS]), default="auto", show_default=True),
    click.option("--init", type=click.Choice([each for each in get_args(Init) if each != "custom"])),
    click.option(
        "--sample-bytes", type=Bytes(), default=SAMPLE_BYTES, help="Of --init sample.  [default: 64 MiB]"
    ),
    click.option("--max-iter", type=int, default=200, show_default=True, help="Most exact passes."),
    click.option("--tol", type=float, default=1e-4, show_default=True),
    click.option("--random-state", type=int),
    click.option("--alpha-w", type=float, default=0.0, show_default=True),
    click.option("--alpha-h", type=float, help="Default: as --alpha-w."),
    click.option("--l1-ratio", type=float, default=0.0, show_default=True),
]

known_options = [
    click.option("--sum-to-one", is_flag=True, help="Rows of W sum to one, as fractions of a pixel do."),
    click.option(
        "--fixed-components",
        metavar="FILE",
        help="Known rows of H, which stay: .npy, .csv (a row for each, also the spectra.csv of an export) "
        "or a Zarr array.",
    ),
]

holdout_option = click.option(
    "--holdout",
    type=float,
    metavar="SHARE",
    help="Hide this share of the entries from the fit and tell the loss over them.",
)

data_options = [
    *stack_options,
    *source_options,
    click.option("--dtype", type=click.Choice(["float32", "float64"])),
]

run_options = [
    *scheduler_options,
    click.option(
        "--stage",
        metavar="memory|DIRECTORY",
        help="Keep SOURCE in memory, or in a directory, after the first pass has read it.",
    ),
    click.option("--overwrite", is_flag=True, help="Start over where RUN holds a run."),
    click.option(
        "--max-seconds",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Stop by then, before a pass that would not end in time, as a signal does: with exit code "
        f"{TRY_AGAIN}, to be started again.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(FORMATS),
        default="text",
        show_default=True,
        help="json: every line on stderr is an object; one for each pass.",
    ),
    click.option(
        "--heartbeat",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        callback=checked,
        help="Touch this file every 10 s while this process lives and a cluster's scheduler answers; it does "
        "not tell of a pass that hangs.",
    ),
    click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=configured,
        help="A TOML file with any of these options; the command line goes before it.",
    ),
]


@dataclass(frozen=True)
class Job:
    """What a command is to factorize, and how.

    Parameters
    ----------
    V : array
        As `NMF.fit` takes it.
    sources : tuple of str
    run : str
        Where every pass is committed.
    nmf : dict
        Parameters of `NMF`, but for the number of components.
    fit : dict
        What `NMF.fit`, `rank_sweep` and `consensus` have in common: ``checkpoint``, ``overwrite``,
        ``stage``, ``callbacks``.
    stacked : bool
        Whether V is a stack of images.
    """

    V: Any
    sources: tuple[str, ...]
    run: str
    nmf: dict[str, Any]
    fit: dict[str, Any]
    stacked: bool

    @property
    def given(self) -> dict[str, Any]:
        """The parameters without those that are left to whoever is called."""
        return {name: value for name, value in self.nmf.items() if value is not None}

    def tell_where(self) -> None:
        """Say where W and H are, and what one may do with them."""
        resulted(f"W and H: dasknmf.open_run({self.run!r})")
        if self.stacked:
            maps = "maps.tif" if is_raster(self.sources) else "maps.zarr"
            page = f"a page to look at: dasknmf report {self.run}"
            resulted(f"maps: dasknmf export {self.run} {maps}   {page}")
        elif anndata_at(self.sources) is not None:
            # Of several, none has all the cells of W.
            export = f"dasknmf export {self.run} {self.sources[0]}"
            into = f"   into the AnnData: {export}" if len(self.sources) == 1 else ""
            resulted(f"genes: dasknmf top {self.run}{into}")


@contextmanager
def job(places: tuple[str, ...], options: dict[str, Any]) -> Iterator[Job]:
    """The job that the options above describe, its progress told while it is done.

    Parameters
    ----------
    places : tuple of str
        The sources, and where the run goes.
    options : dict
        Values of the options above; others are taken for parameters of `NMF`.

    Raises
    ------
    click.UsageError
        If something is missing, or options do not go together.
    SourceError, SchedulerError, UnavailableError
        If what they name cannot be opened, or does not answer.
    """
    *sources, run = places
    if not sources:
        raise click.UsageError(f"one argument is given, {run!r}, and two are needed: SOURCE and RUN.")
    options = dict(options)
    choice, scene, where = _taken(Choice, options), _taken(Scene, options), _taken(Where, options)
    heartbeat = options.pop("heartbeat")
    as_json = options.pop("log_format") == JSON
    alpha_w, alpha_h = options.pop("alpha_w"), options.pop("alpha_h")
    options |= {"alpha_W": alpha_w, "alpha_H": "same" if alpha_h is None else alpha_h}
    told = {"checkpoint": run} | {name: options.pop(name) for name in ("overwrite", "stage")}

    def say(line: str) -> None:
        said("stopped", line, as_json=as_json, exit_code=TRY_AGAIN)

    stop = Stop(run, overwrites=told["overwrite"], say=say, max_seconds=options.pop("max_seconds"))
    pulse = Pulse(heartbeat, as_json=as_json)

    def committed(record: Record) -> None:
        stop.committed(record)
        pulse.committed()
        report(record)
        stop.before_the_limit(record, finished=lambda: _finished(run))

    with ExitStack() as within:
        within.enter_context(stopping(stop))
        if as_json:
            within.enter_context(json_records())
        if options.get("fixed_components") is not None:
            options["fixed_components"] = known_rows(options["fixed_components"])
        where.serve()
        stop.goes_on = not told["overwrite"] and _begun(run)
        if as_json:
            begins = {"sources": sources, "run": run, "scheduler": where.scheduler, "version": __version__}
            said("start", "start", as_json=True, **begins, goes_on=stop.goes_on)
        within.enter_context(pulse.beating())
        pulse.client = within.enter_context(where.computing())
        stack = scene.of(sources)
        if stack is None:
            options["missing_values"] = missing_of_matrix(scene.missing)
        else:
            choice.refuse_for_stacks()
        with progress(options["max_iter"], as_json=as_json, workers=pulse.workers) as report:
            V = choice.of(tuple(sources)) if stack is None else stack
            with advising():
                told["callbacks"] = [committed]
                yield Job(V, tuple(sources), run, options, told, stack is not None)


def _begun(run: str) -> bool:
    """Whether a run has commits, sound or not."""
    with suppress(DaskNMFError):
        return len(open_run(run).history) > 0
    return False


def _finished(run: str) -> bool:
    """Whether a run, which is sound, has no pass before it."""
    opened = open_run(run)
    return opened.status != "running" and not is_unfinished(opened)


def _taken(kind: Any, options: dict[str, Any]) -> Any:
    """An object of the options that have the names of its fields; they are taken out."""
    return kind(**{each.name: options.pop(each.name) for each in fields(kind)})
