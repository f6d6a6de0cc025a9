"""Memory and disk are foretold from the model's shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tilepress.checkpoint import FloatCheckpoint, ModelShape
from tilepress.errors import UsageError
from tilepress.quantize import Progress, Recipe, quantize_checkpoint
from tilepress.quantize.calibration.size import CalibrationSize
from tilepress.quantize.estimate.memory import bounded, held_states, peak_memory, working_memory
from tilepress.quantize.estimate.stored_size import work_size
from tilepress.quantize.resume import work_directory

GB = 10**9
QWEN3 = {
    "8B": ModelShape(36, 4096, 12288, 32, 8, 128, 151936, tied=False),
    "14B": ModelShape(40, 5120, 17408, 40, 8, 128, 151936, tied=False),
    "32B": ModelShape(64, 5120, 25600, 64, 8, 128, 151936, tied=False),
}
# The least that calibration_size chooses on a CPU.
SIZE = CalibrationSize(32, 512, 8, 512, 6 * GB, ())
WHOLE = Recipe(head=True, embeddings=True)


@pytest.mark.parametrize(("name", "most"), [("8B", 6), ("14B", 8), ("32B", 14)])
def test_large_models_fit_small_machines(name: str, most: int) -> None:
    assert peak_memory(QWEN3[name], WHOLE, SIZE) < most * GB


def test_depth_takes_no_memory() -> None:
    shape = QWEN3["32B"]
    assert peak_memory(shape, WHOLE, SIZE) == peak_memory(replace(shape, layers=2), WHOLE, SIZE)


def test_hidden_states_count_where_they_are_in_memory() -> None:
    shape, states = QWEN3["8B"], 4 * 32 * 512 * 4096
    assert peak_memory(shape, WHOLE, SIZE) == working_memory(shape, WHOLE, SIZE) + states
    assert held_states(shape, replace(SIZE, memory=states - 1)) == 0


def test_a_bound_leaves_to_hidden_states_what_a_layer_does_not_take() -> None:
    shape = QWEN3["8B"]
    working = working_memory(shape, WHOLE, SIZE)
    assert bounded(SIZE, shape, WHOLE, working + 1000).memory == 1000
    with pytest.raises(UsageError, match=r"--max-memory 1\.00GB: .* takes \d\.\d+ GB"):
        bounded(SIZE, shape, WHOLE, GB)


def test_the_work_takes_the_disk_that_was_foretold(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    source, out = FloatCheckpoint(tiny_qwen3), tmp_path / "out"
    recipe = replace(WHOLE, samples=6, sequence_length=64, distill_steps=0)
    taken: list[int] = []

    def look(_: Progress) -> None:
        taken.append(sum(file.stat().st_size for file in work_directory(out).glob("*.safetensors")))

    quantize_checkpoint(source, out, recipe, calibration=calibration, progress=look)

    foretold = work_size(source.shape, recipe, CalibrationSize(6, 64, 6, 64, GB, ()))
    assert 0.6 * foretold < max(taken) < 1.05 * foretold
