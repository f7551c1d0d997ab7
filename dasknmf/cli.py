"""The command line. Everything here goes through the public estimator, run and history.

Exit codes: 0 done; 1 a defect of dasknmf (with a traceback); 2 a wrong option or parameter; 3 V was
refused; 4 the run store was refused or could not be written; 5 it would not fit in memory, or its
stage on disk; 6 no usable scheduler; 130 interrupted. After 4 (disk full), 5, 6 and 130 the same
command goes on from the last commit.
"""

from __future__ import annotations

import json
import logging
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, get_args

import click
import dask
from dask.utils import format_bytes, parse_bytes
from distributed import KilledWorker
from sklearn.exceptions import ConvergenceWarning

from dasknmf import NMF, __version__, open_run
from dasknmf.errors import (
    DataError,
    MemoryLimitError,
    NumericalError,
    RunError,
    SchedulerError,
    SourceError,
    StageError,
)
from dasknmf.history import Ending, Record
from dasknmf.losses import NAMES
from dasknmf.model import SAMPLE_BYTES, Init

_CODES: dict[type[Exception], int] = {
    DataError: 3,
    SourceError: 3,
    RunError: 4,
    MemoryLimitError: 5,
    StageError: 5,
    SchedulerError: 6,
    KilledWorker: 6,
    NumericalError: 3,
    ValueError: 2,
    TypeError: 2,
    OSError: 3,
}


def _friendly(command: Callable[..., None]) -> Callable[..., None]:
    """A user's mistake is one line and an exit code, not a traceback."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            click.echo("interrupted: the same command goes on from the last commit", err=True)
            # What Zarr's event loop had begun dies with this process, as it should, but not in silence.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            sys.exit(130)
        except tuple(_CODES) as error:
            text = " ".join(str(error).split()).replace("overwrite=True", "--overwrite")
            click.echo(f"Error: {text}", err=True)
            sys.exit(next(code for kind, code in _CODES.items() if isinstance(error, kind)))

    return run


class _Beta(click.ParamType):
    name = "NUMBER|NAME"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | str:
        if value in NAMES:
            return str(value)
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor one of {', '.join(NAMES)}", param, ctx)


class _Bytes(click.ParamType):
    name = "BYTES"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            return int(parse_bytes(value))
        except ValueError:
            self.fail(f"{value!r} is not a size such as 64MiB", param, ctx)


class _Count(click.ParamType):
    name = "INTEGER|auto"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        if value == "auto":
            return "auto"
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither an integer nor 'auto'", param, ctx)


def _configured(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Values of a TOML file become the defaults of the options of the same names."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} is not TOML ({error}): correct it.") from error
    known = {each.name for each in ctx.command.params if each.name not in ("source", "run", "config")}
    given = {name.replace("-", "_").lower(): value for name, value in values.items()}
    if unknown := sorted(given.keys() - known):
        raise click.BadParameter(
            f"{path} sets {unknown}; the options, at the top level, are {sorted(filter(None, known))}."
        )
    ctx.default_map = given
    return path


_scheduler_options = [
    click.option(
        "--scheduler",
        default="threads",
        show_default=True,
        metavar="threads|sync|local|ADDRESS",
        help="This process's threads, one thread, a cluster of this machine's cores, or a running "
        "scheduler (tcp://…, tls://…).",
    ),
    click.option(
        "--scheduler-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Connect to the scheduler that wrote this file.",
    ),
]


def _with(options: list[Any]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group()
@click.version_option(__version__)
def main() -> None:
    """Nonnegative matrix factorization of matrices that do not fit in memory."""


@main.command()
@click.argument("source")
@click.argument("run")
@click.option("-k", "--n-components", type=_Count(), required=True, help="Components to find.")
@click.option("--beta-loss", type=_Beta(), default="frobenius", show_default=True)
@click.option("--solver", type=click.Choice(["auto", "cd", "bpp", "mu"]), default="auto", show_default=True)
@click.option("--init", type=click.Choice([each for each in get_args(Init) if each != "custom"]))
@click.option(
    "--sample-bytes", type=_Bytes(), default=SAMPLE_BYTES, help="Of --init sample.  [default: 64 MiB]"
)
@click.option("--max-iter", type=int, default=200, show_default=True, help="Most exact passes.")
@click.option("--tol", type=float, default=1e-4, show_default=True)
@click.option("--random-state", type=int)
@click.option("--alpha-w", type=float, default=0.0, show_default=True)
@click.option("--alpha-h", type=float, help="Default: as --alpha-w.")
@click.option("--l1-ratio", type=float, default=0.0, show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "float64"]))
@_with(_scheduler_options)
@click.option(
    "--stage",
    metavar="memory|DIRECTORY",
    help="Keep SOURCE in memory, or in a directory, after the first pass has read it.",
)
@click.option("--overwrite", is_flag=True, help="Start over where RUN holds a run.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_configured,
    help="A TOML file with any of these options; the command line goes before it.",
)
@_friendly
def fit(
    source: str,
    run: str,
    scheduler: str,
    scheduler_file: Path | None,
    stage: str | None,
    overwrite: bool,
    alpha_w: float,
    alpha_h: float | None,
    **parameters: Any,
) -> None:
    """Factorize the Zarr array SOURCE; commit every pass to RUN.

    The same command started again goes on from the last commit; with a larger --max-iter or a
    smaller --tol a finished run is continued.
    """
    model = NMF(alpha_W=alpha_w, alpha_H="same" if alpha_h is None else alpha_h, **parameters)
    with _scheduled(scheduler, scheduler_file), _progress(model.max_iter) as report:
        model.fit(source, checkpoint=run, overwrite=overwrite, stage=stage, callbacks=[report])
    click.echo(_summary(open_run(run)))
    click.echo(f"W and H: dasknmf.open_run({run!r})")


@main.command()
@click.argument("run")
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@_with(_scheduler_options)
@_friendly
def transform(run: str, source: str, out: Path, scheduler: str, scheduler_file: Path | None) -> None:
    """Write W of the Zarr array SOURCE, for the H of RUN, to the new Zarr array OUT."""
    from dasknmf.outputs import write_rows

    model = NMF.from_run(run)
    with _scheduled(scheduler, scheduler_file):
        write_rows(model.transform(source), out)
    click.echo(f"W: {out}")


@main.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@_friendly
def info(run: str, as_json: bool) -> None:
    """Say what RUN is and how far it has come."""
    opened = open_run(run)
    if not as_json:
        click.echo(_summary(opened))
        return
    from dataclasses import asdict

    last = opened.history[-1] if len(opened.history) else None
    content = {
        "status": opened.status,
        "shape": opened.shape,
        "params": opened.params,
        "environment": opened.environment,
        "n_iter": opened.n_iter,
        "last": None if last is None else asdict(last),
    }
    click.echo(json.dumps(content, indent=2))


@main.command()
@click.argument("directory", default="dasknmf-demo", type=click.Path(path_type=Path))
@_with(_scheduler_options)
@_friendly
def demo(directory: Path, scheduler: str, scheduler_file: Path | None) -> None:
    """Factorize a hyperspectral scene (Indian Pines) out of a Zarr store in DIRECTORY."""
    from dasknmf.demo import draw, stored_scene

    source, shape = stored_scene(directory)
    run = directory / "run.zarr"
    model = NMF(16, max_iter=60, random_state=0)
    with _scheduled(scheduler, scheduler_file), _progress(model.max_iter) as report:
        model.fit(source, checkpoint=run, overwrite=True, callbacks=[report])
    picture = draw(open_run(run), shape, directory / "abundances.png")
    click.echo(_summary(open_run(run)))
    click.echo(f"abundance maps: {picture}")
    click.echo(f"the scene: {source}   the run: {run}   more: dasknmf info {run}")


@contextmanager
def _scheduled(scheduler: str, scheduler_file: Path | None) -> Iterator[None]:
    """Compute with the scheduler that the options name."""
    local = {"threads": "threads", "sync": "synchronous"}
    if scheduler_file is None and scheduler in local:
        with dask.config.set(scheduler=local[scheduler]):
            yield
        return
    from distributed import Client, LocalCluster

    if scheduler_file is None and scheduler == "local":
        with (
            LocalCluster(threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
            Client(cluster),
        ):
            yield
        return
    if scheduler_file is None and "://" not in scheduler:
        raise SchedulerError(
            f"the scheduler {scheduler!r} is unknown; it must be threads, sync, local or an address such "
            "as tcp://host:8786: correct it."
        )
    try:
        client = Client(scheduler_file=str(scheduler_file)) if scheduler_file else Client(scheduler)
    except (OSError, ValueError) as error:
        where = scheduler_file or scheduler
        raise SchedulerError(
            f"no scheduler answers at {where} ({error}); it must be running and reachable: start it with "
            "'dask scheduler', or correct the address."
        ) from error
    with client:
        yield


@contextmanager
def _progress(max_iter: int) -> Iterator[Callable[[Record], None]]:
    """A bar on a terminal, one log line per pass elsewhere; warnings as single lines."""
    logging.captureWarnings(True)
    warnings.simplefilter("default", ConvergenceWarning)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log = logging.getLogger("dasknmf.cli")
    log.setLevel(logging.INFO)
    warned = logging.getLogger("py.warnings")
    quiet = logging.StreamHandler()
    quiet.setFormatter(_OneLine())
    warned.addHandler(quiet)
    warned.propagate = False
    log.addHandler(handler)
    log.propagate = False
    try:
        if sys.stderr.isatty():
            with click.progressbar(
                length=max_iter, label="start", file=sys.stderr, item_show_func=lambda text: text
            ) as bar:

                def show(record: Record) -> None:
                    bar.label = record.phase
                    bar.update(max(0, record.iteration - bar.pos), _brief(record))

                yield show
                bar.update(bar.length - bar.pos if bar.length else 0)
        else:
            yield lambda record: log.info("%s", _line(record))
    finally:
        log.removeHandler(handler)
        warned.removeHandler(quiet)
        logging.captureWarnings(False)


class _OneLine(logging.Formatter):
    """A captured warning without the place in the source that raised it."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage().split("Warning: ", 1)[-1]
        return "warning: " + text.strip().splitlines()[0]


def _brief(record: Record) -> str:
    if record.objective is None:
        return f"{record.reads:g} reads"
    return f"objective {record.objective:.6g}, {record.reads:g} reads"


def _line(record: Record) -> str:
    parts = [f"{record.phase} {record.iteration}"]
    if record.objective is not None:
        parts.append(f"objective {record.objective:.8g}")
    if record.change is not None:
        parts.append(f"change {record.change:.2e}")
    parts.append(f"{record.seconds:.2f} s")
    parts.append(f"{format_bytes(record.bytes_read)} read")
    parts.append(f"{record.reads:g} reads of V so far")
    return "  ".join(parts)


def _summary(run: Any) -> str:
    n, m = run.shape
    lines = [f"V: {n} x {m}   components: {run.params['n_components']}   status: {run.status}"]
    named = next((name for name, beta in NAMES.items() if beta == run.params["beta_loss"]), None)
    lines.append(
        f"loss: {named or run.params['beta_loss']}   solver: {run.params['solver']}   "
        f"init: {run.params['init']}"
    )
    if len(run.history):
        last = run.history[-1]
        seconds = sum(record.seconds for record in run.history)
        read = format_bytes(sum(record.bytes_read for record in run.history))
        lines.append(f"passes: {run.n_iter}   reads of V: {last.reads:g}   {seconds:.1f} s   {read} read")
        if last.loss is not None:
            closed = last.phase == "closing"
            where = "of these W and H" if closed else f"at the {last.loss_at} of the last pass"
            lines.append(f"loss D(V | WH): {last.loss:.8g}   {where}")
    if run.status != "running":
        lines.append(Ending(run.status).advice)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
