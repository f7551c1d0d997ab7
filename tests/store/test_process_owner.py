"""Owners of leftovers: living, dead and foreign processes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from dasknmf.io import process_owner
from dasknmf.io.atomic import Directory, placed
from dasknmf.io.process_owner import Owner, left_behind, signed

TOLD = (
    "import json; from dataclasses import asdict; from dasknmf.io.process_owner import Owner, signed;"
    "print(json.dumps([asdict(Owner.this()), signed()]), flush=True)"
)


@pytest.fixture(scope="module")
def dead():
    """A process that has ended, and what it signed."""
    import json

    ended = subprocess.run([sys.executable, "-c", TOLD], check=True, capture_output=True, text=True)
    about, name = json.loads(ended.stdout)
    return Owner(**about), name


def test_who_lives(dead):
    assert Owner.this().lives is True
    assert dead[0].lives is False
    assert replace(dead[0], host="another").lives is None


def test_a_number_that_was_given_again_is_another_process():
    """Also that of the process which asks: the first of a container is 1 each time that it is started."""
    this = Owner.this()
    assert replace(this, started=this.started - 100).lives is False


def test_a_dead_process_that_nobody_waited_for_is_dead():
    child = subprocess.Popen(["sleep", "60"])
    owner = Owner(Owner.this().host, child.pid, process_owner._started(child.pid))
    assert owner.lives is True
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert owner.lives is False
    child.wait()


def test_only_what_the_dead_of_this_machine_have_signed_is_left_behind(dead):
    host, *rest = dead[1].split("-")
    foreign = "-".join(["0" * 8 if host != "0" * 8 else "1" * 8, *rest])
    names = [signed(), dead[1], f"{dead[1]}.new.tif", foreign, "theirs", "", "a-b-c", f"{host}-1"]
    assert left_behind(names) == [dead[1], f"{dead[1]}.new.tif"]


def test_what_a_killed_export_left_goes_with_the_next(dead, tmp_path):
    theirs = [f".maps.{signed()}.new.zarr", f".maps.{dead[1]}.new.tif", f".other.{dead[1]}.new.zarr"]
    left = [f".maps.{dead[1]}.new.zarr", f".maps.{dead[1]}.old.zarr"]
    for name in theirs + left:
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()

    def export(text):
        with placed(tmp_path / "maps.zarr", lambda path: True) as spare:
            spare.mkdir()
            (spare / "whole").write_text(text)
            if text == "bad":
                raise OSError(text)

    with pytest.raises(OSError, match="bad"):
        export("bad")
    assert {path.name for path in tmp_path.iterdir()} == {*theirs, *left}  # one may be all that there is
    for text in ("one", "two"):
        export(text)
        assert {path.name for path in tmp_path.iterdir()} == {*theirs, "maps.zarr"}
        assert (tmp_path / "maps.zarr" / "whole").read_text() == text


def test_what_a_killed_export_had_moved_aside_stays_until_it_is_written_anew(dead, tmp_path):
    spare = tmp_path / f".a.zarr.{dead[1]}.new"
    (spare / "old/obsm/X_nmf").mkdir(parents=True)
    room = Directory(tmp_path / "a.zarr", tmp_path / f".a.zarr.{signed()}.new")
    room.forget(".a.zarr.", ["obsm/X_other", "varm/NMF"])
    assert (spare / "old/obsm/X_nmf").exists()
    room.forget(".a.zarr.", ["obsm/X_nmf", "varm/NMF"])
    assert not spare.exists()
