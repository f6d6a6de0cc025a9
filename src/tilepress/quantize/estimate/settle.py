"""Choices that the recipe leaves open, made here for the plan and the quantization alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tilepress.checkpoint import FloatCheckpoint, ModelShape
from tilepress.machine.memory import MEMORY_SHARE, Machine
from tilepress.models.flops import WORK_A_CORE, block_work, distillation_work
from tilepress.models.layer_inputs import LINEARS
from tilepress.quantize.calibration.size import CalibrationSize, calibration_size
from tilepress.quantize.distillation.blocks import FEWEST_STEPS as FEWEST_STEPS_OF_INTEGERS
from tilepress.quantize.distillation.blocks import TOKENS
from tilepress.quantize.distillation.train import held_back
from tilepress.quantize.estimate.memory import PROGRAM, block_memory, bounded, student_memory
from tilepress.quantize.estimate.stored_size import fixed_size, quantized_weights
from tilepress.quantize.rate.allocation import bits_of_size
from tilepress.quantize.recipe.recipe import Recipe

STEPS = 45
# Of each layer's integers, and how often they may see a sequence. 72 steps take 11 % off the divergence of SmolLM2's
# first layers at 3.5 bits, 120 of twice the tokens 17 %.
BLOCK_STEPS, EPOCHS = 128, 5
# Fewer steps are hardly more than the warm-up.
FEWEST_STEPS = 16


@dataclass(frozen=True)
class Settled:
    """size: of the calibration. distill_steps, block_steps: the steps of training that will be done."""

    size: CalibrationSize
    distill_steps: int
    block_steps: int

    def of(self, recipe: Recipe) -> Recipe:
        """Return the recipe with these steps."""
        return replace(recipe, distill_steps=self.distill_steps, block_steps=self.block_steps)


def settle(
    source: FloatCheckpoint,
    recipe: Recipe,
    machine: Machine,
    max_memory: int | None,
    found: tuple[int, int] | None = None,
) -> Settled:
    """Settle the size of the calibration and the steps of training.

    found: the number of sequences that the calibration text fills, and their length in tokens. None, before the text is
    read, assumes that it fills all that are asked for; a short text leads to fewer steps, or none. Raises UsageError
    where max_memory is too little or a pattern of `float_linears` fits no linear, and QuantizationError for a size that
    is out of reach by the shapes alone.
    """
    recipe.check_linears(source.shape)
    if recipe.size is not None:
        bits_of_size(recipe, recipe.size, quantized_weights(source.shape, recipe), fixed_size(source, recipe))
    size = calibration_size(recipe, source.shape, int(source.config["max_position_embeddings"]), machine)
    if max_memory is not None:
        size = bounded(size, source.shape, recipe, max_memory)
        machine = replace(machine, memory=min(machine.memory, max_memory))
    samples, length = (size.samples, size.length) if found is None else found
    steps = distillation_steps(recipe, source.shape, samples, length, machine)
    return Settled(size, steps, block_steps(recipe, source.shape, samples, length, machine))


def distillation_steps(recipe: Recipe, shape: ModelShape, samples: int, length: int, machine: Machine) -> int:
    """The steps that the recipe asks for; where it leaves them open, 45 or as many as feasible, 0 for fewer than 16.

    High effort means four times as many; a quarter of them, low effort's, are too few. Each step takes one of the
    `samples` sequences of `length` tokens, none twice. The floating-point operations have to stay within WORK_A_CORE
    per core. The student, a byte per weight and the float head, has to fit the share of the memory that hidden states
    may take, and the whole distillation the memory.
    """
    if recipe.distill_steps is not None:
        return recipe.distill_steps
    steps = min(round(recipe.work * STEPS), samples - held_back(samples))
    if not _fits(shape, replace(recipe, distill_steps=steps), samples, length, machine):
        return 0
    if machine.cores is not None:
        work = recipe.work * WORK_A_CORE * machine.cores
        steps = min(steps, int(work / (length * distillation_work(shape, length))))
    return steps if steps >= FEWEST_STEPS else 0


def block_steps(recipe: Recipe, shape: ModelShape, samples: int, length: int, machine: Machine) -> int:
    """The steps that the recipe asks for; where it leaves them open, 128 or as many as feasible, 0 for fewer than 64.

    0 too where no distillation is wanted. High effort means four times as many. A step takes some 512 tokens, in
    windows of the `samples` sequences of `length` tokens that are not held back, each EPOCHS times at most. The
    floating-point operations have to stay within WORK_A_CORE per core, memory as in `distillation_steps`.
    """
    if recipe.block_steps is not None:
        return recipe.block_steps
    window = min(length, TOKENS)
    tokens = (samples - held_back(samples)) * (length // window * window)
    steps = min(round(recipe.work * BLOCK_STEPS), EPOCHS * tokens // TOKENS)
    if recipe.distill_steps == 0 or not _fits(shape, replace(recipe, block_steps=steps), samples, length, machine):
        return 0
    if machine.cores is not None:
        work = recipe.work * WORK_A_CORE * machine.cores
        steps = min(steps, int(work / (TOKENS * block_work(shape, window))))
    return steps if steps >= FEWEST_STEPS_OF_INTEGERS else 0


def _fits(shape: ModelShape, recipe: Recipe, samples: int, length: int, machine: Machine) -> bool:
    """Return whether there is memory for the training whose steps the recipe has.

    A byte per weight and the float head have to fit the share that hidden states may take.
    """
    share = int(MEMORY_SHARE * machine.memory)
    weights = shape.layers * sum(n * k for n, k in map(shape.linear, LINEARS))
    size = CalibrationSize(samples, length, samples, length, share, ())
    whole = max(student_memory(shape, recipe, size), block_memory(shape, recipe, size))
    return weights + 4 * shape.vocab * shape.hidden <= share and PROGRAM + whole <= machine.memory
