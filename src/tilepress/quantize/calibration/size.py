"""How many tokens the statistics are gathered from: as many as pay, within model and machine."""

from __future__ import annotations

from dataclasses import dataclass

from tilepress.checkpoint import ModelShape
from tilepress.machine.memory import MEMORY_SHARE, Machine
from tilepress.models.flops import WORK_A_CORE, sensitivity_work, statistics_work
from tilepress.quantize.recipe.recipe import Recipe

SAMPLES, LENGTH = 128, 2048
# Where work or memory allow fewer tokens, sequences become shorter first, down to SHORTEST, so that there stay MANY of
# them: a text of many kinds says more about ranges than a long one, and evaluation windows are 512 tokens too.
SHORTEST, MANY = 512, 64
# However slow the machine, this many tokens: a Hessian of fewer tokens than columns is mostly damping.
FEWEST_TOKENS = 32 * SHORTEST

SENSITIVITY_SAMPLES, SENSITIVITY_LENGTH = 32, 512
FEWEST_SENSITIVITY_SAMPLES = 8

# Of the work that a core is given (`work`).
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
    length = min(recipe.sequence_length or LENGTH, context)
    memory = int(MEMORY_SHARE * machine.memory)
    bounds = _bounds(shape, length, memory, machine, recipe.work)
    most = min(bounds.values())
    sensitivity_length = min(length, SENSITIVITY_LENGTH)
    if recipe.sequence_length is None:
        length = _shortened(length, MANY if recipe.samples is None else recipe.samples, most)
    samples = recipe.samples
    if samples is None:
        samples = min(SAMPLES, max(1, most // length))
    limits = ["context"] if context < min(recipe.sequence_length or LENGTH, LENGTH) else []
    if (recipe.samples is None or recipe.sequence_length is None) and samples * length < SAMPLES * min(LENGTH, context):
        limits += [name for name, bound in bounds.items() if bound == most]
    return CalibrationSize(
        samples,
        length,
        min(samples, _sensitivity_samples(shape, sensitivity_length, machine, recipe.work)),
        min(length, sensitivity_length),
        memory,
        tuple(limits),
    )


def _bounds(shape: ModelShape, length: int, memory: int, machine: Machine, effort: float) -> dict[str, int]:
    """The most tokens by what limits them; without "work" where a device computes."""
    bounds = {"memory": memory // (4 * shape.hidden)}
    if machine.cores is not None:
        work = effort * (1 - SENSITIVITY_SHARE) * WORK_A_CORE * machine.cores
        bounds["work"] = max(FEWEST_TOKENS, int(work / statistics_work(shape, length)))
    return bounds


def _shortened(length: int, fewest: int, most: int) -> int:
    """Halved, down to SHORTEST, until `fewest` sequences are no more than `most` tokens."""
    while length > SHORTEST and fewest * length > most:
        length = max(SHORTEST, length // 2)
    return length


def _sensitivity_samples(shape: ModelShape, length: int, machine: Machine, effort: float) -> int:
    most = round(effort * SENSITIVITY_SAMPLES)
    if machine.cores is None:
        return most
    work = effort * SENSITIVITY_SHARE * WORK_A_CORE * machine.cores
    workable = int(work / (sensitivity_work(shape, length) * length))
    return max(FEWEST_SENSITIVITY_SAMPLES, min(most, workable))
