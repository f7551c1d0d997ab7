"""A hyperspectral scene out of a Zarr store: the demo in Python, on threads and on a cluster.

Run with `python examples/hyperspectral.py [DIRECTORY]`; needs `pip install 'dasknmf[demo]'`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from distributed import Client, LocalCluster

from dasknmf import NMF, open_run
from dasknmf.cli.demo import draw, stored_scene


def main(directory: Path) -> None:
    source, shape = stored_scene(directory)
    model = NMF(n_components=8, random_state=0, max_iter=300, tol=1e-3)

    # On this process's threads. Start the script again and a finished run is only read.
    model.fit(source, checkpoint=directory / "threads.zarr")
    on_threads = open_run(directory / "threads.zarr")

    # The same on a cluster: making a Client is all that changes, and not one bit of the result does.
    with LocalCluster(threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        model.fit(source, checkpoint=directory / "cluster.zarr")
    on_cluster = open_run(directory / "cluster.zarr")
    assert np.array_equal(on_threads.H, on_cluster.H)

    history = on_threads.history
    print(f"{on_threads}: relative error {relative_error(model, source):.4f}, {history.reads:g} reads")
    print(f"abundance maps: {draw(on_threads, shape, directory / 'abundances.png')}")


def relative_error(model: NMF, source: Path) -> float:
    import zarr

    V = zarr.open_array(source, mode="r")[...].astype(float)
    return float(model.reconstruction_err_ / np.linalg.norm(V))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dasknmf-demo"))
