"""Ranges of ordinary tokens, and what becomes of the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reference_model import logits_of, reference_model
from tilepress.checkpoint import FloatCheckpoint, W8A8SCheckpoint
from tilepress.errors import QuantizationError, UsageError
from tilepress.kernels import reference
from tilepress.quantize import QuantizationReport, Recipe, quantize_checkpoint
from tilepress.quantize.rounding.layer import pack
from tilepress.quantize.statistics.input_statistics import InputStatistics
from tilepress.quantize.transforms.activation_ranges import ActivationRange, range_of
from tilepress.quantize.transforms.overflow_ranges import ordinary_rows, overflow_range, per_token_range
from tiny_models import make_tiny_llama, make_tiny_qwen3

DOWN = "model.layers.0.mlp.down_proj"


def tokens(count: int = 2000, columns: int = 32) -> Tensor:
    """Ordinary ones, and every hundredth massive."""
    x = torch.randn(count, columns, generator=torch.Generator().manual_seed(0))
    x[::100, 3] = 900.0
    return x


def statistics_of(rows: Tensor) -> InputStatistics:
    return InputStatistics(rows.T @ rows / len(rows), rows.mean(0), rows.amin(0), rows.amax(0), rows)


def test_own_scales_are_those_of_the_kernels() -> None:
    x = tokens(64)
    chosen = ActivationRange(0.02, -5, dynamic=True)
    overflows, scale, offset = reference.dynamic(x, torch.tensor(chosen.scale), torch.tensor(chosen.offset))
    assert torch.equal(chosen.overflows(x), overflows[:, 0])
    assert 0 < int(overflows.sum()) < 64

    integers = reference.quantize_activations(x, scale, offset)
    expected = torch.where(overflows, (integers - offset) * scale, chosen.clip(x))
    torch.testing.assert_close(chosen.round_trip(x), expected)


def test_zeros_survive_a_scale_of_their_own() -> None:
    assert torch.equal(ActivationRange(0.1, -200, dynamic=True).round_trip(torch.zeros(2, 4)), torch.zeros(2, 4))


def test_massive_tokens_are_left_out() -> None:
    assert len(ordinary_rows(tokens())) == 1980
    assert float(ordinary_rows(tokens()).max()) < 6.0
    mostly_zero = torch.zeros(5, 4)
    mostly_zero[0] = 1.0
    assert len(ordinary_rows(mostly_zero)) == 5


def test_the_range_is_fitted_to_ordinary_tokens() -> None:
    x = tokens()
    chosen = overflow_range(statistics_of(x), torch.ones(32), torch.float16, "here")
    left_out = chosen.overflows(x)
    assert left_out[::100].all()
    assert 0.01 < float(left_out.float().mean()) < 0.035
    whole = range_of(float(ordinary_rows(x).min()), float(ordinary_rows(x).max()), torch.float16, "here")
    assert chosen.scale < 0.95 * whole.scale
    assert (chosen.round_trip(x) - x).square().mean() < (whole.clip(x) - x).square().mean()


def test_few_tokens_of_one_sign_leave_a_range_of_that_sign() -> None:
    """A long tail upwards: tokens are let out there, and none below."""
    x = torch.rand(1000, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    x[:15, 2] = 4.0 * torch.linspace(0.3, 1.0, 15)
    chosen = overflow_range(statistics_of(x), torch.ones(16), torch.float16, "here")
    leaving = x[chosen.overflows(x)]
    assert (leaving.amax(dim=1) > 0.5).sum() == 15
    assert chosen.scale < 1.1 / 255


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_errors_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(QuantizationError, match=r"layers\.0\.down: the error of the activations is not finite"):
        overflow_range(statistics_of(tokens()), torch.full((32,), bad), torch.float16, "layers.0.down")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 1e-2, 1e2])
def test_practically_all_tokens_leave_a_per_token_range(size: float, dtype: torch.dtype) -> None:
    x = size * tokens()
    chosen = per_token_range(x, dtype, "here")
    assert torch.finfo(dtype).tiny <= chosen.scale <= float(x.abs().amax(1).median()) / 255
    assert chosen.offset == 0
    assert chosen.overflows(x).all()
    ordinary = range_of(float(ordinary_rows(x).min()), float(ordinary_rows(x).max()), dtype, "here")
    assert (chosen.round_trip(x) - x)[1:100].square().mean() < (ordinary.clip(x) - x)[1:100].square().mean()
    # What stays in it is nothing beside the ordinary step.
    small = torch.linspace(-0.4, 0.4, 32)[None] * ordinary.scale
    finest = max(ordinary.scale / 256, torch.finfo(dtype).tiny)
    assert (chosen.round_trip(small) - small).abs().max() <= 0.51 * finest


def test_a_bias_fits_the_fine_scale_of_a_per_token_range() -> None:
    """quant_bias counts steps of input_scale · Δ, a 256th of what a static range would have."""
    q = torch.randint(-127, 128, (4, 32), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    steps, bias = torch.full((4,), 1e-3), torch.tensor([0.0, 0.5, -20.0, 100.0])
    inputs = per_token_range(tokens(), torch.float16, "here")
    linear = pack(q, steps, inputs, bias, "here")
    assert linear.kind == "W8A8S_DYNAMIC"
    torch.testing.assert_close(linear.quant_bias * linear.deq_scale, bias, rtol=1e-4, atol=1e-6)
    with pytest.raises(QuantizationError, match="here: quant_bias does not fit int32"):
        pack(q, steps, inputs, 1e4 * bias, "here")


@pytest.fixture
def massive_llama(tmp_path: Path) -> Path:
    """A Llama whose start token's down_proj inputs are far larger than those of all others."""
    path = make_tiny_llama(tmp_path / "float", seed=3)
    file = path / "model.safetensors"
    tensors = load_file(file)
    start = 256
    embedding = tensors["model.embed_tokens.weight"]
    embedding[:, 7] = 0.0  # a channel that tells the start token from all others
    embedding[start, 7] = 30.0
    tensors["model.layers.0.self_attn.o_proj.weight"][7] = 0.0
    for name in ("gate_proj", "up_proj"):
        tensors[f"model.layers.0.mlp.{name}.weight"][:, 7] = 1.0
    save_file(tensors, file, {"format": "pt"})
    return path


def quantized(source: Path, out: Path, calibration: Path, **options: object) -> QuantizationReport:
    recipe = Recipe(samples=6, sequence_length=64, bits=6.0, **options)  # type: ignore[arg-type]
    return quantize_checkpoint(FloatCheckpoint(source), out, recipe, calibration=calibration)


def test_massive_tokens_overflow_and_leave_the_others_a_finer_step(
    massive_llama: Path, calibration: Path, tmp_path: Path
) -> None:
    reports, scales = {}, {}
    for activations in ("overflow", "static"):
        report = quantized(massive_llama, tmp_path / activations, calibration, activations=activations)
        reports[activations] = {linear.name: linear for linear in report.linears}
        scales[activations] = W8A8SCheckpoint(tmp_path / activations).linear(DOWN).input_scale
    assert scales["overflow"] < 0.5 * scales["static"]
    assert 0.5 / 64 < reports["overflow"][DOWN].overflows < 0.06
    assert reports["overflow"][DOWN].clipped == 0.0


@pytest.mark.parametrize("activations", ["overflow", "static", "per-token", "dynamic"])
def test_the_mode_is_recorded_and_kept_to(activations: str, calibration: Path, tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float", heads=4, kv_heads=2)
    report = quantized(source, tmp_path / "out", calibration, activations=activations, head=True)

    made = W8A8SCheckpoint(tmp_path / "out")
    assert made.activations == activations
    assert json.loads((tmp_path / "out" / "quant_model_description.json").read_text())["activations"] == activations
    dynamic = [name for name in made.quantized_linears() if made.linear(name).kind == "W8A8S_DYNAMIC"]
    down = [f"model.layers.{layer}.mlp.down_proj" for layer in range(2)]
    assert dynamic == {"per-token": down, "dynamic": made.quantized_linears()}.get(activations, [])
    overflows = {linear.name: linear.overflows for linear in report.linears}
    assert all((overflows[name] > 0.99) == (name in dynamic) for name in overflows)
    assert all(linear.relative_error < 0.01 for linear in report.linears)
    assert float(logits_of(reference_model(source, tmp_path / "out")).std()) > 0.1


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="activations is 'exact'; choose one of overflow, static, per-token, dynamic"):
        Recipe(activations="exact")
