"""An export that fails, at whatever step, takes nothing away."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import zarr
from anndata.io import write_elem
from zarr.storage import FsspecStore, MemoryStore

from dasknmf import NMF, Prepared, open_run
from dasknmf.data.anndata_file import open_anndata
from dasknmf.errors import RunAccessError, RunError
from dasknmf.singlecell import export_anndata
from dasknmf.singlecell.entries import Keys
from dasknmf.singlecell.export import Exported, factors_for
from tests.singlecell.cells import N_CELLS, N_GENES, K, cells, read, written

FULL = OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    adata = cells(dense=True)
    V = Prepared(adata.X, feature_names=adata.var_names)
    checkpoint = tmp_path_factory.mktemp("run") / "run"
    NMF(K, random_state=0, tol=0.01).fit(V, checkpoint=checkpoint)
    return open_run(checkpoint)


def exported_before() -> anndata.AnnData:
    """Cells with entries of another factorization."""
    adata = cells(dense=True)
    adata.obsm["X_nmf"] = np.full((N_CELLS, 7), 7.0, dtype=np.float32)
    adata.varm["NMF"] = np.full((N_GENES, 7), 5.0, dtype=np.float32)
    adata.uns["nmf"] = {"params": {"n_components": 7}}
    return adata


def export(run, place, *, overwrite=True):
    factors = factors_for(run, open_anndata(place))
    export_anndata.write_entries(place, factors, Keys(), overwrite=overwrite)


def files(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def check_new(adata, run):
    np.testing.assert_array_equal(adata.obsm["X_nmf"], run.W.compute())
    np.testing.assert_array_equal(adata.varm["NMF"], run.H.T)
    assert adata.uns["nmf"]["params"]["n_components"] == K
    assert set(adata.uns) == {"nmf"}


def check_old(adata):
    assert (adata.obsm["X_nmf"] == np.full((N_CELLS, 7), 7)).all()
    assert (adata.varm["NMF"] == np.full((N_GENES, 7), 5)).all()
    assert adata.uns["nmf"]["params"]["n_components"] == 7
    assert set(adata.uns) == {"nmf"}


class Fails:
    """A function whose call of one number, and with `for_good` each after it, raises."""

    def __init__(self, function, at, *, for_good=False):
        self.function, self.at, self.for_good = function, at, for_good
        self.calls = 0

    def __get__(self, instance, owner=None):
        return lambda *arguments: self(instance, *arguments)

    def __call__(self, *arguments):
        self.calls += 1
        if self.calls == self.at or (self.for_good and self.calls > self.at):
            raise FULL
        return self.function(*arguments)


@pytest.mark.parametrize(
    ("kind", "at"), [("zarr2", 2), ("zarr2", 5), *itertools.product(("zarr3", "h5ad"), range(1, 7))]
)
def test_an_error_between_two_moves_takes_all_back(tmp_path, run, kind, at, monkeypatch):
    """Three entries are moved aside and three in."""
    path = written(exported_before(), tmp_path, kind)
    before = None if kind == "h5ad" else files(path)
    moved = h5py.Group if kind == "h5ad" else Path
    name = "move" if kind == "h5ad" else "rename"
    monkeypatch.setattr(moved, name, Fails(getattr(moved, name), at))
    with pytest.raises(OSError, match="No space left"):
        export(run, path)
    check_old(read(path))
    assert before is None or files(path) == before
    assert os.listdir(tmp_path) == [path.name]
    monkeypatch.undo()
    export(run, path)
    check_new(read(path), run)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("kind", ["zarr2", "zarr3", "h5ad"])
def test_an_error_in_the_last_entry_takes_all_back(tmp_path, run, kind, monkeypatch):
    path = written(exported_before(), tmp_path, kind)
    monkeypatch.setattr(Exported, "uns", Fails(Exported.uns, 1))
    with pytest.raises(OSError, match="No space left"):
        export(run, path)
    check_old(read(path))
    assert os.listdir(tmp_path) == [path.name]


def test_what_cannot_be_moved_back_is_kept_and_said_where(tmp_path, run, monkeypatch):
    path = written(exported_before(), tmp_path, "zarr3")
    old = files(path / "obsm" / "X_nmf")
    monkeypatch.setattr(Path, "rename", Fails(Path.rename, 2, for_good=True))
    with pytest.raises(
        RunAccessError, match=r"could not be moved back .*\.cells\.zarr\..*\.new/old"
    ) as caught:
        export(run, path)
    (spare,) = tmp_path.glob(".*")
    assert str(spare) in str(caught.value)
    assert files(spare / "old" / "obsm" / "X_nmf") == old
    monkeypatch.undo()
    export(run, path)
    check_new(read(path), run)


class Watched(MemoryStore):
    """A store in memory that says what is changed in it, and of which one change fails."""

    fails_at: int | None = None
    changed: tuple[str, ...] = ()

    def arm(self, fails_at):
        self.fails_at, self.changed = fails_at, ()

    def _change(self, key):
        self.changed += (key,)
        if len(self.changed) - 1 == self.fails_at:
            raise FULL

    async def set(self, key, *arguments, **options):
        self._change(key)
        await super().set(key, *arguments, **options)

    async def delete(self, key):
        self._change(key)
        await super().delete(key)

    def of_the_anndata(self):
        return {key: value.to_bytes() for key, value in self._store_dict.items() if SPARE not in key}


SPARE = "uns/dasknmf-"


def remembered(zarr_format):
    store = Watched()
    root = zarr.open_group(store, mode="w", zarr_format=zarr_format)
    adata = exported_before()
    for name in ("obsm", "varm", "uns"):
        write_elem(root, name, {})
    unsharded = {"shards": None} if zarr_format == 3 else {}
    write_elem(root, "obs", adata.obs, dataset_kwargs=unsharded)
    write_elem(root, "var", adata.var, dataset_kwargs=unsharded)
    write_elem(root["uns"], "nmf", adata.uns["nmf"], dataset_kwargs=unsharded)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    encoding = {"encoding-type": "array", "encoding-version": "0.2.0"}
    # More chunks than the new entry has: none of them may stay beside it.
    root.create_array("obsm/X_nmf", data=adata.obsm["X_nmf"], chunks=(100, 2), attributes=encoding)
    root.create_array("varm/NMF", data=adata.varm["NMF"], chunks=(50, 7), attributes=encoding)
    return store


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_error_in_a_store_without_renames_takes_all_back(run, zarr_format):
    trial = remembered(zarr_format)
    trial.arm(None)
    export(run, trial)
    check_new(anndata.read_zarr(zarr.open_group(trial, mode="r")), run)
    assert not [key for key in trial._store_dict if SPARE in key]
    in_place = [at for at, key in enumerate(trial.changed) if SPARE not in key]
    # In the filling, at each change of an entry in its place, and just after the last of them.
    filling = range(0, in_place[0], in_place[0] // 4)
    points = [*filling, *in_place[:: len(in_place) // 8], in_place[-1], in_place[-1] + 1]
    store = remembered(zarr_format)
    before = store.of_the_anndata()
    for at in points:
        store.arm(at)
        with pytest.raises(OSError, match="No space left"):
            export(run, store)
        assert store.of_the_anndata() == before, trial.changed[at]
    assert not [key for key in store._store_dict if SPARE in key]
    check_old(anndata.read_zarr(zarr.open_group(store, mode="r")))
    with pytest.raises(RunError, match="has obsm/X_nmf, varm/NMF, uns/nmf already"):
        export(run, store, overwrite=False)


def test_a_store_behind_fsspec(run):
    place = "memory://exports/cells.zarr"
    root = zarr.open_group(place, mode="w", zarr_format=2)
    assert isinstance(root.store, FsspecStore)
    write_elem(root, "/", exported_before())
    export(run, place)
    again = zarr.open_group(place, mode="r")
    check_new(anndata.read_zarr(again), run)
    assert set(again["uns"]) == {"nmf"}
