"""Linears that stay float: by name, or because the static range of their input costs too much."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from reference_model import logits_of
from tilepress import load
from tilepress.checkpoint import FloatCheckpoint, W8A8SCheckpoint
from tilepress.checkpoint.targets import VENDOR, refusals
from tilepress.cli import main
from tilepress.compress import compress_directory
from tilepress.errors import QuantizationError, UsageError
from tilepress.models.layer_inputs import LINEARS
from tilepress.quantize import Progress, Recipe, quantize_checkpoint, w8a8sc_size
from tiny_models import make_qwen3_with_outliers, make_tiny_qwen2, make_tiny_qwen3

DOWN = "mlp.down_proj"
QUICK = {"samples": 6, "sequence_length": 64}


def quantized(made: W8A8SCheckpoint) -> set[str]:
    return {name for name in made.quantized_linears() if name != "lm_head"}


def all_linears() -> set[str]:
    return {f"model.layers.{layer}.{name}" for layer in range(2) for name in LINEARS}


def test_linears_stay_float_by_the_ends_of_their_names(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    source = FloatCheckpoint(tiny_qwen3)
    recipe = Recipe(**QUICK, float_linears=("down_proj", "layers.1.self_attn.*"))
    report = quantize_checkpoint(source, tmp_path / "out", recipe, calibration=calibration)

    made = W8A8SCheckpoint(tmp_path / "out")
    left = {name for name in all_linears() if name.endswith(DOWN) or ".1.self_attn." in name}
    assert quantized(made) == all_linears() - left == {linear.name for linear in report.linears}
    assert set(report.recipe.float_linears) == left
    types = json.loads((tmp_path / "out" / "quant_model_description.json").read_text())
    assert {types[f"{name}.weight"] for name in left} == {"FLOAT"}
    for name in (f"model.layers.0.{DOWN}", "model.layers.1.self_attn.o_proj", "model.layers.1.self_attn.q_proj"):
        kept, before = made.float_tensor(f"{name}.weight").float(), source.tensor(f"{name}.weight").float()
        scale = (kept * before).sum(dim=0) / before.square().sum(dim=0).clamp(min=1e-30)
        torch.testing.assert_close(kept, before * scale, atol=1e-3, rtol=2e-3)  # norms in front were rounded


def test_linears_with_one_input_stay_float_together(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    recipe = Recipe(**QUICK, float_linears=("model.layers.0.mlp.gate_proj",))
    quantize_checkpoint(FloatCheckpoint(tiny_qwen3), tmp_path / "out", recipe, calibration=calibration)
    left = all_linears() - quantized(W8A8SCheckpoint(tmp_path / "out"))
    assert left == {"model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"}


@pytest.mark.parametrize("tp", [1, 2])
def test_engines_run_and_compress_them(tp: int, calibration: Path, tmp_path: Path) -> None:
    source = make_tiny_qwen2(tmp_path / "float", heads=4, kv_heads=2)
    recipe = Recipe(**QUICK, bits=6.0, float_linears=("down_proj", "layers.0.self_attn.q_proj"))
    quantize_checkpoint(FloatCheckpoint(source), tmp_path / "out", recipe, calibration=calibration)
    compress_directory(tmp_path / "out", tmp_path / "compressed", tp=tp)
    logits = [logits_of(load(folder, dtype=torch.float32)[0]) for folder in (tmp_path / "out", tmp_path / "compressed")]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-5, atol=1e-5)
    exact = logits_of(load(source, dtype=torch.float32)[0])
    assert float((logits[0] - exact).square().mean() / exact.square().mean()) < 0.02


def test_training_leaves_them_as_they_are(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    source, left = FloatCheckpoint(tiny_qwen3), {f"model.layers.{layer}.{DOWN}" for layer in range(2)}
    for name, steps in (("plain", 0), ("trained", 64)):
        recipe = Recipe(**QUICK, bits=3.0, float_linears=(DOWN, "layers.0.*"), block_steps=steps, distill_steps=steps)
        quantize_checkpoint(source, tmp_path / name, recipe, calibration=calibration)
    plain, trained = (W8A8SCheckpoint(tmp_path / name) for name in ("plain", "trained"))
    for name in left:
        assert torch.equal(plain.float_tensor(f"{name}.weight"), trained.float_tensor(f"{name}.weight"))
    assert quantized(trained) == {name for name in all_linears() if ".1." in name} - left


def test_bits_and_size_count_what_is_left(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    source = FloatCheckpoint(tiny_qwen3)
    recipe = Recipe(**QUICK, bits=4.0, coding="tiles", float_linears=(DOWN,))
    report = quantize_checkpoint(source, tmp_path / "out", recipe, calibration=calibration)
    assert report.bits == pytest.approx(4.0, abs=0.3)
    compress_directory(tmp_path / "out", tmp_path / "compressed")
    made = sum(file.stat().st_size for file in (tmp_path / "compressed").rglob("*.safetensors"))
    assert made == pytest.approx(w8a8sc_size(source, recipe), rel=0.1)
    assert w8a8sc_size(source, recipe) > w8a8sc_size(source, Recipe(bits=4.0, coding="tiles")) * 1.1


def test_what_a_static_range_costs_most_stays_float(calibration: Path, tmp_path: Path) -> None:
    source = FloatCheckpoint(make_qwen3_with_outliers(tmp_path / "float", 0))
    static = Recipe(**QUICK, activations="static")
    left = {}
    for limit in (1e-9, 1e-4, 1e3):
        out = tmp_path / f"{limit}"
        recipe = Recipe(**QUICK, activations="static", float_above=limit)
        if limit == 1e-9:
            with pytest.raises(QuantizationError, match="float_above"):
                quantize_checkpoint(source, out, recipe, calibration=calibration)
            continue
        report = quantize_checkpoint(source, out, recipe, calibration=calibration)
        left[limit] = set(report.recipe.float_linears)
        assert all_linears() - quantized(W8A8SCheckpoint(out)) == left[limit]
    assert left[1e3] == set()
    # The start token makes huge inputs of down_proj: its range is the coarsest.
    assert f"model.layers.0.{DOWN}" in left[1e-4]
    assert left[1e-4] != all_linears()
    before = quantize_checkpoint(source, tmp_path / "static", static, calibration=calibration)
    assert before.recipe.float_linears == ()


def test_a_run_that_was_cut_short_goes_on(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    source = FloatCheckpoint(tiny_qwen3)
    recipe = Recipe(**QUICK, activations="static", float_linears=(DOWN,), float_above=1e-3)
    quantize_checkpoint(source, tmp_path / "whole", recipe, calibration=calibration)

    def stop(progress: Progress) -> None:
        if progress.done == progress.total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(source, tmp_path / "out", recipe, calibration=calibration, progress=stop)
    quantize_checkpoint(source, tmp_path / "out", recipe, calibration=calibration)
    weights = "quant_model_weight_w8a8s.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("down",), "float_linears has 'down', which names no linear of this model; they are called model.layers.0"),
        (("layers.7.*",), "names no linear"),
        (("model.layers.*",), "nothing is left to quantize"),
    ],
)
def test_patterns_have_to_name_linears_and_leave_some(
    patterns: tuple[str, ...], message: str, tiny_qwen3: Path, calibration: Path, tmp_path: Path
) -> None:
    recipe = Recipe(**QUICK, float_linears=patterns)
    with pytest.raises(UsageError, match=message):
        quantize_checkpoint(FloatCheckpoint(tiny_qwen3), tmp_path / "out", recipe, calibration=calibration)
    assert not any(path for path in tmp_path.iterdir() if "out" in path.name)


def test_the_command_line_says_what_stays_float(
    calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_tiny_qwen3(tmp_path / "float")
    command = f"quant -m {source} -o {tmp_path / 'out'} --calib {calibration} --samples 4 --sequence-length 64"
    assert main([*command.split(), "--for", "vendor", "--float", "down_proj", "--float", "layers.0.mlp.*"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "stay float 4 linears: model.layers.0.mlp.gate_proj" in shown
    assert refusals(tmp_path / "out", VENDOR) == []
