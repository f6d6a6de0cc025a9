"""How much disk the work directory takes."""

from __future__ import annotations

from tilepress.checkpoint import ModelShape
from tilepress.checkpoint.feeds import LINEARS
from tilepress.quantize.calibration_size import CalibrationSize
from tilepress.quantize.recipe import Recipe
from tilepress.quantize.steps import SAMPLED_COLUMNS

FLOAT = 4


def work_size(shape: ModelShape, recipe: Recipe, size: CalibrationSize) -> int:
    """Bytes in the work directory at most, what the output takes from it by links included.

    Beside the integers: what each layer reads in the first pass, or later what is read between two layers of the
    second, and of each linear its sensitivities and sampled columns.
    """
    hidden = FLOAT * shape.hidden
    first = size.sensitivity_samples * size.sensitivity_length * hidden * (shape.layers + 2)
    second = 2 * size.samples * size.length * hidden
    rows = shape.layers * sum(shape.linear(name)[0] for name in LINEARS)
    weights = shape.layers * sum(n * k for n, k in map(shape.linear, LINEARS))
    tables = shape.vocab * (recipe.head + (recipe.embeddings and not shape.tied))
    samples = (rows + tables) * FLOAT * (SAMPLED_COLUMNS + 4)
    return samples + max(first, second + weights + tables * shape.hidden)
