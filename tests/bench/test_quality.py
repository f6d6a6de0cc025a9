"""The quality benchmark on a tiny model: its rows, their order, and what it says to a mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run_benchmark(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARKS / "quality.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("The quick brown fox jumps over the lazy dog, and the dog does not mind it at all. " * 40)
    return file


def test_rows_are_measured_kept_and_shown(tiny_qwen3: Path, text: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    options = ("--cache", tmp_path, "--model", tiny_qwen3, "--text", text, "--tokens", 1000, "--json", results)

    done = run_benchmark(*options, "--rows", "weights: (nearest, int8|SparseGPT|GPTQ int4|nearest, 3.0)")

    assert done.returncode == 0, done.stderr
    kl = {row["row"]: row["kl"] for row in json.loads(results.read_text())}
    assert len(kl) == 4
    assert 0 < kl["weights: nearest, int8"] < 0.01
    assert kl["weights: nearest, int8"] < kl["weights: GPTQ int4, groups of 128"]
    assert kl["weights: nearest, int8"] < kl["weights: nearest, 3.0 bits"]
    assert "KL" in done.stdout
    (kept,) = tmp_path.glob("quality-*-1000.json")
    assert set(json.loads(kept.read_text())) == set(kl), "an interrupted run would go on from here"


def test_a_row_that_there_is_not_is_answered_with_those_there_are(tiny_qwen3: Path, text: Path, tmp_path: Path) -> None:
    done = run_benchmark("--cache", tmp_path, "--model", tiny_qwen3, "--text", text, "--rows", "int3")

    assert done.returncode == 1
    assert "--rows int3: no such row; there are" in done.stderr
    assert "weights: nearest, int8" in done.stderr
