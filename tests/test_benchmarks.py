"""Benchmarks run at a tiny size, so that they cannot rot."""

from __future__ import annotations

import json

from click.testing import CliRunner

from benchmarks import memory, roofline


def test_roofline(tmp_path):
    out = tmp_path / "roofline.json"
    arguments = ["--gigabytes", "0.004", "-m", "100", "-k", "3", "--pairs", "3", "--out", str(out)]
    result = CliRunner().invoke(roofline.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    rows = json.loads(out.read_text())["rows"]
    assert {row["what"] for row in rows} == {"pass", "bare loop", "reads", "products"}
    assert {row["where"] for row in rows} == {"threads", "cluster"}


def test_memory(tmp_path):
    out = tmp_path / "memory.json"
    arguments = ["--gigabytes", "0.02", "-m", "500", "--passes", "2", "--out", str(out)]
    result = CliRunner().invoke(memory.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["workers restarted"] == 0
    assert row["seen GB"] <= row["projected GB"]
