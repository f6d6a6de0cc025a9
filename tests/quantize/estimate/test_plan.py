"""What a quantization is said to need, before it begins."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tilepress.checkpoint import FloatCheckpoint, ModelShape
from tilepress.cli import main
from tilepress.machine.memory import Machine
from tilepress.quantize import Recipe, plan_quantization, quantize_checkpoint
from tilepress.quantize.calibration.size import CalibrationSize
from tilepress.quantize.estimate.memory import PROGRAM, peak_memory
from tilepress.quantize.estimate.settle import settle
from tilepress.quantize.estimate.throughput import Throughput
from tilepress.quantize.resume import work_directory
from tiny_models import make_tiny_llama, make_tiny_qwen2, make_tiny_qwen3

CPU = torch.device("cpu")
PACE = Throughput(product=1e11, factor=5e10, rounding=2e10)
GB = 10**9
QWEN3_8B = ModelShape(
    layers=36, hidden=4096, intermediate=12288, heads=32, kv_heads=8, head_dim=128, vocab=151936, tied=False
)


def weight_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("make", "options", "recipe"),
    [
        (make_tiny_qwen3, {}, Recipe()),
        (make_tiny_qwen3, {}, Recipe(head=True, embeddings=True, dtype="bfloat16", bits=5.0)),
        (make_tiny_qwen3, {"tied": True}, Recipe(head=True, embeddings=True)),
        (make_tiny_qwen2, {"head_dim": 8}, Recipe(head=True)),
        (make_tiny_llama, {"tied": True}, Recipe()),
    ],
    ids=["float tables", "two tables of integers", "a shared table", "an integer head", "tied"],
)
def test_the_directory_is_as_large_as_it_was_said(
    make: Any, options: dict[str, Any], recipe: Recipe, calibration: Path, tmp_path: Path
) -> None:
    source = FloatCheckpoint(make(tmp_path / "float", hidden=64, intermediate=512, **options))
    recipe = replace(recipe, samples=2, sequence_length=32, distill_steps=0)
    needs = plan_quantization(source, recipe, tmp_path / "out", CPU, None, PACE)
    quantize_checkpoint(source, tmp_path / "out", recipe, calibration=calibration)
    beside = sum(file.stat().st_size for file in (tmp_path / "float").glob("*token*"))
    assert weight_bytes(tmp_path / "out") + beside == pytest.approx(needs.output, rel=0.05)


def test_longer_calibration_takes_more_of_everything(tiny_qwen3: Path, tmp_path: Path) -> None:
    source = FloatCheckpoint(tiny_qwen3)
    short, long = (
        plan_quantization(source, Recipe(samples=count, sequence_length=512), tmp_path / "out", CPU, None, PACE)
        for count in (1000, 4000)
    )
    assert long.seconds > 2 * short.seconds  # type: ignore[operator]
    assert long.memory.needed > short.memory.needed
    assert long.disks[0].needed > 2 * short.disks[0].needed
    assert long.output == short.output


def test_what_a_run_cut_short_has_written_is_not_needed_again(tiny_qwen3: Path, tmp_path: Path) -> None:
    source, out = FloatCheckpoint(tiny_qwen3), tmp_path / "out"
    whole = plan_quantization(source, Recipe(), out, CPU, None, PACE).disks[0].needed
    work_directory(out).mkdir()
    (work_directory(out) / "inputs-00000.safetensors").write_bytes(bytes(1000))
    assert plan_quantization(source, Recipe(), out, CPU, None, PACE).disks[0].needed == whole - 1000


def test_a_wider_model_takes_more_memory_and_its_hessians_dominate() -> None:
    size = CalibrationSize(4, 512, 4, 512, GB, ())
    narrow, wide = (
        peak_memory(replace(QWEN3_8B, hidden=hidden, intermediate=4 * hidden), Recipe(distill_steps=0), size)
        for hidden in (1024, 4096)
    )
    assert wide - PROGRAM > 3 * (narrow - PROGRAM)
    assert wide > 4 * (4 * 4096) ** 2


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes of memory and disk that this machine has to give, to be changed."""
    amounts = {"memory": 100 * GB, "disk": 100 * GB}
    for module in ("quantize.estimate.plan", "compress.plan", "engines.transformers.loading"):
        monkeypatch.setattr(f"tilepress.{module}.available_bytes", lambda: amounts["memory"])
    usage = lambda _: type("Usage", (), {"free": amounts["disk"]})  # noqa: E731
    monkeypatch.setattr("tilepress.machine.requirements.shutil.disk_usage", usage)
    return amounts


def test_what_does_not_fit_into_memory_is_refused_with_what_would(
    tiny_qwen3: Path, free: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    free["memory"] = 3 * GB
    command = f"plan {tiny_qwen3} --sequence-length 512 --samples 20000"
    assert main([*command.split(), "--distill-steps", "45"]) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(
        r"error: quant needs .* GB of memory and 3\.00 GB are available; use --distill-steps 0 --max-memory 3", error
    )
    assert main([*command.split(), "--distill-steps", "0"]) == 0
    for steps, remedy in (("45", "--distill-steps 0 --block-steps 0"), ("0", "--block-steps 0")):
        assert main([*command.split(), "--distill-steps", steps, "--block-steps", "300"]) == 2
        assert f"; use {remedy} --max-memory 3" in capsys.readouterr().err
    assert main([*command.split(), "--distill-steps", "0", "--block-steps", "0"]) == 0


def test_a_model_that_no_option_makes_fit_is_told_what_it_takes(
    tiny_qwen3: Path, tmp_path: Path, free: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    free["memory"] = 10**8
    assert main(f"quant -m {tiny_qwen3} -o {tmp_path / 'out'}".split()) == 2
    assert "use a machine with 0." in capsys.readouterr().err.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_found_before_any_work(
    tiny_qwen3: Path, tmp_path: Path, free: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    free["disk"] = 10**5
    assert main(f"quant -m {tiny_qwen3} -o {tmp_path / 'out'}".split()) == 2
    error = capsys.readouterr().err
    assert "100.00 kB are free there; write to another disk with --save-path" in error
    assert list(tmp_path.iterdir()) == []


def test_the_plan_of_a_float_model_goes_to_the_answer(
    tiny_qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(f"plan {tiny_qwen3} -o {tmp_path / 'out'} --head --json".split()) == 0
    planned = json.loads(capsys.readouterr().out)
    assert [step["work"] for step in planned["steps"]] == ["quant", "compress", "run"]
    assert planned["problems"] == []
    assert planned["recipe_name"] is None
    for step in planned["steps"]:
        assert 10**8 < step["memory"]["needed"] < step["memory"]["available"]
    assert planned["steps"][0]["disks"][0]["folder"] == str(tmp_path)
    assert main(f"plan {tiny_qwen3}".split()) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()[1:]] == ["quant", "compress", "run"]
    assert list(tmp_path.iterdir()) == [], "nothing is made"


def test_a_plan_says_what_does_not_fit_and_ends_with_2(
    tiny_qwen3: Path, free: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    free["memory"] = 5 * 10**8
    assert main(f"plan {tiny_qwen3} --json".split()) == 2
    shown = capsys.readouterr()
    problems = json.loads(shown.out)["problems"]
    assert problems
    assert all(problem in shown.err for problem in problems)


def test_the_plan_of_a_quantized_model_foretells_the_compressed_size(
    tmp_path: Path, calibration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny_qwen3(tmp_path / "float", hidden=256, intermediate=512)
    quantized, compressed = tmp_path / "w8a8s", tmp_path / "w8a8sc"
    recipe = Recipe(samples=2, sequence_length=64, distill_steps=0)
    quantize_checkpoint(FloatCheckpoint(model), quantized, recipe, calibration=calibration)
    assert main(f"plan {quantized} --json".split()) == 0
    planned = json.loads(capsys.readouterr().out)["steps"]
    assert [step["work"] for step in planned] == ["compress", "run"]
    assert main(f"compress -m {quantized} -o {compressed}".split()) == 0
    assert "plan: memory" in capsys.readouterr().err
    assert weight_bytes(compressed) == pytest.approx(planned[0]["output"], rel=0.05)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("plan {quantized} --bits 3", "is quantized already; options of the quantization do not change it"),
        ("plan {float} --bits 9", "bits is 9.0; choose a number from 1 to 7.5"),
        ("plan {out}", "no such directory"),
    ],
)
def test_a_plan_refuses_what_the_work_would(
    command: str,
    message: str,
    tiny_qwen3: Path,
    calibration: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quantized = tmp_path / "w8a8s"
    if "{quantized}" in command:
        recipe = Recipe(samples=2, sequence_length=32, distill_steps=0)
        quantize_checkpoint(FloatCheckpoint(tiny_qwen3), quantized, recipe, calibration=calibration)
    assert main(command.format(quantized=quantized, float=tiny_qwen3, out=tmp_path / "none").split()) == 2
    assert message in capsys.readouterr().err


def test_plan_and_work_settle_alike_but_for_what_the_text_fills(tiny_qwen3: Path) -> None:
    """plan cannot know how much text there is: it takes what is asked for, and the work what is there."""
    source, machine = FloatCheckpoint(tiny_qwen3), Machine(memory=64 * GB, cores=8)
    foretold = settle(source, Recipe(), machine, None)
    assert foretold.distill_steps > 0
    assert settle(source, Recipe(), machine, None, (foretold.size.samples, foretold.size.length)) == foretold
    short = settle(source, Recipe(), machine, None, (3, 64))
    assert short.size == foretold.size
    assert short.distill_steps == 0
    assert settle(source, Recipe(distill_steps=5), machine, None, (3, 64)).distill_steps == 5
