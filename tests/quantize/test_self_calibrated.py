"""A quantization that calibrates on what the model writes itself."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tilepress.checkpoint import FloatCheckpoint
from tilepress.cli import main
from tilepress.errors import QuantizationError, UsageError
from tilepress.quantize import Progress, QuantizationReport, Recipe, plan_quantization, quantize_checkpoint
from tilepress.quantize.calibration.self_calibration import Author
from tilepress.quantize.estimate.throughput import Throughput
from tilepress.quantize.resume import work_directory
from tiny_models import make_tiny_qwen3

# More than one batch of answers.
RECIPE = Recipe(samples=80, sequence_length=64, self_calibration=True, distill_steps=0)
CPU, PACE = torch.device("cpu"), Throughput(product=1e11, factor=5e10, rounding=2e10)
WEIGHTS = "quant_model_weight_w8a8s.safetensors"


def quantize(source: Path, out: Path, recipe: Recipe = RECIPE, **options: Any) -> QuantizationReport:
    return quantize_checkpoint(FloatCheckpoint(source), out, recipe, **options)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the batches that are written."""
    numbers: list[int] = []
    documents = Author.documents
    monkeypatch.setattr(Author, "documents", lambda self, number: numbers.append(number) or documents(self, number))
    return numbers


def test_interrupted_it_goes_on_with_the_same_text_and_ends_in_the_same_bytes(
    tiny_qwen3: Path, tmp_path: Path, written: list[int]
) -> None:
    told: list[Progress] = []
    report = quantize(tiny_qwen3, tmp_path / "undisturbed", progress=told.append)
    batches = written.copy()
    assert len(batches) > 1
    assert (report.samples, report.sequence_length, report.limits, report.text) == (80, 64, (), "self")
    assert report.as_dict()["recipe"]["self_calibration"]
    assert [p.done for p in told] == list(range(1, 80 + 6 + 1)), "a step for each sequence, and each visit to a layer"
    assert {p.total for p in told} == {80 + 6}

    def interrupt(progress: Progress) -> None:
        if progress.done in (5, 80 + 3):  # while it writes, and after the first layer
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            quantize(tiny_qwen3, tmp_path / "out", progress=interrupt)
        assert (work_directory(tmp_path / "out") / "answers-00000.json").exists()
    quantize(tiny_qwen3, tmp_path / "out")

    assert written == batches * 2, "no batch is written twice"
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (tmp_path / "undisturbed" / WEIGHTS).read_bytes()
    assert not work_directory(tmp_path / "out").exists()


def test_another_seed_or_another_chat_template_does_not_go_on_with_the_text(float_copy: Path, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(float_copy, tmp_path / "out", progress=interrupt)
    with pytest.raises(UsageError, match=r"recipe seed was 0, is 1.*--restart"):
        quantize(float_copy, tmp_path / "out", replace(RECIPE, seed=1))

    template = float_copy / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace("assistant", "helper"), encoding="utf-8")
    with pytest.raises(UsageError, match=r"calibration text differs.*--restart"):
        quantize(float_copy, tmp_path / "out")


def test_a_text_of_the_users_excludes_it(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = f"quant -m {tiny_qwen3} -o {out} --calib {calibration} --samples 2 --sequence-length 64 --distill-steps 0"
    assert main([*command.split(), "--self-calibration"]) == 2
    assert f"--calib {calibration}: with self-calibration the model writes the text itself" in capsys.readouterr().err

    recipe = tmp_path / "mine.toml"
    recipe.write_text('name = "mine"\n[settings]\nself_calibration = true\n', encoding="utf-8")
    assert main([*command.split(), "--recipe", str(recipe)]) == 2
    assert "--no-self-calibration" in capsys.readouterr().err
    assert not out.exists()
    assert not work_directory(out).exists()

    assert main([*command.split(), "--recipe", str(recipe), "--no-self-calibration"]) == 0
    assert json.loads((out / "quantization_report.json").read_text(encoding="utf-8"))["text"] == "file"


def test_the_command_says_what_calibrated(tiny_qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"quant -m {tiny_qwen3} -o {tmp_path / 'out'} --self-calibration --effort low --samples 2"
    assert main([*command.split(), "--sequence-length", "64"]) == 0
    assert "2 x 64 tokens that the model wrote" in capsys.readouterr().out


def test_a_model_larger_than_memory_is_refused_before_any_work(
    tiny_qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tilepress.quantize.estimate.plan.available_bytes", lambda: 5 * 10**8)
    refused = r"needs 8.* MB of memory and 500\.00 MB are available; .*--calib.*--no-self-calibration"
    with pytest.raises(UsageError, match=f"self-calibration {refused}"):
        quantize(tiny_qwen3, tmp_path / "out")
    assert not work_directory(tmp_path / "out").exists()

    assert main(f"quant -m {tiny_qwen3} -o {tmp_path / 'out'} --self-calibration --block-steps 0".split()) == 2
    assert re.search(f"quant {refused}", capsys.readouterr().err)
    assert main(f"plan {tiny_qwen3} --self-calibration --block-steps 0".split()) == 2
    assert re.search(f"quant {refused}", capsys.readouterr().err)

    monkeypatch.undo()
    deep = make_tiny_qwen3(tmp_path / "deep", layers=32)
    with pytest.raises(UsageError, match=r"self-calibration needs .* and 810\.00 MB are available"):
        quantize(deep, tmp_path / "out", max_memory=81 * 10**7)
    assert not work_directory(tmp_path / "out").exists()


def test_the_plan_counts_the_whole_model_and_the_time_to_write(tmp_path: Path) -> None:
    source = FloatCheckpoint(make_tiny_qwen3(tmp_path / "deep", layers=8))
    size = {"samples": 4, "sequence_length": 64}
    given, written = (
        plan_quantization(source, Recipe(self_calibration=own, **size), tmp_path / "out", CPU, None, PACE)
        for own in (False, True)
    )
    assert written.memory.needed > given.memory.needed
    assert written.seconds > given.seconds  # type: ignore[operator]
    assert written.output == given.output


def test_a_model_that_writes_nothing_leaves_nothing(float_copy: Path, tmp_path: Path) -> None:
    every = {"eos_token_id": list(range(320))}
    (float_copy / "generation_config.json").write_text(json.dumps(every), encoding="utf-8")
    with pytest.raises(QuantizationError, match="answers of the model are of use"):
        quantize(float_copy, tmp_path / "out")
    assert not work_directory(tmp_path / "out").exists()
