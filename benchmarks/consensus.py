"""Consensus programs of celltypist's counts, beside those of cNMF's own package.

cNMF prepares the counts, and both factorize the matrix that it writes: its over-dispersed genes, of unit
variance. Its package lives in an environment of its own, whose Python is given; without one, ours are
compared with each other. *cosine*: of programs matched one to one (Hungarian), as spectra of unit length;
*scores*: that of their z-scores for all genes. Seconds are from the normalised matrix to programs, usages,
z-scores and TPM spectra of all genes, on both sides.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import anndata
import click
import dask
import numpy as np
import pandas as pd
import scipy.optimize
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning

from benchmarks import real
from benchmarks.runner import report
from dasknmf import Prepared, consensus, highly_variable, moments
from dasknmf.selection.matching import unit_rows

_REFERENCE = Path(__file__).with_name("cnmf_reference.py")
_CORES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


Found = tuple[np.ndarray, np.ndarray]
"""Spectra, and z-scores of all genes."""


def agreement(name: str, ours: Found, theirs: Found) -> dict[str, Any]:
    """A row about two sets of programs."""
    similarity, of_scores = (unit_rows(a) @ unit_rows(b).T for a, b in zip(ours, theirs, strict=True))
    pairs = scipy.optimize.linear_sum_assignment(-similarity)
    return {
        "what": name,
        "median cosine": float(np.median(similarity[pairs])),
        "least cosine": float(similarity[pairs].min()),
        "median scores": float(np.median(of_scores[pairs])),
        "least scores": float(of_scores[pairs].min()),
    }


def reference(
    python: Path, counts: scipy.sparse.csr_array, directory: Path, settings: dict[str, float]
) -> tuple[Any, Found, dict[str, float]]:
    """cNMF's normalised matrix, what it found, and its seconds."""
    cells = pd.Index([f"cell {i}" for i in range(counts.shape[0])])
    genes = pd.Index([f"gene {j}" for j in range(counts.shape[1])])
    made = anndata.AnnData(
        scipy.sparse.csr_matrix(counts), obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes)
    )
    made.write_h5ad(directory / "counts.h5ad")
    alone = dict.fromkeys(_CORES, "1")  # its processes are what it has in parallel
    subprocess.run(
        [python, _REFERENCE, directory, json.dumps(settings)],
        check=True,
        env=os.environ | alone,
        stdout=subprocess.DEVNULL,
    )
    where = directory / "reference"
    threshold = f"{settings['density_threshold']:g}".replace(".", "_")
    told = f"k_{settings['n_components']:.0f}.dt_{threshold}"
    spectra, scores = (
        pd.read_csv(where / f"reference.{name}.txt", sep="\t", index_col=0).to_numpy()
        for name in (f"spectra.{told}.consensus", f"gene_spectra_score.{told}")
    )
    V = anndata.read_h5ad(where / "cnmf_tmp" / "reference.norm_counts.h5ad").X
    return V, (spectra, scores), json.loads((directory / "seconds.json").read_text())


def timed(V: Any, tpm: Any, seed: int, settings: dict[str, float]) -> tuple[Found, dict[str, Any]]:
    """One consensus of ours, and a row about it."""
    began = time.perf_counter()
    found = consensus(
        V,
        int(settings["n_components"]),
        n_init=int(settings["n_init"]),
        density_threshold=settings["density_threshold"],
        random_state=seed,
    )
    scores = found.scores(tpm)
    found.spectra_in(tpm)
    row = {
        "what": f"ours, seed {seed}",
        "seconds": time.perf_counter() - began,
        "reads": found.n_reads,
        "kept": int(found.kept.sum()),
        "silhouette": found.silhouette,
        "loss": found.loss,
    }
    return (found.spectra, scores), row


@click.command()
@click.option("--cnmf-python", type=click.Path(exists=True, path_type=Path), help="A Python that has cnmf.")
@click.option("-k", default=8, show_default=True, help="Programs.")
@click.option("--n-init", default=100, show_default=True)
@click.option("--density-threshold", default=0.5, show_default=True)
@click.option("--genes", default=2000, show_default=True, help="Over-dispersed ones.")
@click.option("--threads", default=2, show_default=True, help="Threads of ours, processes of cNMF's.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    cnmf_python: Path | None,
    k: int,
    n_init: int,
    density_threshold: float,
    genes: int,
    threads: int,
    out: Path | None,
) -> None:
    """Two runs of ours with different seeds, and one of cNMF's."""
    settings = {
        "n_components": k,
        "n_init": n_init,
        "density_threshold": density_threshold,
        "n_genes": genes,
        "seed": 14,
        "processes": threads,
    }
    counts = scipy.sparse.csr_array(real.expression().astype(np.float64))
    tpm = Prepared(counts, target_sum=1e6)
    rows: list[dict[str, Any]] = []
    theirs = None
    with (
        tempfile.TemporaryDirectory() as directory,
        warnings.catch_warnings(),
        dask.config.set(scheduler="threads", num_workers=threads),
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)
        if cnmf_python is None:
            chosen = highly_variable(moments(tpm), genes)
            V: Any = Prepared(counts, columns=chosen, scale=moments(counts).std()[chosen])
        else:
            V, theirs, seconds = reference(cnmf_python, counts, Path(directory), settings)
            fitted = seconds["factorize"] + seconds["combine"] + seconds["consensus"]
            rows.append({"what": "cNMF", "seconds": fitted, "seconds to factorize": seconds["factorize"]})
        timed(V, tpm, 0, settings | {"n_init": 4, "density_threshold": 2.0})  # compiles
        found = []
        for seed in (0, 1):
            one, row = timed(V, tpm, seed, settings)
            found.append(one)
            rows.append(row)
    rows.append(agreement("ours, two seeds", *found))
    if theirs is not None:
        rows += [agreement(f"ours, seed {seed}, and cNMF", one, theirs) for seed, one in enumerate(found)]
    report("consensus", rows, out)


if __name__ == "__main__":
    main()
