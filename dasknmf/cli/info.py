"""``dasknmf info``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import click
from msgspec import to_builtins

from dasknmf import open_run
from dasknmf.cli.options import argument, command, flag
from dasknmf.cli.summary import summary
from dasknmf.plots.report.models import is_unfinished, models_facts


@dataclass(frozen=True, kw_only=True)
class InfoJob:
    """Arguments and options of `info`."""

    run: str = argument()
    as_json: bool = flag("Write one JSON object.", "--json")


@command(InfoJob)
def info(job: InfoJob) -> None:
    """Show the data, the parameters and the progress of RUN."""
    opened = open_run(job.run)
    if not job.as_json:
        click.echo(summary(opened))
        return
    last = opened.history[-1] if len(opened.history) else None
    layout = opened.layout
    content = {
        "status": "running" if is_unfinished(opened) else opened.status,
        "shape": opened.shape,
        "dims": None if layout is None else layout.geometry(),
        "params": opened.params,
        "environment": opened.environment,
        "n_iter": opened.n_iter,
        "n_unobserved_samples": opened.n_unobserved_samples,
        "n_unobserved_features": opened.n_unobserved_features,
        "many": to_builtins(opened.identity.many),
        "models": dict(models_facts(opened)).get("models"),
        "best": (opened.found or {}).get("best"),
        "last": None if last is None else asdict(last),
    }
    click.echo(json.dumps(content, indent=2))
