"""The numbers of two versions of dasknmf, compared bit for bit over a table of fits.

    python -m tests.compare_versions record old.npz       fit the table with the dasknmf that is importable
    python -m tests.compare_versions against old.npz      fit it again, and say which cases differ
    python -m tests.compare_versions between OLD [NEW]    both, for two checkouts or site directories

`between` imports each version from its own directory; without NEW it compares OLD with this checkout.
``--only TEXT`` takes the cases with TEXT in their names, ``--list`` says which these are, ``--jobs N`` fits
in N processes. The exit status is 1 where a case differs, fails or is missing.

Only what users call is called here, so versions may be laid out differently inside. Numbers are those of one
machine, whose CPU kernels are compiled for, and of one BLAS with one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import anndata
import dask
import dask.array as da
import numpy as np
import pandas as pd
import scipy.sparse as sp
import xarray as xr
import zarr
from anndata.io import write_elem
from distributed import Client, LocalCluster
from threadpoolctl import threadpool_limits

import dasknmf
from dasknmf import NMF, Prepared, open_consensus, open_run, open_sweep, singlecell
from dasknmf.stacks import StackNMF, open_stack

Numbers = dict[str, np.ndarray]
USUAL = {"n_components": 5, "init": "random", "max_iter": 6, "tol": 0.0, "random_state": 0}
NOT_COMPARED = {"seconds", "memory", "retries", "phase"}
"""Columns of a history that differ from run to run, and names of phases, which a version may rename."""
OF_A_RUN = ("H", "W", "history", "status", "n_iter", "n_passes", "shares", "sum_of_squares", "feature_names")
FAILED, SEPARATOR = "failed", " :: "
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
ADDRESS, ROOT = "COMPARE_VERSIONS_SCHEDULER", "COMPARE_VERSIONS_ROOT"
"""Environment variables: the cluster that processes share, and where dasknmf has to come from."""


# Data. A panel has 4 MiB or more: most of these are just large enough for two.


@cache
def whole(dtype: str | None = None, n: int = 3000, m: int = 360) -> np.ndarray:
    rng = np.random.default_rng(0)
    X = rng.gamma(0.5, size=(n, 4)) @ rng.gamma(0.5, size=(4, m)) + 0.1 * rng.random((n, m)) + 0.01
    return X if dtype is None else np.clip(40 * X, 1, 250).astype(dtype)


@cache
def counts() -> sp.csr_matrix:
    rng = np.random.default_rng(1)
    rates = rng.gamma(0.4, size=(6000, 4)) @ rng.gamma(0.3, size=(4, 600))
    rates[np.arange(6000), np.arange(6000) % 600] += 1  # no row, and no column, is all zeros
    return sp.csr_matrix(rng.poisson(rates).astype(np.float32))


def holed(X: np.ndarray, value: float) -> np.ndarray:
    """The matrix without a sixth of its entries, among them nearly all of a row."""
    holes = np.random.default_rng(2).random(X.shape) < 1 / 6
    holes[7, 1:] = True
    return np.where(holes, np.asarray(value, X.dtype), X)


def stored(X: np.ndarray, chunks: tuple[int, int], place: Path, **options: Any) -> zarr.Array:
    array = zarr.create_array(place / "v", shape=X.shape, chunks=chunks, dtype=X.dtype, **options)
    array[...] = X
    return array


def cells(X: sp.csr_matrix) -> anndata.AnnData:
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(X.shape[0])])
    var = pd.DataFrame(index=[f"gene{j}" for j in range(X.shape[1])])
    return anndata.AnnData(X, obs, var.assign(highly_variable=np.arange(X.shape[1]) % 3 > 0))


def in_zarr(place: Path, name: str, element: Any) -> str:
    write_elem(zarr.open_group(place / "v", mode="w"), name, element)
    return str(place / "v" / name.strip("/"))


def prepared(X: Any) -> Prepared:
    scale = 1 + np.arange(270) % 7
    return Prepared(X, target_sum=1e4, log1p=True, columns=np.arange(1, 540, 2), scale=scale)


def scene(dtype: str, seed: int = 0) -> xr.DataArray:
    """Reflectances under clouds, which are NaN or `_FillValue`; some pixels nobody has seen."""
    rng = np.random.default_rng(seed)
    spectra, maps = rng.gamma(0.7, size=(3, 6, 6)), rng.gamma(0.5, size=(3, 300, 300))
    values = 800 * np.einsum("ktb,kyx->tbyx", spectra, maps) + rng.gamma(2.0, 20.0, (6, 6, 300, 300)) + 1
    clouds = rng.random((6, 1, 300, 300)) < 0.2
    clouds[:, :, :3, :4] = True
    fill = np.asarray(np.nan if dtype == "float32" else 0, dtype)
    attrs = {} if dtype == "float32" else {"_FillValue": 0, "scale_factor": 1e-4, "add_offset": 0.0}
    days = np.datetime64("2024-01-03", "ns") + np.arange(6) * np.timedelta64(5, "D")
    coords = {"time": days, "band": [f"B{i}" for i in range(6)], "y": 10.0 * np.arange(300)[::-1]}
    values = np.where(clouds, fill, values.astype(dtype))
    return xr.DataArray(values, coords, ("time", "band", "y", "x"), "reflectance", attrs)


def stored_scene(place: Path, seed: int = 0) -> Any:
    path, obj = place / f"scene{seed}", scene("uint16", seed)
    encoding = {"chunks": (1, 6, 100, 100), "_FillValue": obj.attrs.pop("_FillValue")}
    obj.to_dataset().to_zarr(path, zarr_format=2, encoding={"reflectance": encoding}, consolidated=False)
    return open_stack(path)


def by_bands(obj: xr.DataArray) -> xr.Dataset:
    return obj.to_dataset(dim="band", promote_attrs=True)


CUTS = ((700, 500, 1200, 600), (170, 190))
NO_ROWS = sp.csr_array((0, 0), dtype=np.float32)
DATA: dict[str, Callable[[Path], Any]] = {
    "dense": lambda place: whole(),
    "small": lambda place: whole(None, 300, 40),
    "wide": lambda place: np.ascontiguousarray(whole().T),
    "float32": lambda place: whole("float32"),
    "uint16": lambda place: whole("uint16"),
    "uint8": lambda place: whole("uint8"),
    "NaN": lambda place: holed(whole(), np.nan),
    "nodata": lambda place: stored(holed(whole("uint16"), 0), (500, 360), place),
    "rows": lambda place: stored(whole(), (500, 360), place),
    "squares": lambda place: stored(whole(), (700, 130), place),
    "columns": lambda place: stored(whole(), (3000, 50), place) and str(place / "v"),
    "shards": lambda place: stored(whole("float32"), (100, 360), place, shards=(1000, 360)),
    # So many panels that sums over these take two rounds; sums of bytes would be the same in any order.
    "many_panels": lambda place: stored(whole(None, 15_000), (500, 360), place),
    "Dask": lambda place: da.from_zarr(DATA["squares"](place)).rechunk(CUTS).map_blocks(np.sqrt),
    "CSR": lambda place: counts(),
    "CSC": lambda place: counts().tocsc(),
    "few_counts": lambda place: counts()[:600, :80],
    "Dask_counts": lambda place: da.from_zarr(stored(counts().toarray(), (1500, 600), place)),
    "sparse_Dask": lambda place: DATA["Dask_counts"](place).map_blocks(
        sp.csr_array, dtype="f4", meta=NO_ROWS
    ),
    "stored_CSR": lambda place: in_zarr(place, "X", counts()),
    "stored_CSC": lambda place: in_zarr(place, "X", counts().tocsc()),
    "AnnData": lambda place: in_zarr(place, "/", cells(counts())),
    "h5ad": lambda place: cells(counts()).write_h5ad(place / "v.h5ad") or str(place / "v.h5ad"),
    "prepared_CSR": lambda place: prepared(counts()),
    "prepared_dense": lambda place: Prepared(whole("uint8"), log1p=True, target_sum=100),
    "prepared_AnnData": lambda place: prepared(DATA["AnnData"](place)),
    "prepared_twice": lambda place: Prepared(prepared(counts()), target_sum=100),
    "cells": lambda place: cells(counts()),
    "few_cells": lambda place: cells(counts()[:600, :80]),
    "backed_cells": lambda place: anndata.read_h5ad(DATA["h5ad"](place), backed="r"),
    "NaN_scene": lambda place: scene("float32"),
    "Dask_scene": lambda place: scene("float32").chunk(y=90),
    "uint16_scene": lambda place: scene("uint16"),
    "stored_scene": stored_scene,
    "two_scenes": lambda place: (stored_scene(place), stored_scene(place, 1)),
    "bands": lambda place: by_bands(scene("uint16")),
}


# What is called, with a directory, data and options; what is returned holds the numbers.


def fit(place: Path, X: Any, *, uses: bool = False, **options: Any) -> Any:
    """`NMF`, with parameters and arguments of its `fit_transform`, functions of X among them."""
    options = {name: value(X) if callable(value) else value for name, value in options.items()}
    for name in ("checkpoint", "stage"):
        if options.get(name, "memory") != "memory":
            options[name] = place / options[name]
    given = {name: options.pop(name) for name in options.keys() - NMF().get_params().keys()}
    model = NMF(**USUAL | options)
    found = {"W": model.fit_transform(X, **given), "model": model}
    if "checkpoint" in given:
        found |= {"run": open_run(given["checkpoint"]), "of_run": NMF.from_run(given["checkpoint"])}
    if uses:
        found |= {"transform": model.transform(X), "errors": model.score_samples(X)}
        found["inverse"] = model.inverse_transform(found["W"][:50])
    return found


def resume(place: Path, X: Any, *, fails: bool = False, **parameters: Any) -> Any:
    """A fit that ends after four passes, or fails there, and goes on from its checkpoint to nine."""

    def stop(record: Any) -> None:
        if fails and record.iteration == 4:
            raise InterruptedError

    with contextlib.suppress(InterruptedError):
        first = NMF(**USUAL | parameters | {"max_iter": 9 if fails else 4})
        first.fit(X, checkpoint=place / "run", callbacks=[stop])
    # As numbers at once, since a run that goes on clears what it leaves behind.
    before = dict(numbers_of(open_run(place / "run")))
    return before, fit(place, X, **parameters, max_iter=9, checkpoint="run")


def rank_sweep(place: Path, X: Any, **options: Any) -> Any:
    told = {**USUAL, "n_components": [2, 3, 5], "n_init": 3, **options}
    found = dasknmf.rank_sweep(X, **told, checkpoint=place / "run")
    return found, open_sweep(place / "run"), open_run(place / "run")


def consensus(place: Path, X: Any, **options: Any) -> Any:
    told = {**USUAL, "n_components": 4, "n_init": 6, "density_threshold": 2.0, **options}
    found = dasknmf.consensus(X, **told, checkpoint=place / "run")
    return found, found.rethreshold(1.4), found.scores(), found.spectra_in(X), open_consensus(place / "run")


def moments(place: Path, X: Any) -> Any:
    found = dasknmf.moments(X)
    return found, found.std(), dasknmf.highly_variable(found, 50)


def function(place: Path, X: Any) -> Any:
    found = dasknmf.non_negative_factorization(X, **USUAL)
    return found, dasknmf.non_negative_factorization(X, H=found[1], update_H=False)


def programs(place: Path, adata: Any, **options: Any) -> Any:
    """Programs of an AnnData, and their usages in other cells, whose genes are in another order."""
    told = {**USUAL, "normalize": 1e4, "log1p": True, "scale": True, **options}
    singlecell.nmf(adata, **told, checkpoint=place / "run")
    others = cells(counts()[:500, ::-1])
    others.var_names = adata.var_names[::-1].to_numpy()
    singlecell.project(others, place / "run")
    return adata, singlecell.top_genes(adata).to_numpy(), others


def consensus_programs(place: Path, adata: Any, **options: Any) -> Any:
    told = {"n_init": 8, "density_threshold": 2.0, "max_iter": 8, **options}
    singlecell.consensus_nmf(adata, **told, checkpoint=place / "run")
    return adata, singlecell.top_genes(adata, key="cNMF_scores").to_numpy()


def stack(place: Path, obj: Any, *, land: bool = False, holdout: Any = None, **parameters: Any) -> Any:
    """Maps and spectra of a scene, what is made of them, and maps of another one by the model in a file."""
    mask = xr.DataArray(np.random.default_rng(4).random((300, 300)) < 0.7, dims=("y", "x")) if land else None
    model = StackNMF(**USUAL | {"n_components": 3} | parameters).fit(obj, mask=mask, holdout=holdout)
    other = scene("uint16", seed=1)[..., :90, :40]
    again = model.transform(by_bands(other) if isinstance(obj, xr.Dataset) else other)
    return model.to_dataset(), model.model_, model.inverse_transform(model.abundance[:, :20, :20]), again


def command_line(place: Path, X: Any, **lines: str) -> Any:
    """What commands leave in files."""
    paths = [str(Path(dasknmf.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | ONE_THREAD | {"PYTHONPATH": os.pathsep.join(paths)}
    line = [sys.executable, "-P", "-c", COMMANDS, *map(" ".join, lines.items())]
    done = subprocess.run(line, cwd=place, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-300:]}")
    return {name: opened(place / name) for name, opened in LEFT.items() if (place / name).exists()}


COMMANDS = """
import importlib.metadata, sys
from dasknmf.cli import main
version = importlib.metadata.version  # of a bare checkout nothing tells it
importlib.metadata.version = lambda name: "0" if name == "dasknmf" else version(name)
for line in sys.argv[1:]:
    sys.argv[1:] = line.split()
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""
"""A program that does several commands, since each would import for seconds."""
LEFT: dict[str, Callable[[Path], Any]] = {
    "run": open_run,
    "sweep": open_sweep,
    "consensus": open_consensus,
    "maps": xr.open_zarr,
    "later": xr.open_zarr,
    "w": partial(zarr.open_array, mode="r"),
    "h5ad": anndata.read_h5ad,
    "tables": lambda path: {each.name: each.read_text() for each in path.rglob("*.[ct][sx][vt]")},
}
"""Files by their names, and how each is opened."""


# The table: what is called, data and options, each of the data with each of the options.

CASES: dict[str, tuple[Callable[..., Any], str, dict[str, Any], str]] = {}
EVERYWHERE = ("threads", "synchronous", "cluster")


def cases(called: Any, data: str, *options: dict[str, Any], on: Sequence[str] = ("threads",)) -> None:
    for name in data.split():
        for each in options or ({},):
            for scheduler in on:
                where = {"on": scheduler} if scheduler != "threads" else {}
                words = [called.__name__, name, *map(_named, (each | where).items())]
                CASES[" ".join(words)] = (called, name, each, scheduler)


def _named(option: tuple[str, Any]) -> str:
    """An option in the name of a case: its value is left out where it is long."""
    return "=".join(map(str, option)) if len(str(option[1])) < 20 else option[0]


BPP, MU, KL, IS = {"solver": "bpp"}, {"solver": "mu"}, {"beta_loss": "kullback-leibler"}, {"beta_loss": 0}
HALF, MORE, LARGE, LESS = ({"beta_loss": beta} for beta in (0.5, 1.5, 3.0, -0.5))
SVD, SVDA, SVDAR = ({"init": f"nndsvd{kind}"} for kind in ("", "a", "ar"))
SAMPLE, SKETCH = {"init": "sample"}, {"init": "sketch"}
PART = {"init": "sample", "sample_bytes": 2**20}
CUSTOM = {
    "init": "custom",
    "W": lambda X: np.random.default_rng(5).random((X.shape[0], 5)),
    "H": lambda X: np.random.default_rng(6).random((5, X.shape[1])),
}
WEIGHTS = {"weights": lambda X: np.random.default_rng(7).random(X.shape)}
MARGINS = {
    "sample_weight": lambda X: np.random.default_rng(8).random(X.shape[0]) + 0.5,
    "feature_weight": lambda X: np.random.default_rng(9).random(X.shape[1]) + 0.5,
}
KNOWN = {"fixed_components": lambda X: np.asarray(X[:2])}
ONE, NAN, ZERO, HIDDEN = {"inner_iter": 1}, {"missing_values": "nan"}, {"missing_values": 0}, {"holdout": 0.1}
MIXED, SHUFFLE = {"alpha_W": 2e-3, "alpha_H": 1e-3, "l1_ratio": 0.4}, {"shuffle": True}
RUN, USES, SEVERAL = {"checkpoint": "run"}, {"uses": True}, {"n_components": 3, "n_init": 6}
TOL, MANY, SUMS = {"max_iter": 80, "tol": 1e-3}, {"n_components": 18}, {"sum_to_one": True}
KEPT, FILED = {"stage": "memory"}, {"stage": "files", "checkpoint": "run"}
NMFK, FAILS = {"method": "nmfk"}, {"fails": True}

cases(
    fit,
    "dense",
    {},
    BPP,
    MU,
    KL,
    IS,
    HALF,
    MORE,
    LARGE,
    LESS,
    ONE,
    *(ONE | each for each in (BPP, MU, KL, IS)),
)
cases(fit, "dense", SVD, SVDA, SVDAR, SAMPLE, SKETCH, PART, CUSTOM, SHUFFLE, SHUFFLE | ONE, MIXED, MIXED | KL)
cases(fit, "float32", {}, KL, SVD | KL, SVDA | KL, SVDAR | KL, PART | KL, {"dtype": "float64"})
cases(fit, "small", {"init": None}, SAMPLE | KL, TOL, TOL | ONE, TOL | KL, TOL | KL | ONE, TOL | SEVERAL)
cases(fit, "NaN", *(NAN | each for each in ({}, BPP, MU, KL, IS, HALF, MORE, LARGE, LESS)))
cases(fit, "NaN", *(NAN | each for each in (SVDA, PART, PART | KL, MANY, MANY | BPP, SUMS | BPP)))
cases(fit, "nodata", ZERO | KL, ZERO | RUN | HIDDEN)
cases(fit, "nodata", ZERO | USES, on=EVERYWHERE)
cases(fit, "squares", {}, KL, on=EVERYWHERE)
cases(fit, "squares wide CSR", {}, BPP, MU, KL, MORE)
cases(fit, "CSR", SKETCH, SVDA, PART, PART | KL, HIDDEN, HIDDEN | KL, {"alpha_W": 1e-3}, PART | {"n_init": 3})
cases(fit, "dense rows", WEIGHTS, WEIGHTS | KL, HIDDEN, HIDDEN | KL, KNOWN, KNOWN | KL, SUMS | USES)
cases(fit, "dense wide CSR", MARGINS | USES, MARGINS | KL)
cases(fit, "rows", MIXED | BPP, MIXED | MU)
cases(fit, "rows", CUSTOM | KL, on=EVERYWHERE)
cases(fit, "rows CSR", SEVERAL, SEVERAL | KL, SEVERAL | RUN | {"halving": True, "max_iter": 9})
cases(fit, "uint16 uint8 shards columns wide stored_CSR stored_CSC CSC sparse_Dask h5ad Dask", {}, KL)
cases(fit, "rows columns Dask wide prepared_CSR prepared_dense prepared_twice", USES)
cases(fit, "AnnData rows wide prepared_CSR", RUN, RUN | KL)
cases(fit, "stored_CSR sparse_Dask prepared_AnnData", USES, on=EVERYWHERE)
cases(fit, "many_panels", {"n_components": 3, "max_iter": 3}, on=EVERYWHERE)
cases(fit, "squares Dask", KEPT, FILED, PART, on=EVERYWHERE)
cases(fit, "stored_CSR", KEPT, FILED | KL)
cases(resume, "rows", {}, SEVERAL, on=EVERYWHERE)
cases(resume, "dense", KL, FAILS, FAILS | PART)
cases(rank_sweep, "rows", HIDDEN, NMFK, on=EVERYWHERE)
cases(rank_sweep, "CSR small")
cases(rank_sweep, "few_counts", KL, *(NMFK | {"perturb": each} for each in ("rows", "poisson", "uniform")))
cases(consensus, "rows", on=EVERYWHERE)
cases(consensus, "prepared_CSR")
cases(consensus, "small few_counts", {}, KL)
cases(moments, "prepared_CSR squares h5ad")
cases(function, "dense CSR")
cases(programs, "cells backed_cells", {}, {"mask_var": None} | KL)
cases(consensus_programs, "few_cells", {"n_components": 4}, {"n_components": [3, 4, 5], "n_top_genes": 50})
cases(stack, "stored_scene", HIDDEN, on=EVERYWHERE)
cases(stack, "stored_scene", {"land": True, "max_iter": 3} | KL)
cases(stack, "NaN_scene Dask_scene bands", {}, PART)
cases(stack, "uint16_scene", SUMS)
TOLD, NAMES = "--max-iter 4 --random-state 0 --init random", "--names-from v"
FIT = {"fit": f"v v run -k 4 --normalize --log1p --scale {TOLD}"}
AGREE = {"consensus": f"v consensus -k 4 --n-init 6 --density-threshold 2 {TOLD}"}
SWEEP = {"sweep": f"v sweep -k 2-4 --n-init 3 {TOLD}"}
SCENES = {"fit": f"scene0 run --sample-dims y,x -k 3 {TOLD}", "export": "run maps"}
cases(command_line, "squares", {"fit": f"v run -k 5 --holdout 0.05 {TOLD}", "transform": "run v w"})
cases(command_line, "squares", SWEEP | {"export": "sweep tables --to csv"})
cases(command_line, "AnnData", FIT | {"export": f"run h5ad --to h5ad {NAMES} {NAMES}"})
cases(command_line, "AnnData", AGREE | {"export": f"consensus tables --cnmf blood {NAMES}"})
cases(command_line, "two_scenes", SCENES | {"transform": "run scene1 later"})


# What is done with it.


def numbers_of(value: Any, name: str = "found") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays that an object consists of, with their names; numbers and texts are arrays, too."""
    if name.rpartition("/")[2] in NOT_COMPARED:
        return
    inside = parts_of(value)
    if inside is not None:
        for part, found in inside.items():
            yield from numbers_of(found, f"{name}/{part}")
        return
    array = np.asarray(value.compute() if hasattr(value, "compute") else value)
    yield name, array.astype(str) if array.dtype.kind in "OT" else array


def parts_of(value: Any) -> Mapping[Any, Any] | None:
    """The parts of an object by name; None where it is an array, a number or a text."""
    if isinstance(value, NMF):
        return {name: each for name, each in vars(value).items() if name.endswith("_") and name[0] != "_"}
    if isinstance(value, anndata.AnnData):
        return {"obsm": value.obsm, "varm": value.varm, "uns": value.uns}
    if isinstance(value, xr.Dataset):
        return {name: variable.to_numpy() for name, variable in value.variables.items()}
    if callable(getattr(value, "columns", None)):  # a history, in which a loss that is not known is None
        held = {"holdout": [record.holdout for record in value]}
        return {
            name: np.array(told, float if any(isinstance(each, float) for each in told) else None)
            for name, told in (value.columns() | held).items()
        }
    if dataclasses.is_dataclass(value):
        names = [each.name for each in dataclasses.fields(value) if each.name[0] != "_"]
        return {name: getattr(value, name) for name in names}
    if hasattr(value, "n_passes"):
        return {name: getattr(value, name) for name in OF_A_RUN}
    if isinstance(value, (list, tuple)) and not all(map(np.isscalar, value)):
        return dict(enumerate(value))
    return value if isinstance(value, Mapping) else None


@cache
def client() -> Client:
    if address := os.environ.get(ADDRESS):
        return Client(address, set_as_default=False)
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    return Client(cluster, set_as_default=False)


def numbers_of_case(name: str) -> tuple[Numbers, float]:
    called, data, options, scheduler = CASES[name]
    begun = time.perf_counter()
    logging.getLogger("dasknmf").setLevel(logging.ERROR)
    with contextlib.ExitStack() as within:
        place = Path(within.enter_context(tempfile.TemporaryDirectory(prefix="compare-versions-")))
        # What is multiplied outside of fits is else added up by as many threads as there are cores.
        within.enter_context(threadpool_limits(1, user_api="blas"))
        within.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if scheduler == "cluster":
            within.enter_context(client().as_current())
            scheduler = "dask.distributed"  # by name: workers that start anew inherit the settings
        within.enter_context(dask.config.set(scheduler=scheduler))
        try:
            found = dict(numbers_of(called(place, DATA[data](place), **options)))
        except Exception as error:
            found = {FAILED: np.array(f"{type(error).__name__}: {error}")}
    return found, time.perf_counter() - begun


def fitted(names: Sequence[str], jobs: int) -> Iterator[tuple[str, Numbers, float]]:
    """The cases in their order, fitted one after the other or several at once."""
    with contextlib.ExitStack() as within:
        if any(CASES[name][3] == "cluster" for name in names):
            within.callback(client().cluster.close)
            within.callback(client().close)
            os.environ[ADDRESS] = client().scheduler.address
        found = map(numbers_of_case, names)
        if jobs > 1:
            pool = within.enter_context(ProcessPoolExecutor(jobs, get_context("spawn")))
            found = pool.map(numbers_of_case, names)
        for name, (numbers, seconds) in zip(names, found, strict=True):
            yield name, numbers, seconds


def difference(old: Numbers, new: Numbers) -> str:
    """How new numbers differ from old ones; what only the new version tells is no difference."""
    if FAILED in old or FAILED in new:
        return f"{'then' if FAILED in old else 'now'} {old.get(FAILED, new.get(FAILED))}"
    told = []
    for name, was in old.items():
        if name.rpartition("/")[2] in NOT_COMPARED:
            continue
        now = new.get(name)
        if now is None:
            told.append(f"{name} is missing")
        elif (was.dtype, was.shape) != (now.dtype, now.shape):
            told.append(f"{name} was {was.dtype} {was.shape} and is {now.dtype} {now.shape}")
        elif was.tobytes() != now.tobytes() and was.dtype.kind in "biuf":
            apart = np.abs(was.astype(float) - now.astype(float))
            told.append(
                f"{name} by {np.nanmax(apart, initial=0):.3g} in {np.sum(apart != 0)} of {apart.size}"
            )
        elif was.tobytes() != now.tobytes():
            told.append(f"{name} was {was.ravel()[:3]} and is {now.ravel()[:3]}")
    return "; ".join(told[:3]) + (f" and {len(told) - 3} more" if len(told) > 3 else "")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def record(path: Path, names: Sequence[str], jobs: int) -> int:
    every: Numbers = {}
    n_failed, begun = 0, time.perf_counter()
    for name, numbers, seconds in fitted(names, jobs):
        every |= {f"{name}{SEPARATOR}{part}": array for part, array in numbers.items()}
        n_failed += FAILED in numbers
        say(f"{seconds:6.2f} s  {name}{f': {numbers[FAILED]}' if FAILED in numbers else ''}")
    with path.open("wb") as file:
        np.savez(file, **every)
    say(f"{len(names)} cases, {n_failed} of them failed, {time.perf_counter() - begun:.0f} s")
    return int(n_failed > 0)


def recorded(path: Path) -> dict[str, Numbers]:
    found: dict[str, Numbers] = {}
    with np.load(path) as every:
        for key, array in every.items():
            name, part = key.split(SEPARATOR)
            found.setdefault(name, {})[part] = array
    return found


def compare(old: dict[str, Numbers], new: Iterable[tuple[str, Numbers, float]]) -> int:
    """A row for each case, and how many are equal; 1 where one is not, else 0."""
    n_cases = n_equal = 0
    for name, numbers, _ in new:
        why = difference(old[name], numbers) if name in old else "was not recorded"
        n_cases, n_equal = n_cases + 1, n_equal + (not why)
        say(f"{'DIFFERS' if why else 'equal  '}  {name}{': ' if why else ''}{why}")
    say(f"{n_equal} of {n_cases} cases are equal bit for bit")
    return int(n_equal < n_cases)


def between(roots: Sequence[Path], names: Sequence[str], options: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="compare-versions-") as place:
        for number, root in enumerate(roots):
            paths = [str(root.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
            # -P, since the directory of a script would come before these.
            line = [sys.executable, "-P", str(Path(__file__).resolve()), "record", f"{number}.npz", *options]
            env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), ROOT: str(root.resolve())}
            ended = subprocess.run(line, cwd=place, env=env, check=False).returncode
            if not Path(place, f"{number}.npz").exists():
                say(f"the fits of {root} ended with exit code {ended} and left no record")
                return 2
        old, new = (recorded(Path(place, f"{number}.npz")) for number in range(2))
        return compare(old, ((name, new.get(name, {}), 0.0) for name in names))


def main() -> int:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("command", nargs="?", choices=["record", "against", "between"])
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this in their names")
    parser.add_argument("--list", action="store_true", help="say which cases there are, and fit none")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that fit cases")
    asked = parser.parse_args()
    names = [name for name in CASES if asked.only in name]
    if asked.list or not names:
        say("\n".join([*names, f"{len(names)} cases"]))
        return int(not names)
    if not 1 <= len(asked.paths) <= (2 if asked.command == "between" else 1):
        parser.error("record and against take a file, between one or two directories")
    if asked.command == "between":
        roots = [*asked.paths, Path(__file__).parents[1]][:2]
        return between(roots, names, ["--only", asked.only, "--jobs", str(asked.jobs)])
    say(f"dasknmf of {dasknmf.__file__}")
    if not Path(dasknmf.__file__).resolve().is_relative_to(os.environ.get(ROOT, "/")):
        parser.error(f"this is not the dasknmf of {os.environ[ROOT]}")
    if asked.command == "record":
        return record(asked.paths[0], names, asked.jobs)
    return compare(recorded(asked.paths[0]), fitted(names, asked.jobs))


if __name__ == "__main__":
    sys.exit(main())
