"""What is chosen where the recipe leaves it open: decided here, for `plan` and for the work alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tilepress.checkpoint import FloatCheckpoint
from tilepress.machine.memory import Machine
from tilepress.quantize.calibration.size import CalibrationSize, calibration_size
from tilepress.quantize.distillation.steps import distillation_steps
from tilepress.quantize.estimate.memory import bounded
from tilepress.quantize.recipe.recipe import Recipe


@dataclass(frozen=True)
class Settled:
    """size: of the calibration. distill_steps: steps of distillation that will be done."""

    size: CalibrationSize
    distill_steps: int


def settle(
    source: FloatCheckpoint,
    recipe: Recipe,
    machine: Machine,
    max_memory: int | None,
    found: tuple[int, int] | None = None,
) -> Settled:
    """The size of the calibration and the steps of distillation.

    found: how many sequences of how many tokens the calibration text fills. Before it is read nobody knows, and None
    takes it to fill all that are asked for: with a short text there will be fewer steps, or none. Raises UsageError
    where max_memory is too little.
    """
    size = calibration_size(recipe, source.shape, int(source.config["max_position_embeddings"]), machine)
    if max_memory is not None:
        size = bounded(size, source.shape, recipe, max_memory)
        machine = replace(machine, memory=min(machine.memory, max_memory))
    samples, length = (size.samples, size.length) if found is None else found
    return Settled(size, distillation_steps(recipe, source.shape, samples, length, machine))
