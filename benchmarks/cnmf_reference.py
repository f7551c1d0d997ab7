"""cNMF's own package on one matrix of counts: run by `benchmarks.consensus` with a Python that has it.

Imports nothing of this project, whose libraries may be of other versions.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import matplotlib
from cnmf import cNMF

matplotlib.use("Agg")


NAME = "reference"


def main(directory: Path, settings: dict[str, float]) -> None:
    """Its steps, in turn; seconds of each into ``seconds.json``, everything else where cNMF puts it."""
    k = int(settings["n_components"])
    threshold = float(settings["density_threshold"])
    one = cNMF(output_dir=str(directory), name=NAME)
    steps = {
        "prepare": lambda: one.prepare(
            counts_fn=str(directory / "counts.h5ad"),
            components=[k],
            n_iter=int(settings["n_init"]),
            seed=int(settings["seed"]),
            num_highvar_genes=int(settings["n_genes"]),
        ),
        "factorize": lambda: one.factorize_multi_process(total_workers=int(settings["processes"])),
        "combine": lambda: one.combine(components=[k]),
        "consensus": lambda: one.consensus(
            k=k, density_threshold=threshold, show_clustering=False, build_ref=False
        ),
    }
    seconds = {}
    for name, step in steps.items():
        began = time.perf_counter()
        step()
        seconds[name] = time.perf_counter() - began
    (directory / "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
