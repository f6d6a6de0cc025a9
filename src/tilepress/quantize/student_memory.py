"""How much memory distillation takes on the CPU, from the model's shape."""

from __future__ import annotations

from tilepress.checkpoint import ModelShape
from tilepress.checkpoint.feeds import FEEDS, LINEARS
from tilepress.quantize.calibration_size import CalibrationSize
from tilepress.quantize.decoder import POSITIONS
from tilepress.quantize.recipe import Recipe

FLOAT = 4


def student_memory(shape: ModelShape, recipe: Recipe, size: CalibrationSize) -> int:
    """Bytes beside the program's own; 0 where recipe.distill_steps is 0 or None.

    Throughout there are all weights as bytes, the head in float32 for the teacher, and another for the student where it
    is not quantized; the embeddings and last hidden states of all sequences; the inputs of all layers for one sequence.
    Beside these one layer at work, or the distributions of some positions.
    """
    if not recipe.distill_steps:
        return 0
    shapes = [shape.linear(name) for name in LINEARS]
    weights = sum(n * k for n, k in shapes)
    table = shape.vocab * shape.hidden
    held = shape.layers * weights + FLOAT * table + (table if recipe.head else FLOAT * table)
    held += FLOAT * shape.hidden * size.length * (2 * size.samples + shape.layers)
    a_token = sum(n for n, _ in shapes) + sum(shape.linear(feed.readers[0])[1] for feed in FEEDS)
    layer = FLOAT * (weights + 2 * size.length * a_token)
    distributions = 5 * FLOAT * POSITIONS * shape.vocab
    return held + max(layer, distributions)
