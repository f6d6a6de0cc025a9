"""How many steps of training a model and a machine are given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tilepress.checkpoint import ModelShape
from tilepress.machine.memory import Machine
from tilepress.models.flops import WORK_A_CORE, block_work, distillation_work
from tilepress.quantize import Recipe
from tilepress.quantize.distillation.blocks import TOKENS
from tilepress.quantize.estimate.settle import block_steps, distillation_steps

GB = 10**9
SMOLLM2 = ModelShape(layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, head_dim=64, vocab=49152, tied=True)
QWEN3_8B = ModelShape(
    layers=36, hidden=4096, intermediate=12288, heads=32, kv_heads=8, head_dim=128, vocab=151936, tied=False
)


@pytest.mark.parametrize("machine", [Machine(24 * GB, 2), Machine(80 * GB, None)], ids=["two cores", "a device"])
def test_a_small_model_is_distilled_unless_told_otherwise(machine: Machine) -> None:
    assert distillation_steps(Recipe(), SMOLLM2, 64, 512, machine) == 45
    assert distillation_steps(Recipe(distill_steps=0), SMOLLM2, 64, 512, machine) == 0
    assert distillation_steps(Recipe(effort="low"), SMOLLM2, 64, 512, machine) == 0
    assert distillation_steps(Recipe(effort="high"), SMOLLM2, 128, 512, machine) == 112
    assert distillation_steps(Recipe(effort="high"), SMOLLM2, 1000, 512, machine) == 180
    assert distillation_steps(Recipe(distill_steps=500), SMOLLM2, 64, 512, machine) == 500


def test_no_sequence_is_used_twice_and_a_handful_not_at_all() -> None:
    device = Machine(80 * GB, None)
    assert distillation_steps(Recipe(), SMOLLM2, 32, 512, device) == 28, "an eighth is held back"
    assert distillation_steps(Recipe(), SMOLLM2, 16, 512, device) == 0


def test_cores_bound_the_work() -> None:
    wide = replace(SMOLLM2, hidden=1152, intermediate=3072)
    work = distillation_work(wide, 512) * 512
    steps = distillation_steps(Recipe(), wide, 64, 512, Machine(24 * GB, 3))
    assert 16 <= steps < 45
    assert steps * work <= 3 * WORK_A_CORE < (steps + 1) * work
    assert distillation_steps(Recipe(), wide, 64, 512, Machine(24 * GB, 1)) == 0, "too few steps to gain anything"


def test_a_student_that_memory_has_no_room_for_is_not_trained_unasked() -> None:
    assert distillation_steps(Recipe(), QWEN3_8B, 128, 2048, Machine(24 * GB, None)) == 0
    assert distillation_steps(Recipe(), QWEN3_8B, 128, 2048, Machine(80 * GB, None)) == 45
    assert distillation_steps(Recipe(distill_steps=10), QWEN3_8B, 128, 2048, Machine(24 * GB, None)) == 10


def test_the_integers_of_a_small_model_are_trained_unless_told_otherwise() -> None:
    device = Machine(80 * GB, None)
    assert block_steps(Recipe(), SMOLLM2, 64, 512, device) == 128
    assert block_steps(Recipe(effort="high"), SMOLLM2, 128, 512, device) == 512
    assert block_steps(Recipe(effort="low"), SMOLLM2, 64, 512, device) == 0
    assert block_steps(Recipe(distill_steps=0), SMOLLM2, 64, 512, device) == 0, "no training at all"
    assert block_steps(Recipe(distill_steps=0, block_steps=9), SMOLLM2, 64, 512, device) == 9
    assert block_steps(Recipe(), QWEN3_8B, 128, 2048, Machine(24 * GB, None)) == 0, "no room in memory"


def test_training_that_does_not_fit_the_memory_is_left_out() -> None:
    """Both hold the hidden states of all tokens."""
    small = Machine(24 * GB, None)
    assert block_steps(Recipe(), SMOLLM2, 1024, 2048, small) == 128
    assert block_steps(Recipe(), SMOLLM2, 4096, 2048, small) == 0
    assert distillation_steps(Recipe(), SMOLLM2, 1024, 2048, small) == 45
    assert distillation_steps(Recipe(), SMOLLM2, 8192, 2048, small) == 0


def test_no_window_of_512_tokens_is_used_more_than_five_times_for_integers() -> None:
    assert block_steps(Recipe(), SMOLLM2, 4, 4096, Machine(80 * GB, None)) == 5 * 3 * 8
    assert block_steps(Recipe(), SMOLLM2, 16, 512, Machine(80 * GB, None)) == 5 * 14
    assert block_steps(Recipe(), SMOLLM2, 8, 512, Machine(80 * GB, None)) == 0, "too few steps to gain anything"


def test_cores_bound_the_work_on_integers() -> None:
    step = TOKENS * block_work(SMOLLM2, 512)
    steps = block_steps(Recipe(), SMOLLM2, 64, 512, Machine(24 * GB, 2))
    assert 64 <= steps < 128
    assert steps * step <= 2 * WORK_A_CORE < (steps + 1) * step
    assert block_steps(Recipe(), SMOLLM2, 64, 512, Machine(24 * GB, 1)) == 0
