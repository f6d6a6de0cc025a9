"""Bits, bytes or loss as the target, and the curve of what other choices give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tilepress.checkpoint import FloatCheckpoint, W8A8SCCheckpoint, W8A8SCheckpoint, open_checkpoint, summarize
from tilepress.compress import compress_directory
from tilepress.errors import QuantizationError, UsageError
from tilepress.quantize import Recipe, quantize_checkpoint
from tilepress.quantize.estimate.stored_size import fixed_size
from tilepress.quantize.rate.allocation import fit_target, loss_curve, predicted_loss
from tilepress.quantize.rate.budget import Budget
from tilepress.quantize.rate.weight_scales import (
    SAMPLED_COLUMNS,
    WeightSample,
    fit_step_factor,
    sample_weights,
)
from tilepress.quantize.rounding.gptq import round_weights
from tilepress.quantize.statistics.hessian import factorize
from tiny_models import make_tiny_llama, make_tiny_qwen2, make_tiny_qwen3

QUICK = {"samples": 6, "sequence_length": 64}


def gaussian(n: int, k: int, seed: int) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed))


def samples(generator_seed: int = 0) -> list[WeightSample]:
    made = []
    for seed, sensitivity in ((1, 0.01), (2, 0.0001)):
        factor = factorize(torch.eye(64), 0.01, "here")
        by_row = torch.full((48,), sensitivity)
        generator = torch.Generator().manual_seed(generator_seed)
        made.append(sample_weights([gaussian(48, 64, seed)], by_row, factor, generator))
    return made


@pytest.mark.parametrize("bits", [2.5, 4.0])
def test_the_predicted_loss_is_half_of_fisher_times_squared_output_error(bits: float) -> None:
    """Against the weights as they are rounded, with all inputs, row by row."""
    inputs = gaussian(600, SAMPLED_COLUMNS, 0) @ (torch.eye(SAMPLED_COLUMNS) + 0.2 * gaussian(32, 32, 1))
    factor = factorize(inputs.T @ inputs / 600, 1e-4, "here")
    weight, sensitivity = gaussian(64, SAMPLED_COLUMNS, 2), torch.linspace(0.0, 2.0, 64)
    sample = sample_weights([weight], sensitivity, factor, torch.Generator().manual_seed(0))
    scale = fit_step_factor([sample], bits)

    steps = sample.weight_scales(scale)
    integers = round_weights(weight, steps, factor, sample.rate_at(scale)[1])

    error = 0.0
    for o in range(64):
        wrong = inputs @ (integers[o] * steps[o] - weight[o])
        error += 0.5 * float(sensitivity[o]) * float(wrong.square().mean())
    assert predicted_loss(sample, scale) == pytest.approx(error, rel=0.1)


def test_a_loss_is_met_by_the_steps_that_are_predicted_to_cost_it() -> None:
    chosen = fit_target(samples(), Recipe(loss=0.02), fixed=0)
    assert sum(predicted_loss(sample, chosen) for sample in samples()) == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize("loss", [1e-9, 100.0])
def test_a_loss_out_of_reach_is_refused_with_what_is_in_reach(loss: float) -> None:
    with pytest.raises(QuantizationError, match=r"nats cannot be met; from .* is in reach"):
        fit_target(samples(), Recipe(loss=loss), fixed=0)


def test_the_curve_goes_from_6_to_2_bits_and_its_loss_rises() -> None:
    chosen = fit_target(samples(), Recipe(bits=3.0), fixed=1000)
    curve = loss_curve(samples(), chosen, 1000)
    assert curve[0].bits >= 6.0
    assert curve[-1].bits <= 2.0
    assert 8 <= len(curve) <= 16
    assert [p.loss for p in curve] == sorted(p.loss for p in curve)
    assert [p.size for p in curve] == sorted((p.size for p in curve), reverse=True)
    assert min(abs(p.bits - 3.0) for p in curve) < 0.003, "the choice is one of its points"


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (900, r"900 bytes cannot be met: what stays float, scales and index take 1\.00 kB; ask for .*--embeddings"),
        (1100, r"leaves 0\.13 bits a weight; ask for"),
        (10**6, r"1\.00 MB is more than int8 weights fill; ask for 6\.76 kB or less"),
    ],
)
def test_a_size_out_of_reach_is_refused_with_what_is_in_reach(size: int, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        fit_target(samples(), Recipe(size=size), fixed=1000)


def test_groups_left_make_up_for_what_others_took() -> None:
    budget = Budget({"a": 4.0, "b": 4.0, "c": 2.0}, {"a": 100, "b": 100, "c": 200}, exact=True)
    assert budget.bits("a") == 4.0
    budget.spend("a", 4.0, 4.4)
    left = 4.0 * 100 + 4.0 * 100 + 2.0 * 200 - 4.4 * 100
    b, c = budget.bits("b"), budget.bits("c")
    assert 1.1 * (100 * b + 200 * c) == pytest.approx(left), "as much longer than aimed at as before"
    assert b == pytest.approx(2 * c)


@pytest.mark.parametrize("tables", [False, True], ids=["linears", "all"])
@pytest.mark.parametrize("make", [make_tiny_qwen3, make_tiny_qwen2, make_tiny_llama])
def test_a_size_comes_out(make, tables: bool, calibration: Path, tmp_path: Path) -> None:
    source = FloatCheckpoint(make(tmp_path / "float", heads=4, kv_heads=2))
    size = 90_000 if tables else 160_000
    recipe = Recipe(size=size, head=tables, embeddings=tables, **QUICK)

    quantize_checkpoint(source, tmp_path / "w8a8s", recipe, calibration=calibration)
    compress_directory(tmp_path / "w8a8s", tmp_path / "w8a8sc")

    (file,) = W8A8SCCheckpoint(tmp_path / "w8a8sc").files()
    assert file.stat().st_size == pytest.approx(size, rel=0.03)


def test_the_report_is_stored_beside_the_weights_and_goes_along(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path
) -> None:
    recipe = Recipe(bits=3.5, seed=7, **QUICK)
    report = quantize_checkpoint(FloatCheckpoint(tiny_qwen3), tmp_path / "w8a8s", recipe, calibration=calibration)
    compress_directory(W8A8SCheckpoint(tmp_path / "w8a8s").path, tmp_path / "w8a8sc")

    stored = json.loads((tmp_path / "w8a8s" / "quantization_report.json").read_text(encoding="utf-8"))
    assert stored["recipe"]["bits"] == 3.5
    assert stored["recipe"]["seed"] == 7
    assert stored["loss"] == pytest.approx(report.loss)
    assert [set(point) for point in stored["curve"]] == [{"step_factor", "bits", "size", "loss"}] * len(report.curve)
    assert len(stored["linears"]) == 14
    copied = tmp_path / "w8a8sc" / "quantization_report.json"
    assert json.loads(copied.read_text(encoding="utf-8")) == stored
    assert summarize(open_checkpoint(tmp_path / "w8a8sc")).estimated_loss == report.loss


def test_the_fixed_size_shrinks_by_the_tables_that_are_quantized(tiny_qwen3: Path) -> None:
    source = FloatCheckpoint(tiny_qwen3)
    neither, head, both = (
        fixed_size(source, Recipe(head=head, embeddings=embeddings, activations="static"))
        for head, embeddings in ((False, False), (True, False), (True, True))
    )
    table = 2 * 320 * 64
    assert neither - head == pytest.approx(table - 12 * 320, rel=0.03)
    assert head - both == pytest.approx(table - 4 * 320, rel=0.03)


def test_the_fixed_size_has_the_row_sums_of_linears_whose_tokens_are_quantized_dynamically(tiny_qwen3: Path) -> None:
    source = FloatCheckpoint(tiny_qwen3)
    static, per_token, overflow = (
        fixed_size(source, Recipe(activations=mode)) for mode in ("static", "per-token", "overflow")
    )
    assert static < per_token < overflow


def test_two_targets_are_refused() -> None:
    with pytest.raises(UsageError, match="bits and size are given; choose one target"):
        Recipe(bits=4.0, size=10**6)


def test_groups_that_take_no_bits_leave_nothing_to_share() -> None:
    budget = Budget({"a": 4.0, "zeros": 0.0}, {"a": 100, "zeros": 100}, exact=True)
    budget.spend("a", 4.0, 4.1)
    assert budget.bits("zeros") == 0.0
