"""How many tokens are calibrated on, by model and machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilepress.checkpoint import FloatCheckpoint, ModelShape
from tilepress.machine.memory import Machine
from tilepress.models.flops import WORK_A_CORE, sensitivity_work, statistics_work
from tilepress.quantize import Recipe, quantize_checkpoint
from tilepress.quantize.calibration.size import FEWEST_TOKENS, calibration_size

GB = 10**9
SMOLLM2 = ModelShape(layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, head_dim=64, vocab=49152, tied=True)
QWEN3_32B = ModelShape(
    layers=64, hidden=5120, intermediate=25600, heads=64, kv_heads=8, head_dim=128, vocab=151936, tied=False
)


def test_a_device_with_room_takes_128_sequences_of_2048_tokens() -> None:
    size = calibration_size(Recipe(), SMOLLM2, 8192, Machine(80 * GB, None))
    assert (size.samples, size.length) == (128, 2048)
    assert (size.sensitivity_samples, size.sensitivity_length) == (32, 512)
    assert size.limits == ()


def test_sequences_are_no_longer_than_the_models_context() -> None:
    size = calibration_size(Recipe(), SMOLLM2, 1024, Machine(80 * GB, None))
    assert (size.samples, size.length, size.limits) == (128, 1024, ("context",))
    assert calibration_size(Recipe(sequence_length=4096), SMOLLM2, 1024, Machine(80 * GB, None)).length == 1024


def test_hidden_states_take_at_most_a_quarter_of_the_memory() -> None:
    size = calibration_size(Recipe(), QWEN3_32B, 40960, Machine(8 * GB, None))
    assert size.limits == ("memory",)
    assert size.length == 1024, "shorter before fewer"
    assert 1.9 * GB < 4 * size.samples * size.length * QWEN3_32B.hidden <= 2 * GB


@pytest.mark.parametrize("cores", [2, 4])
def test_two_cores_are_given_some_minutes_of_work(cores: int) -> None:
    size = calibration_size(Recipe(), SMOLLM2, 8192, Machine(24 * GB, cores))
    work = size.samples * size.length * statistics_work(SMOLLM2, size.length)
    work += size.sensitivity_samples * size.sensitivity_length * sensitivity_work(SMOLLM2, size.sensitivity_length)
    assert size.limits == ("work",)
    assert 0.8 * cores * WORK_A_CORE < work <= cores * WORK_A_CORE


def test_a_large_model_on_few_cores_still_gets_enough_tokens_for_a_hessian() -> None:
    size = calibration_size(Recipe(), QWEN3_32B, 40960, Machine(64 * GB, 2))
    assert size.samples * size.length == FEWEST_TOKENS
    assert size.sensitivity_samples == 8


def test_the_same_machine_gives_the_same_choice() -> None:
    first, second = (calibration_size(Recipe(), SMOLLM2, 8192, Machine(24 * GB, 2)) for _ in range(2))
    assert first == second


def test_what_is_asked_for_is_done_whatever_it_costs() -> None:
    machine = Machine(GB, 1)
    size = calibration_size(Recipe(samples=200, sequence_length=4096), QWEN3_32B, 40960, machine)
    assert (size.samples, size.length, size.limits) == (200, 4096, ())
    assert calibration_size(Recipe(samples=1000), SMOLLM2, 8192, machine).samples == 1000
    assert calibration_size(Recipe(sequence_length=2048), SMOLLM2, 8192, machine).length == 2048
    assert calibration_size(Recipe(samples=3, sequence_length=64), SMOLLM2, 8192, machine).sensitivity_samples == 3


def test_the_report_says_what_was_chosen_and_why(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    report = quantize_checkpoint(FloatCheckpoint(tiny_qwen3), tmp_path / "out", Recipe(), calibration=calibration)
    assert report.limits == ("text",)
    assert report.sequence_length == 512, "the context of the model"
    assert report.samples * report.sequence_length == report.calibration_tokens


def test_effort_is_a_quarter_or_four_times_the_tokens() -> None:
    machine = Machine(24 * GB, 2)
    low, default, high = (
        calibration_size(Recipe(effort=effort, sequence_length=512), SMOLLM2, 8192, machine)
        for effort in ("low", "default", "high")
    )

    assert low.samples * low.length == FEWEST_TOKENS
    assert default.samples * default.length > 2 * FEWEST_TOKENS
    assert (low.samples, default.samples, high.samples) == (32, 72, 128)
    assert (low.sensitivity_samples, default.sensitivity_samples, high.sensitivity_samples) == (8, 14, 58)
