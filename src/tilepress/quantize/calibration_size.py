"""How many tokens the statistics are gathered from: as many as pay, within model and machine."""

from __future__ import annotations

from dataclasses import dataclass

from tilepress.checkpoint import ModelShape
from tilepress.checkpoint.feeds import FEEDS, LINEARS
from tilepress.quantize.machine import Machine
from tilepress.quantize.recipe import Recipe

SAMPLES, LENGTH = 128, 2048
# Where work or memory allow fewer tokens, sequences become shorter first, down to SHORTEST, so that there stay MANY of
# them: a text of many kinds says more about ranges than a long one, and evaluation windows are 512 tokens too.
SHORTEST, MANY = 512, 64
# However slow the machine, this many tokens: a Hessian of fewer tokens than columns is mostly damping.
FEWEST_TOKENS = 32 * SHORTEST

SENSITIVITY_SAMPLES, SENSITIVITY_LENGTH = 32, 512
FEWEST_SENSITIVITY_SAMPLES = 8

MEMORY_SHARE = 0.25

# Floating-point operations of the statistics that a core is given: some four minutes at the 50 GFLOP/s that one of
# AVX-512 reaches in float32 on these shapes. A number and no measurement, so that a machine gives the same bytes twice.
WORK_A_CORE = 12e12
SENSITIVITY_SHARE = 1 / 3


@dataclass(frozen=True)
class CalibrationSize:
    """samples sequences of length tokens; sensitivities from sensitivity_samples of them, sensitivity_length of each.

    memory: bytes that hidden states may take. limits: what made this less than 128 x 2048: "context", "memory", "work".
    """

    samples: int
    length: int
    sensitivity_samples: int
    sensitivity_length: int
    memory: int
    limits: tuple[str, ...]


def calibration_size(recipe: Recipe, shape: ModelShape, context: int, machine: Machine) -> CalibrationSize:
    """What the recipe asks for, and where it leaves that open the most that the limits allow.

    context: max_position_embeddings. A length asked for is cut to it; other limits do not bind what is asked for.
    """
    limits = [] if min(recipe.sequence_length or LENGTH, LENGTH) <= context else ["context"]
    length = min(recipe.sequence_length or LENGTH, context)
    sensitivity_length = min(length, SENSITIVITY_LENGTH)
    memory = int(MEMORY_SHARE * machine.memory)
    fitting = memory // (4 * shape.hidden)
    workable = sensitivity_workable = None
    if machine.cores is not None:
        work = WORK_A_CORE * machine.cores
        workable = max(FEWEST_TOKENS, int((1 - SENSITIVITY_SHARE) * work / statistics_work(shape, length)))
        sensitivity_workable = int(SENSITIVITY_SHARE * work / sensitivity_work(shape, sensitivity_length))
    most = fitting if workable is None else min(fitting, workable)
    if recipe.sequence_length is None:
        fewest = MANY if recipe.samples is None else recipe.samples
        while length > SHORTEST and fewest * length > most:
            length = max(SHORTEST, length // 2)
    samples = SAMPLES if recipe.samples is None else recipe.samples
    if recipe.samples is None and samples * length > most:
        samples = max(1, most // length)
    if (recipe.samples is None or recipe.sequence_length is None) and samples * length < SAMPLES * min(LENGTH, context):
        limits += [name for name, bound in (("memory", fitting), ("work", workable)) if bound == most]
    sensitivity_samples = SENSITIVITY_SAMPLES
    if sensitivity_workable is not None:
        sensitivity_samples = min(sensitivity_samples, sensitivity_workable // sensitivity_length)
    return CalibrationSize(
        samples,
        length,
        min(samples, max(sensitivity_samples, FEWEST_SENSITIVITY_SAMPLES)),
        min(length, sensitivity_length),
        memory,
        tuple(limits),
    )


def statistics_work(shape: ModelShape, length: int) -> float:
    """Floating-point operations a token of one forward pass over the layers with its Hessians."""
    hessians = sum(2 * shape.linear(feed.readers[0])[1] ** 2 for feed in FEEDS)
    return shape.layers * hessians + _forward(shape, length)


def sensitivity_work(shape: ModelShape, length: int) -> float:
    """Floating-point operations a token of forward, the layers again, backward, Hessians and the head."""
    head = 3 * 2 * shape.vocab * shape.hidden
    return 2 * _forward(shape, length) + statistics_work(shape, length) + head


def _forward(shape: ModelShape, length: int) -> float:
    linears = [shape.linear(name) for name in LINEARS]
    # Scores and values of each query head, over the half of the sequence that a token sees on average.
    attention = 2 * length * shape.heads * shape.head_dim
    return shape.layers * (sum(2.0 * n * k for n, k in linears) + attention)
