"""``dasknmf demo``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import click
import numpy as np
import zarr

from dasknmf import NMF, open_run
from dasknmf.cli.options import argument, command
from dasknmf.cli.progress import progress
from dasknmf.cli.scheduling import SchedulerOptions
from dasknmf.cli.summary import summary
from dasknmf.errors import SourceError
from dasknmf.store.run import Run


@dataclass(frozen=True, kw_only=True)
class DemoJob(SchedulerOptions):
    """Arguments and options of `demo`."""

    directory: Path = argument(default="dasknmf-demo", type=click.Path(path_type=Path))


@command(DemoJob)
def demo(job: DemoJob) -> None:
    """Factorize a hyperspectral scene and draw abundance maps.

    The scene (Indian Pines), the run and the picture are written to DIRECTORY.
    """
    source, shape = stored_scene(job.directory)
    run = job.directory / "run.zarr"
    model = NMF(16, max_iter=60, random_state=0)
    with job.computing(), progress(model.max_iter) as report:
        model.fit(source, checkpoint=run, overwrite=True, callbacks=[report])
    picture = draw(open_run(run), shape, job.directory / "abundances.png")
    click.echo(summary(open_run(run)))
    click.echo(f"abundance maps: {picture}")
    click.echo(f"the scene: {source}   the run: {run}   more: dasknmf info {run}")


def stored_scene(directory: Path) -> tuple[Path, tuple[int, int]]:
    """Write Indian Pines (145 x 145 pixels, 200 bands) as a matrix, pixels by bands.

    Returns
    -------
    path : Path
        The Zarr array.
    shape : tuple of int
        Rows and columns of pixels.

    Raises
    ------
    SourceError
        If the package that ships the scene is not installed.
    """
    try:
        file = files("tensorly.datasets") / "data" / "Indian_pines_corrected.npy"
        scene = np.load(str(file))
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise SourceError(
            f"the scene cannot be loaded ({error}); it is a part of the package tensorly: "
            "pip install 'dasknmf[demo]'."
        ) from error
    rows, columns, bands = scene.shape
    V = scene.reshape(rows * columns, bands)
    path = directory / "indian_pines.zarr"
    array = zarr.create_array(path, shape=V.shape, chunks=(columns * 8, bands), dtype=V.dtype, overwrite=True)
    array[...] = V
    return path, (rows, columns)


def draw(run: Run, shape: tuple[int, int], path: Path) -> Path:
    """Draw the abundance maps of a run to a PNG file, each above its spectrum.

    Each map has its own scale from zero; the component with the largest share of the signal comes first.

    Returns
    -------
    path : Path
    """
    from matplotlib.figure import Figure

    from dasknmf import plots

    shares, H = run.shares, run.H
    order = np.argsort(-shares)
    labels = [f"component {component}   {shares[component]:.0%} of the signal" for component in order]
    across = min(4, len(order))
    down = -(-len(order) // across)
    figure = Figure(figsize=(3.1 * across, 3.6 * down), layout="constrained")
    grid = figure.subplots(2 * down, across, squeeze=False, gridspec_kw={"height_ratios": [4, 1] * down})
    plots.abundances(run.W[:, order], shape, scale="own", labels=labels, ax=grid[::2])
    for panel in plots.components(H[order], kind="spectra", labels=[""] * len(order), ax=grid[1::2]):
        panel.set_yticks([])
        panel.set_xlabel("band", fontsize=7)
    for spare in (*grid[::2].ravel()[len(order) :], *grid[1::2].ravel()[len(order) :]):
        spare.set_axis_off()
    figure.savefig(path, dpi=110)
    return path
