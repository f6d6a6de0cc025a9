"""How long to distil: as many steps as pay, within model and machine."""

from __future__ import annotations

from tilepress.checkpoint import ModelShape
from tilepress.machine.memory import MEMORY_SHARE, Machine
from tilepress.models.flops import WORK_A_CORE, distillation_work
from tilepress.models.layer_inputs import LINEARS
from tilepress.quantize.distillation.train import held_back
from tilepress.quantize.recipe.recipe import Recipe

STEPS = 45
# Fewer are hardly more than the warm-up.
FEWEST_STEPS = 16


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
