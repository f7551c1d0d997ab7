"""Accepted and refused stacks, from stores and from memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from dasknmf.errors import DataError, SourceError
from dasknmf.stacks import Stack, open_stack
from tests.stacks.draw import UNSTABLE, as_variables, fitted, scene, write

pytestmark = pytest.mark.filterwarnings(UNSTABLE)


def test_what_a_store_holds_is_opened_by_name(tmp_path):
    dataset = as_variables(scene())
    path = write(dataset, tmp_path / "v", (1, 20, 20))
    assert isinstance(open_stack(path), xr.Dataset)
    assert open_stack(str(path), "B01").name == "B01"
    assert list(open_stack(zarr.open(path, mode="r"), ["B02", "B00"])) == ["B02", "B00"]
    with pytest.raises(SourceError, match=r"no variable 'B7'; its variables are \['B00', 'B01', 'B02'\]"):
        open_stack(path, "B7")
    xr.testing.assert_identical(open_stack(path / "B00"), open_stack(path, "B00"))
    zarr.create_array(tmp_path / "plain", shape=(2, 3, 4), dtype="f4")
    with pytest.raises(SourceError, match="names of dims"):
        open_stack(tmp_path / "plain")
    with pytest.raises(SourceError, match="cannot be opened"):
        open_stack(tmp_path / "nowhere")


def test_values_are_opened_as_they_are_stored_and_coordinates_decoded(tmp_path):
    obj = scene(dtype="float64")
    dataset = obj.to_dataset()
    encoding = {
        "reflectance": {"dtype": "uint16", "scale_factor": 0.5, "_FillValue": 0, "chunks": (1, 1, 20, 20)},
        "x": {"dtype": "int32", "scale_factor": 10.0, "_FillValue": -1},
    }
    dataset.to_zarr(tmp_path / "v", encoding=encoding, consolidated=False)
    found = open_stack(tmp_path / "v")
    assert found.dtype == np.uint16
    assert found.attrs["scale_factor"] == 0.5
    np.testing.assert_array_equal(found["x"], obj["x"])
    np.testing.assert_array_equal(found["time"], obj["time"])
    assert "scale_factor" not in Stack(found).layout.attrs


BAD = [
    ("the stack is a numpy.ndarray", lambda obj: obj.to_numpy(), {}),
    (
        r"sample_dims has 'lat', and the stack has the dims \['time', 'band', 'y', 'x'\]",
        None,
        {"sample_dims": ("lat", "x")},
    ),
    ("at least one dim must be a feature", lambda obj: obj.isel(time=0, band=0), {}),
    ("must name at least one dim, and each only once", None, {"sample_dims": ("y", "y")}),
    ("must name at least one dim", None, {"sample_dims": ()}),
    (
        r"'time' has 2024-01-03T10:30:00.000000000 2 times.*drop_duplicates\('time'\)",
        lambda obj: obj.isel(time=[0, 0]),
        {},
    ),
    (
        r"coordinates 'time' \(.*\) cannot be stored.*tz_localize\(None\).*drop_vars\(\['time'\]\)",
        lambda obj: obj.assign_coords(time=obj.indexes["time"].tz_localize("UTC")),
        {},
    ),
    ("lengths .*'time': 0", lambda obj: obj.isel(time=[]), {}),
    ("values of 'reflectance' are complex128", lambda obj: obj.astype(complex), {}),
    (r"values of 'reflectance' are datetime64\[ns\]", lambda obj: obj.astype("datetime64[ns]"), {}),
    ("values of 'reflectance' are <U", lambda obj: obj.astype(str), {}),
    ("dim or coordinate 'component'", lambda obj: obj.rename(band="component"), {}),
    ("dim or coordinate 'loss'", lambda obj: obj.rename(platform="loss"), {}),
    (
        r"coordinates 'band' \(object of tuple\) cannot be stored.*reset_index",
        lambda obj: (
            obj.stack(pair=["band", "time"]).rename(pair="band_").rename(band="b").rename(band_="band")
        ),
        {},
    ),
    (
        "variable 'B01' is float32 and 'B00' is uint16",
        lambda obj: as_variables(obj).assign(B01=lambda d: d.B01.astype("float32")),
        {},
    ),
    (
        r"variable 'B02' has the dims \['y', 'x'\] and 'B00' has \['time', 'y', 'x'\]",
        lambda obj: as_variables(obj).assign(B02=lambda d: d.B02[0]),
        {},
    ),
    (
        r"sample_dims has 'x', and variable 'B02' has the dims \['time', 'y'\].*drop_vars\('B02'\)",
        lambda obj: as_variables(obj).assign(B02=lambda d: d.B02[:, :, 0]),
        {},
    ),
    ("the dataset has no variables", lambda obj: as_variables(obj)[[]], {}),
    ("has a dim 'variable'", lambda obj: obj.rename(time="variable").to_dataset(), {}),
    ("mask is a ndarray", None, {"mask": np.ones((40, 60), bool)}),
    ("mask is float64", None, {"mask": xr.DataArray(np.ones((40, 60)), dims=("y", "x"))}),
    ("mask has a dim 'lat'", None, {"mask": xr.DataArray(np.ones((40, 60), bool), dims=("lat", "x"))}),
    (
        "mask has length 41 along 'y' and the stack has 40",
        None,
        {"mask": xr.DataArray(np.ones((41, 60), bool), dims=("y", "x"))},
    ),
    (
        "mask goes from 0.0 to 390.0 along 'y' and the stack from 390.0 to 0.0.*reindex_like",
        None,
        {"mask": xr.DataArray(np.ones((40, 60), bool), dims=("y", "x"), coords={"y": 10.0 * np.arange(40)})},
    ),
    (
        "'reflectance' is int16 with the attribute _Unsigned='true'",
        lambda obj: obj.astype("int16").assign_attrs(_Unsigned="true"),
        {},
    ),
    ("missing is 'nodata'", None, {"missing": "nodata"}),
    ("missing is True", None, {"missing": True}),
    ("negatives is 'abs'", None, {"negatives": "abs"}),
    ("attribute 'scale_factor' is 'x'", lambda obj: obj.assign_attrs(scale_factor="x"), {}),
]


@pytest.mark.parametrize(("message", "change", "options"), BAD, ids=range(len(BAD)))
def test_what_is_no_stack_is_refused(message, change, options):
    obj = scene() if change is None else change(scene())
    with pytest.raises((SourceError, ValueError), match=message) as found:
        Stack(obj, **options)
    assert "\n" not in str(found.value)


def test_coordinates_that_nothing_keeps_are_left_out(tmp_path):
    """As of stackstac: None among titles, lists of dicts, one after another."""
    items = np.empty(2, object)
    items[:] = [{"a", "b"}, {"c"}]
    zoned = scene().indexes["time"].tz_localize("UTC")
    obj = scene().assign_coords(
        title=("band", np.array(["blue", None, "red"], object)), items=("time", items), at=("time", zoned)
    )
    # pandas 3 makes NaN of None among strings.
    message = r"'title' \(object of \w+ and str\), 'items' \(object of set\), 'at' \(.*UTC.*\) are left"
    with pytest.warns(UserWarning, match=message) as found:
        stack = Stack(obj)
    assert len(found) == 1
    assert stack.layout.coords.keys() == scene().coords.keys()


def test_negative_values_are_refused_with_what_to_do_about_them(tmp_path):
    obj = scene(dtype="int16").chunk(y=20, x=20)
    with pytest.raises(
        DataError, match=r"of 14400 entries are below zero.*baseline 04\.00.*negatives='clip'"
    ):
        fitted(obj.where(obj != obj.max(), -3).astype("int16"), fit={"checkpoint": tmp_path / "run"})
    assert not Path(tmp_path / "run").exists()
