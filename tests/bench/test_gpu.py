"""`make bench-gpu` in Triton's interpreter: the same code, on a tiny matrix and without meaning."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tilepress.cli import main

STORED = "tilepress, weights as stored"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def result() -> dict[str, object]:
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "benchmarks.speed.gpu", "--interpret", "--json"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    loaded: dict[str, object] = json.loads(printed)
    return loaded


def test_a_row_for_decoding_and_for_each_batch(result: dict) -> None:
    rows = result["rows"]
    assert [(row["n"], row["k"], row["batch"]) for row in rows] == [(32, 512, 0), (32, 512, 1), (32, 512, 17)]
    assert [[peer["name"] for peer in row["peers"]] for row in rows] == [
        [],
        [STORED, "cuBLAS bfloat16", "torch._int_mm", "dense int8 in Triton"],
        [STORED, "cuBLAS bfloat16", "torch._int_mm"],
    ]


def test_ratios_follow_from_the_times(result: dict) -> None:
    for row in result["rows"][1:]:
        seconds = {peer["name"]: peer["seconds"] for peer in row["peers"]}
        assert row["times_bfloat16"] == pytest.approx(seconds.pop("cuBLAS bfloat16") / row["ours"]["seconds"])
        assert seconds.pop(STORED) > 0
        assert row["times_int8"] == pytest.approx(min(seconds.values()) / row["ours"]["seconds"])
        weights = 32 * 512 / row["ours"]["seconds"] / 1e12
        assert row["ours"]["teraweights_per_second"] == pytest.approx(weights)


def test_without_a_gpu_the_error_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "gpu"]) == 2
    assert "this torch has no cuda device" in " ".join(capsys.readouterr().err.split())
