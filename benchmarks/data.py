"""The data of the benchmarks: counts with a planted factorization, drawn or stored, and a real scene."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from dasknmf.cli.demo import stored_scene

_CHUNK_BYTES = 16_000_000
_SHAPE = 0.3  # of the gamma distribution of W and H: a few large entries, many near zero


def drawn_counts(
    n: int, m: int, rank: int = 20, *, dtype: str = "float32", offset: float = 0.0
) -> np.ndarray:
    """Poisson counts of a planted factorization.

    Parameters
    ----------
    n, m : int
        Samples and features.
    rank : int
        Of the mean of the counts.
    dtype : str
    offset : float
        Added to every entry: losses with β ≤ 0 take no zeros.
    """
    rng = np.random.default_rng(0)
    H = rng.gamma(_SHAPE, 1, (rank, m))
    V = rng.poisson(rng.gamma(_SHAPE, 1, (n, rank)) @ H).astype(dtype)
    V += V.dtype.type(offset)
    return V


def stored_counts(path: Path, gigabytes: float, m: int, rank: int = 20) -> zarr.Array:
    """The V at `path`; made there where there is none.

    Poisson counts of a planted factorization as float32, in LZ4-bitshuffle chunks of 16 MB.
    """
    if not path.exists():
        # Under its own name only when it is whole: an interrupted V would read as zeros next time.
        partial = path.with_name(f"{path.name}.partial")
        _write_counts(partial, int(gigabytes * 1e9 / 4 / m), m, rank)
        partial.rename(path)
    return zarr.open_array(path, mode="r")


def _write_counts(path: Path, n: int, m: int, rank: int) -> None:
    array = zarr.create_array(
        path,
        shape=(n, m),
        chunks=(min(max(1, _CHUNK_BYTES // (4 * m)), n), m),
        dtype="f4",
        overwrite=True,
        compressors=BloscCodec(cname="lz4", shuffle="bitshuffle", clevel=5),
    )
    rng = np.random.default_rng(0)
    H = rng.gamma(_SHAPE, 1, (rank, m))
    for first in range(0, n, array.chunks[0]):
        stop = min(first + array.chunks[0], n)
        array[first:stop] = rng.poisson(rng.gamma(_SHAPE, 1, (stop - first, rank)) @ H)


def bumps(n: int = 2000, m: int = 500, k: int = 7, *, noise: float = 0.01) -> np.ndarray:
    """A V of known rank: Gaussian bumps side by side along its rows.

    W_ij = exp(−(k / (0.01 n²)) (i − (j n/k + n/(2k) − 0.5))²), H uniform on [0, 1); added to W H is normal
    noise of `noise` times its root mean square, and what is below 0 then is 0. Shape (n, m), float64.
    """
    rng = np.random.default_rng(0)
    row, component = np.arange(n)[:, None], np.arange(k)
    W = np.exp(-(k / (0.01 * n**2)) * (row - (component * n / k + n / (2 * k) - 0.5)) ** 2)
    V = W @ rng.random((k, m))
    V += noise * np.sqrt(np.mean(V**2)) * rng.standard_normal(V.shape)
    return np.maximum(V, 0, out=V)


def sorted_rows(array: zarr.Array, path: Path) -> zarr.Array:
    """The rows of a stored V, ordered by the feature that is largest in each; made where there is none.

    Holds V in memory once.
    """
    if not path.exists():
        V = array[...]
        partial = path.with_name(f"{path.name}.partial")
        ordered = zarr.create_array(
            partial,
            shape=array.shape,
            chunks=array.chunks,
            dtype=array.dtype,
            compressors=array.compressors,
            overwrite=True,
        )
        order = np.argsort(V.argmax(axis=1), kind="stable")
        for first in range(0, len(V), array.chunks[0]):
            ordered[first : first + array.chunks[0]] = V[order[first : first + array.chunks[0]]]
        partial.rename(path)
    return zarr.open_array(path, mode="r")


def indian_pines(dtype: str) -> np.ndarray:
    """The hyperspectral scene of the demo: 21025 pixels by 200 bands, all of them positive."""
    with tempfile.TemporaryDirectory() as directory:
        path, _ = stored_scene(Path(directory))
        return zarr.open_array(path, mode="r")[...].astype(dtype)
