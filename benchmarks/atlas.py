"""Counts like those of a single-cell atlas, of any size, streamed to an AnnData store.

What is drawn. Genes have a base expression b_j ~ LogNormal(0, 1); program c weighs gene j with
b_j · Gamma(0.3), normalised to sum 1: H, k × m. Donors are runs of rows of unequal length; donor d has
a mix π_d ~ Dirichlet(2) of programs and a depth δ_d ~ LogNormal(0, 0.2). A cell i of donor d has usages
θ_i ~ Dirichlet(2 π_d), which for k = 20 makes two or three programs most of it, and a library size
L_i = L δ_d · Gamma(4)/4. Its counts are independent given these:

    V_ij ~ NegativeBinomial,  mean μ_ij = L_i (θ_i H)_j,  variance μ_ij (1 + φ),  φ = 0.5

(size μ_ij/φ, probability 1/(1 + φ)). L is solved for, so that the expected share of nonzeros is the
density that was asked for.

How it is drawn without n × m numbers. This negative binomial is a sum of Poisson many logarithmic
variables: E_ij ~ Poisson(μ_ij ln(1 + φ)/φ) events, each of a size ~ Log(φ/(1 + φ)). Poisson counts split:
the events of cell i in program c are Poisson(L_i θ_ic ln(1 + φ)/φ), and each of them falls on gene j with
probability H_cj. So what is drawn is proportional to the nonzeros, and the distribution is exact.

Rows are drawn 1024 at a time, each such block from a stream of its own that the seed and its number
make: how rows are cut for writing changes no value.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata
import click
import numpy as np
import pandas as pd
import scipy.optimize
import scipy.sparse
import zarr
from zarr.codecs import BloscCodec

from benchmarks.runner import report

BLOCK = 1024
"""Rows of one random stream."""

_OVERDISPERSION = 0.5  # φ
_EVENTS = np.log1p(_OVERDISPERSION) / _OVERDISPERSION  # expected events per expected count
_SHAPE = 4.0  # of the gamma factor of library sizes
_PILOT = 512  # cells on which the library size is solved for
_GENES, _DONORS, _CELLS, _TRIAL = range(4)  # what a stream is for


@dataclass(frozen=True)
class Atlas:
    """What there is to draw.

    Parameters
    ----------
    n_cells, n_genes : int
    density : float
        Expected share of nonzeros.
    n_programs, n_donors : int
    seed : int
    """

    n_cells: int
    n_genes: int
    density: float = 0.04
    n_programs: int = 20
    n_donors: int = 16
    seed: int = 0

    @cached_property
    def programs(self) -> np.ndarray:
        """H, (n_programs, n_genes), float64, rows of sum 1."""
        rng = self._stream(_GENES)
        base = rng.lognormal(0, 1, self.n_genes)
        weights = base * rng.gamma(0.3, 1, (self.n_programs, self.n_genes))
        return weights / weights.sum(axis=1, keepdims=True)

    @cached_property
    def donor_stops(self) -> np.ndarray:
        """The row after the last of each donor, int64; each has one row or more."""
        shares = self._stream(_DONORS, 0).dirichlet(np.full(self.n_donors, 4.0))
        spare = self.n_cells - self.n_donors
        stops = np.floor(np.cumsum(shares) * spare).astype(np.int64) + np.arange(1, self.n_donors + 1)
        stops[-1] = self.n_cells
        return stops

    def donors(self, first: int = 0, stop: int | None = None) -> np.ndarray:
        """The donor of each row: its number, not decreasing."""
        rows = np.arange(first, self.n_cells if stop is None else stop)
        return np.searchsorted(self.donor_stops, rows, side="right")

    @cached_property
    def library(self) -> float:
        """L: the mean total of counts at which the expected density is the one asked for."""
        rows = np.linspace(0, self.n_cells - 1, _PILOT).astype(np.int64)
        donors = np.searchsorted(self.donor_stops, rows, side="right")
        profiles = self._usages(self._stream(_TRIAL), donors) @ self.programs
        profiles *= _EVENTS * self._depths[donors, None]

        def excess(log_library: float) -> float:
            # exp(−x g) has the mean (1 + x/4)⁻⁴ over a factor g ~ Gamma(4)/4.
            empty = (1 + np.exp(log_library) * profiles / _SHAPE) ** -_SHAPE
            return float(1 - empty.mean()) - self.density

        return float(np.exp(scipy.optimize.brentq(excess, 0.0, 40.0)))

    def rows(self, first: int, stop: int) -> scipy.sparse.csr_array:
        """Counts of some rows: float32, int32 indices, canonical."""
        blocks = range(first // BLOCK, -(-stop // BLOCK))
        drawn = scipy.sparse.vstack([self.block(number) for number in blocks], format="csr")
        return drawn[first - blocks.start * BLOCK : stop - blocks.start * BLOCK]

    def block(self, number: int) -> scipy.sparse.csr_array:
        """Rows BLOCK · number and the next, as `rows` gives them."""
        first, stop = number * BLOCK, min((number + 1) * BLOCK, self.n_cells)
        rng = self._stream(_CELLS, number)
        donors = self.donors(first, stop)
        totals = self.library * self._depths[donors] * rng.gamma(_SHAPE, 1 / _SHAPE, stop - first)
        events = rng.poisson(_EVENTS * totals[:, None] * self._usages(rng, donors))
        cells = np.arange(stop - first, dtype=np.int32)
        # One key per event, row-major in the matrix: sorted, equal ones are one entry.
        hits = [
            np.repeat(cells, events[:, program]) * np.int32(self.n_genes)
            + self._genes(rng, program, int(events[:, program].sum()))
            for program in range(self.n_programs)
        ]
        keys = np.concatenate(hits)
        keys = np.sort(np.repeat(keys, _sizes(rng, len(keys))))
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        counts = np.diff(starts, append=len(keys)).astype(np.float32)
        entries = keys[starts]
        indptr = np.searchsorted(entries, np.arange(stop - first + 1, dtype=np.int64) * self.n_genes)
        shape = (stop - first, self.n_genes)
        return scipy.sparse.csr_array((counts, entries % self.n_genes, indptr.astype(np.int32)), shape=shape)

    def _genes(self, rng: np.random.Generator, program: int, count: int) -> np.ndarray:
        """Genes drawn with the weights of a program, by the alias method; int32."""
        keep, other = self._aliases
        drawn = rng.random(count) * self.n_genes
        gene = drawn.astype(np.int32)
        return np.where(drawn - gene < keep[program, gene], gene, other[program, gene])

    @cached_property
    def _aliases(self) -> tuple[np.ndarray, np.ndarray]:
        tables = [_alias(weights) for weights in self.programs]
        return np.array([keep for keep, _ in tables]), np.array([other for _, other in tables])

    def _usages(self, rng: np.random.Generator, donors: np.ndarray) -> np.ndarray:
        usages = rng.standard_gamma(2.0 * self._mixes[donors])
        return usages / usages.sum(axis=1, keepdims=True)

    @cached_property
    def _depths(self) -> np.ndarray:
        return self._stream(_DONORS, 2).lognormal(0, 0.2, self.n_donors)

    @cached_property
    def _mixes(self) -> np.ndarray:
        return self._stream(_DONORS, 1).dirichlet(np.full(self.n_programs, 2.0), self.n_donors)

    def _stream(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=purpose))


def _alias(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Walker's tables: slot j gives j with probability keep[j], else other[j]."""
    m = len(weights)
    keep = weights * (m / weights.sum())
    other = np.arange(m, dtype=np.int32)
    small, large = list(np.flatnonzero(keep < 1)), list(np.flatnonzero(keep >= 1))
    while small and large:
        taker, giver = small.pop(), large[-1]
        other[taker] = giver
        keep[giver] -= 1 - keep[taker]
        if keep[giver] < 1:
            small.append(large.pop())
    keep[small + large] = 1.0
    return keep, other


def _sizes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Logarithmic variables, by inversion: rng.logseries takes five times as long."""
    q = _OVERDISPERSION / (1 + _OVERDISPERSION)
    n = np.arange(1, 64)
    shares = np.cumsum(q**n / n) / -np.log1p(-q)
    return np.searchsorted(shares[:-1], rng.random(count), side="right") + 1


def planted_programs(path: Path) -> np.ndarray:
    """The programs from which a store was drawn, (n_programs, n_genes)."""
    return zarr.open_array(path, path="varm/planted", mode="r")[...].T


def write(atlas: Atlas, path: Path, chunk: int | None = None, threads: int = 2) -> Path:
    """The store at `path`; made there where there is none.

    An AnnData group: X a CSR matrix whose data and indices have chunks of `chunk` nonzeros, obs with the
    donor of each cell, var, and the planted programs in varm.

    Parameters
    ----------
    atlas : Atlas
    path : Path
    chunk : int, optional
        Nonzeros. By default a million, or an eighth of a panel where that is less.
    threads : int
        Which draw; one more writes. Each holds one block of rows.
    """
    if not path.exists():
        partial = path.with_name(f"{path.name}.partial")
        root = zarr.open_group(partial, mode="w", zarr_format=3)
        _write_frames(atlas, root)
        _write_counts(atlas, root, chunk or usual_chunk(atlas), threads)
        with warnings.catch_warnings():
            # Not part of the format yet, and what anndata reads first.
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(root.store)
        partial.rename(path)
    return path


def usual_chunk(atlas: Atlas) -> int:
    """Nonzeros of a chunk: a million, or an eighth of a panel where that is less."""
    nonzeros = atlas.density * atlas.n_cells * atlas.n_genes
    return int(min(1_000_000, np.clip(nonzeros / 64, (4 << 20) / 8, (128 << 20) / 8) / 8))


def _write_frames(atlas: Atlas, root: zarr.Group) -> None:
    donors = pd.Categorical.from_codes(
        atlas.donors(), [f"donor {number:02}" for number in range(atlas.n_donors)]
    )
    cells = pd.Index([f"cell {number:09}" for number in range(atlas.n_cells)])
    genes = pd.Index([f"gene {number:05}" for number in range(atlas.n_genes)])
    frames = anndata.AnnData(
        obs=pd.DataFrame({"donor": donors}, index=cells),
        var=pd.DataFrame(index=genes),
        varm={"planted": atlas.programs.T},
    )
    with anndata.settings.override(auto_shard_zarr_v3=False):
        anndata.io.write_elem(root, "/", frames)


def _write_counts(atlas: Atlas, root: zarr.Group, chunk: int, threads: int) -> None:
    group = root.create_group("X", overwrite=True)
    attributes = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0"}
    group.attrs.update(attributes | {"shape": [atlas.n_cells, atlas.n_genes]})
    data, indices = (
        _Growing(group, name, dtype, chunk) for name, dtype in (("data", "f4"), ("indices", "i4"))
    )
    indptr = _Growing(group, "indptr", "i8", 1 << 17)
    nonzeros = 0
    indptr.append(np.zeros(1, np.int64))
    for drawn in _ahead(atlas, threads):
        data.append(drawn.data)
        indices.append(drawn.indices)
        indptr.append(drawn.indptr[1:].astype(np.int64) + nonzeros)
        nonzeros += drawn.nnz
    for array in (data, indices, indptr):
        array.close()


def _ahead(atlas: Atlas, threads: int) -> Iterator[scipy.sparse.csr_array]:
    """All blocks in their order, drawn by threads a few ahead of the one that is given."""
    atlas.block(0)  # makes the tables which threads share
    numbers = iter(range(-(-atlas.n_cells // BLOCK)))
    with ThreadPoolExecutor(threads) as pool:
        pending = deque(pool.submit(atlas.block, number) for number in itertools.islice(numbers, threads + 1))
        while pending:
            drawn = pending.popleft().result()
            pending.extend(pool.submit(atlas.block, number) for number in itertools.islice(numbers, 1))
            yield drawn


class _Growing:
    """A one-dimensional array that is written once, from its beginning, by whole chunks."""

    def __init__(self, group: zarr.Group, name: str, dtype: str, chunk: int) -> None:
        codec = BloscCodec(cname="lz4", shuffle="bitshuffle", clevel=5)
        self._array = group.create_array(name, shape=(0,), chunks=(chunk,), dtype=dtype, compressors=codec)
        self._waiting: list[np.ndarray] = []

    def append(self, values: np.ndarray) -> None:
        self._waiting.append(values)
        whole = sum(map(len, self._waiting)) // self._array.chunks[0] * self._array.chunks[0]
        if whole:
            self._write(whole)

    def close(self) -> None:
        self._write(sum(map(len, self._waiting)))

    def _write(self, count: int) -> None:
        values = np.concatenate(self._waiting)
        first = self._array.shape[0]
        self._array.resize((first + count,))
        self._array[first:] = values[:count]
        self._waiting = [values[count:].copy()]


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--cells", default=1e6, show_default=True)
@click.option("--genes", default=20_000, show_default=True)
@click.option("--density", default=0.04, show_default=True)
@click.option("-k", "programs", default=20, show_default=True)
@click.option("--donors", default=16, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--chunk", type=int, help="Nonzeros; by default a million, or an eighth of a panel.")
@click.option("--threads", default=2, show_default=True, help="Which draw; one more writes.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    path: Path,
    cells: float,
    genes: int,
    density: float,
    programs: int,
    donors: int,
    seed: int,
    chunk: int | None,
    threads: int,
    out: Path | None,
) -> None:
    """Draw an atlas into the AnnData store PATH, or describe the one that is there."""
    atlas = Atlas(int(cells), genes, density, programs, donors, seed)
    found = path.exists()
    began = time.perf_counter()
    write(atlas, path, chunk, threads)
    seconds = None if found else time.perf_counter() - began
    report("atlas", [{**described(path), "seconds": seconds}], out)


def described(path: Path) -> dict[str, Any]:
    """Shape, nonzeros and bytes of a store."""
    group = zarr.open_group(path, path="X", mode="r")
    arrays = [group[name] for name in ("data", "indices", "indptr")]
    n, m = group.attrs["shape"]
    nonzeros = arrays[0].shape[0]
    return {
        "cells": n,
        "genes": m,
        "nonzeros": nonzeros,
        "density": nonzeros / n / m,
        "decoded GB": sum(array.nbytes for array in arrays) / 1e9,
        "stored GB": sum(array.nbytes_stored() for array in arrays) / 1e9,
        "chunk": arrays[0].chunks[0],
    }


if __name__ == "__main__":
    main()
