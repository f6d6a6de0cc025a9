"""What is chosen where the recipe leaves it open: decided here, for `plan` and for the work alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tilepress.checkpoint import FloatCheckpoint, ModelShape
from tilepress.machine.memory import MEMORY_SHARE, Machine
from tilepress.models.flops import WORK_A_CORE, distillation_work
from tilepress.models.layer_inputs import LINEARS
from tilepress.quantize.calibration.size import CalibrationSize, calibration_size
from tilepress.quantize.distillation.train import held_back
from tilepress.quantize.estimate.memory import bounded
from tilepress.quantize.recipe.recipe import Recipe

STEPS = 45
# Fewer are hardly more than the warm-up.
FEWEST_STEPS = 16


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


def distillation_steps(recipe: Recipe, shape: ModelShape, samples: int, length: int, machine: Machine) -> int:
    """What the recipe asks for; where it leaves that open, 45 or what is feasible, 0 where that is little.

    samples sequences of length tokens, of which none is used twice. The work is bounded by that of the statistics, and
    the student, a byte a weight and the float head, has to fit the share of the memory that hidden states may take.
    """
    if recipe.distill_steps is not None:
        return recipe.distill_steps
    weights = shape.layers * sum(n * k for n, k in map(shape.linear, LINEARS))
    if weights + 4 * shape.vocab * shape.hidden > MEMORY_SHARE * machine.memory:
        return 0
    steps = min(STEPS, samples - held_back(samples))
    if machine.cores is not None:
        steps = min(steps, int(WORK_A_CORE * machine.cores / (length * distillation_work(shape, length))))
    return steps if steps >= FEWEST_STEPS else 0
