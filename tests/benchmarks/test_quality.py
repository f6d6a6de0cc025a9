"""The quality benchmark on a tiny model: its rows, their order, and what it says to a mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.quality import table as quality
from benchmarks.quality.text import sentences

import tilepress

ROOT = Path(__file__).parents[2]


def run_benchmark(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.quality.table", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("The quick brown fox jumps over the lazy dog, and the dog does not mind it at all. " * 40)
    return file


@pytest.mark.slow
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
    assert "weights: nearest, int8: KL 0.0" in done.stderr, "progress, with the seconds it took"
    (kept,) = tmp_path.glob("quality-*-1000-default.json")
    assert set(json.loads(kept.read_text())) == set(kl), "an interrupted run would go on from here"


@pytest.mark.slow
def test_results_of_one_text_are_not_taken_for_those_of_another(tiny_qwen3: Path, text: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    options = ("--cache", tmp_path, "--model", tiny_qwen3, "--text", text, "--tokens", 500, "--json", results)

    def measure() -> tuple[float, str]:
        done = run_benchmark(*options, "--rows", "nearest, int8")
        assert done.returncode == 0, done.stderr
        return json.loads(results.read_text())[0]["kl"], done.stderr

    first, _ = measure()
    again, progress = measure()
    assert again == first
    assert "KL" not in progress, "it was kept, not measured again"
    text.write_text("Pack my box with five dozen liquor jugs, and do it before the evening comes. " * 40)
    other, progress = measure()
    assert other != first
    assert "KL" in progress


@pytest.mark.slow
def test_ingredients_and_activations_are_measured_by_themselves(tiny_qwen3: Path, text: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    options = ("--cache", tmp_path, "--model", tiny_qwen3, "--text", text, "--tokens", 1000, "--json", results)

    done = run_benchmark(*options, "--rows", "ablation|activations|tilepress, 3.5 bits(, dynamic.*)?$")

    assert done.returncode == 0, done.stderr
    rows = {row["row"]: row for row in json.loads(results.read_text())}
    ablation = {row.rpartition(", ")[2]: result for row, result in rows.items() if row.startswith("ablation")}
    assert len(ablation) == 7
    assert all(result["bits"] == pytest.approx(3.5, abs=0.03) for result in ablation.values())
    # Random weights have no columns or rows to tell apart: what these ingredients gain shows on real models only.
    assert ablation["all of it"]["kl"] < ablation["without error feedback"]["kl"]
    # What the tool makes, but for the size: on matrices that fill no tile it misses it by a sixth of a bit.
    weights = rows["weights: tilepress, 3.5 bits"]["kl"]
    assert ablation["all of it"]["kl"] == pytest.approx(weights, rel=0.3)
    overflow, per_token = rows["activations: overflow"], rows["activations: per-token"]
    assert 0 < overflow["kl"] < 0.1 * weights
    assert 0 < overflow["overflowing"] < 0.3
    assert per_token["bits"] is per_token["overflowing"] is None
    both = rows["both: tilepress, 3.5 bits, dynamic"]["kl"]
    undistilled = rows["both: tilepress, 3.5 bits, dynamic, undistilled"]["kl"]
    assert undistilled == pytest.approx(weights, rel=0.1), "int8 activations cost next to nothing here"
    assert both != undistilled != weights
    assert len(list(tmp_path.glob("*-w8a8sc-*"))) == 2, "with distillation and without, the latter for two rows"


def test_of_several_texts_as_many_tokens_are_read(tiny_qwen3: Path, text: Path, tmp_path: Path) -> None:
    other = text.read_text()[::-1]

    of_one = quality.Bench(tmp_path, tiny_qwen3, [other], 1000, "default")
    of_two = quality.Bench(tmp_path, tiny_qwen3, [text.read_text(), other], 2000, "default")

    assert len(of_two._windows) == 2 * len(of_one._windows) == 4
    assert all(torch.equal(a, b) for a, b in zip(of_two._windows[2:], of_one._windows, strict=True))


def test_a_tensor_of_a_wrong_name_is_no_float_one(tiny_qwen3: Path, text: Path, tmp_path: Path) -> None:
    bench = quality.Bench(tmp_path, tiny_qwen3, [text.read_text()], 100, "default")
    tensors = dict(tilepress.load(tiny_qwen3)[0].state_dict())

    bench._float_with(tensors)
    tensors["model.layers.1.mlp.down.weight"] = tensors.pop("model.layers.1.mlp.down_proj.weight")
    with pytest.raises(AssertionError, match=r"mlp\.down\.weight"):
        bench._float_with(tensors)
    del tensors["model.layers.1.mlp.down.weight"]
    with pytest.raises(AssertionError, match=r"mlp\.down_proj\.weight"):
        bench._float_with(tensors)


def test_tables_of_contents_are_no_text() -> None:
    kept = ["It ends here.", "It ends (here!)", "See the note. [4]", "It goes on:"]
    assert sentences([*kept, "1. Names 2. Values 3. Ends", "4.1 Naming . . . . 12"]) == kept


def test_a_row_that_there_is_not_is_answered_with_those_there_are(tiny_qwen3: Path, text: Path, tmp_path: Path) -> None:
    done = run_benchmark("--cache", tmp_path, "--model", tiny_qwen3, "--text", text, "--rows", "int3")

    assert done.returncode == 1
    assert "--rows int3: no such row; there are" in done.stderr
    assert "weights: nearest, int8" in done.stderr
