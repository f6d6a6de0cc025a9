"""Memory that a quantization takes on the CPU, from the model's shape."""

from __future__ import annotations

from dataclasses import replace

from tilepress.checkpoint import ModelShape
from tilepress.errors import UsageError
from tilepress.models.layer_inputs import FEEDS, LINEARS, Feed
from tilepress.quantize.calibration.self_calibration import BATCH, LONGEST_ANSWER, LONGEST_PROMPT
from tilepress.quantize.calibration.size import CalibrationSize
from tilepress.quantize.context import SAMPLED_ROWS
from tilepress.quantize.distillation.blocks import TOKENS
from tilepress.quantize.estimate.stored_size import layer_bytes
from tilepress.quantize.layerwise.decoder import HEAD_ROWS, POSITIONS
from tilepress.quantize.layerwise.hidden_states import TOKENS_A_BATCH
from tilepress.quantize.recipe.recipe import Recipe
from tilepress.quantize.rounding.gptq import ROWS as ROUNDED_ROWS
from tilepress.quantize.statistics.fisher import BLOCK

FLOAT = 4
# Interpreter, torch, transformers and memory that the allocator keeps, measured.
PROGRAM = 750 << 20
# Copies of the Fisher information of a group's outputs while it is rounded: scaled, factored, inverted, in its units.
FACTORED = 4


def peak_memory(shape: ModelShape, recipe: Recipe, size: CalibrationSize) -> int:
    """Peak of the resident bytes, including hidden states where size.memory holds them.

    recipe.distill_steps, recipe.block_steps: those that will be done; None counts as 0.
    """
    layerwise = working_memory(shape, recipe, size) + held_states(shape, size)
    return max(layerwise, PROGRAM + student_memory(shape, recipe, size), PROGRAM + block_memory(shape, recipe, size))


def bounded(size: CalibrationSize, shape: ModelShape, recipe: Recipe, max_memory: int) -> CalibrationSize:
    """Return `size` with the share of `max_memory` bytes that is left for hidden states.

    Raises UsageError where max_memory does not hold the rest.
    """
    working = working_memory(shape, recipe, size)
    if working > max_memory:
        raise UsageError(
            f"--max-memory {max_memory / 1e9:.2f}GB: a layer of this model with its Hessians takes "
            f"{working / 1e9:.2f} GB, and no option makes that less; allow as much or more"
        )
    return replace(size, memory=max_memory - working)


def held_states(shape: ModelShape, size: CalibrationSize) -> int:
    """Bytes of the hidden states that stay in memory between two layers."""
    states = FLOAT * size.samples * size.length * shape.hidden
    return states if states <= size.memory else 0


def working_memory(shape: ModelShape, recipe: Recipe, size: CalibrationSize) -> int:
    """Bytes of the largest stage, without the hidden states between two layers."""
    stages = [_running(shape, size), _scaling(shape), *(_rounding(shape, feed) for feed in FEEDS), _logits(shape, size)]
    if recipe.head or recipe.embeddings:
        stages.append(_table(shape))
    return PROGRAM + max(stages)


def _running(shape: ModelShape, size: CalibrationSize) -> int:
    """A layer, its statistics and the activations of some sequences; in the first pass the gradient of all of them."""
    a_token = 4 * shape.intermediate + 4 * shape.heads * shape.head_dim + 4 * shape.hidden
    gradient = FLOAT * size.sensitivity_samples * size.sensitivity_length * shape.hidden
    running = FLOAT * TOKENS_A_BATCH * a_token + gradient
    return _layer(shape, FEEDS) + _statistics(shape, FEEDS) + _outputs(shape, FEEDS) + running


def _scaling(shape: ModelShape) -> int:
    """A layer, its statistics and a factor of the largest Hessian."""
    largest = max(_hessians(shape, (feed,)) + FACTORED * _outputs(shape, (feed,)) for feed in FEEDS)
    return _layer(shape, FEEDS) + _statistics(shape, FEEDS) + _outputs(shape, FEEDS) + largest


def _rounding(shape: ModelShape, feed: Feed) -> int:
    """Bytes while a group is rounded: the rest of the layer and its statistics, the group's factor and feedback.

    Also the integers of this group and those before it, and a float32 copy of the rows that are refined or whose error
    is measured. The damped Hessian comes after the feedback. While linears are fused they are in memory twice, before
    there is any feedback.
    """
    number = FEEDS.index(feed)
    left, rounded = FEEDS[number:], _layer(shape, FEEDS[: number + 1]) // FLOAT
    weights, hessian = _layer(shape, (feed,)), _hessians(shape, (feed,))
    fused = weights if len(feed.consumers) > 1 else 0
    measured = min(weights, FLOAT * ROUNDED_ROWS * shape.linear(feed.consumers[0])[1])
    outputs = _outputs(shape, FEEDS) + FACTORED * _outputs(shape, (feed,))
    group = hessian + max(fused, hessian + measured)
    return _layer(shape, left) + _statistics(shape, left) + group + rounded + outputs


def _logits(shape: ModelShape, size: CalibrationSize) -> int:
    """Logits and probabilities of some positions, and rows of the head both as stored and in float32."""
    gradient = FLOAT * size.sensitivity_samples * size.sensitivity_length * shape.hidden
    return 2 * FLOAT * POSITIONS * shape.vocab + (FLOAT + 2) * HEAD_ROWS * shape.hidden + gradient


def _table(shape: ModelShape) -> int:
    """Integers and code of the head or the embedding, some rows in float32, and the head's Hessian and factors."""
    return 2 * shape.vocab * shape.hidden + 3 * FLOAT * HEAD_ROWS * shape.hidden + 4 * FLOAT * shape.hidden**2


def _layer(shape: ModelShape, feeds: tuple[Feed, ...]) -> int:
    linears = (shape.linear(consumer) for feed in feeds for consumer in feed.consumers)
    return FLOAT * sum(n * k for n, k in linears)


def _statistics(shape: ModelShape, feeds: tuple[Feed, ...]) -> int:
    """Hessians, and the tokens that are kept as a sample."""
    return _hessians(shape, feeds) + FLOAT * SAMPLED_ROWS * sum(shape.linear(feed.consumers[0])[1] for feed in feeds)


def _outputs(shape: ModelShape, feeds: tuple[Feed, ...]) -> int:
    """Fisher information of the outputs, in blocks."""
    return FLOAT * BLOCK * sum(shape.linear(consumer)[0] for feed in feeds for consumer in feed.consumers)


def _hessians(shape: ModelShape, feeds: tuple[Feed, ...]) -> int:
    return FLOAT * sum(shape.linear(feed.consumers[0])[1] ** 2 for feed in feeds)


def student_memory(shape: ModelShape, recipe: Recipe, size: CalibrationSize) -> int:
    """Bytes of the distillation, without the program's own; 0 where recipe.distill_steps is 0 or None.

    All the time memory holds all weights as bytes, the head in float32 for the teacher, and another for the student
    where it is not quantized; the embeddings and last hidden states of all sequences; the inputs of all layers for one
    sequence. Beside these there is one running layer, or the distributions of some positions.
    """
    if not recipe.distill_steps:
        return 0
    shapes = [shape.linear(name) for name in LINEARS]
    weights = sum(n * k for n, k in shapes)
    table = shape.vocab * shape.hidden
    held = layer_bytes(shape, recipe) + FLOAT * table + (table if recipe.head else FLOAT * table)
    held += FLOAT * shape.hidden * size.length * (2 * size.samples + shape.layers)
    a_token = sum(n for n, _ in shapes) + sum(shape.linear(feed.consumers[0])[1] for feed in FEEDS)
    layer = FLOAT * (weights + 2 * size.length * a_token)
    distributions = 5 * FLOAT * POSITIONS * shape.vocab
    return held + max(layer, distributions)


def block_memory(shape: ModelShape, recipe: Recipe, size: CalibrationSize) -> int:
    """Bytes of training integers, without the program's own; 0 where recipe.block_steps is 0 or None.

    All the time memory holds all weights as bytes, before and after, the states of the float model and of the quantized
    one, and the last hidden states of the rounding. Beside these a layer has its latent weights, their rounded values,
    their gradients and Adam's two moments, and the activations of a step; or it is the float model's. In the end heads
    and distributions take the place of a layer.
    """
    if not recipe.block_steps:
        return 0
    shapes = [shape.linear(name) for name in LINEARS]
    weights = sum(n * k for n, k in shapes)
    table = shape.vocab * shape.hidden
    held = 2 * layer_bytes(shape, recipe) + (table if recipe.head else 0)
    held += FLOAT * 2 * size.samples * size.length * shape.hidden + held_states(shape, size)
    a_token = sum(n for n, _ in shapes) + 2 * sum(shape.linear(feed.consumers[0])[1] for feed in FEEDS)
    layer = FLOAT * (6 * weights + 2 * TOKENS * a_token)
    checking = FLOAT * (table * (1 if recipe.head else 2) + 5 * POSITIONS * shape.vocab + weights)
    return held + max(layer, checking)


def writing_memory(shape: ModelShape, itemsize: int) -> int:
    """Bytes of a process in which the model writes its calibration text: weights of `itemsize` bytes, and one batch.

    The batch has keys and values, of one layer twice while a token is added; the activations of a layer that reads the
    prompts; logits of the last token, sorted to be drawn from.
    """
    tables = shape.vocab * shape.hidden * (1 if shape.tied else 2)
    weights = shape.layers * sum(n * k for n, k in map(shape.linear, LINEARS)) + tables
    states = 2 * (shape.layers + 1) * shape.kv_heads * shape.head_dim * (LONGEST_PROMPT + LONGEST_ANSWER)
    reading = LONGEST_PROMPT * (3 * shape.intermediate + 4 * shape.hidden)
    return PROGRAM + itemsize * (weights + BATCH * (states + reading)) + 6 * FLOAT * BATCH * shape.vocab
