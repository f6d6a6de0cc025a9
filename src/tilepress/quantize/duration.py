"""How long a quantization takes, from the operations that it does and the pace of the machine."""

from __future__ import annotations

from tilepress.checkpoint import ModelShape
from tilepress.checkpoint.feeds import FEEDS
from tilepress.quantize.calibration_size import CalibrationSize
from tilepress.quantize.pace import Pace, factor_work, rounding_work
from tilepress.quantize.recipe import Recipe
from tilepress.quantize.work import distillation_work, sensitivity_work, statistics_work

# Each input is factored for its column scales and for the rounding, in both passes.
FACTORS = 4


def estimated_seconds(shape: ModelShape, recipe: Recipe, size: CalibrationSize, pace: Pace) -> float:
    """Of the whole quantization; recipe.distill_steps is what will be done. Reading and writing are left out."""
    products = size.samples * size.length * statistics_work(shape, size.length)
    sensitivity_tokens = size.sensitivity_samples * size.sensitivity_length
    products += sensitivity_tokens * sensitivity_work(shape, size.sensitivity_length)
    products += (recipe.distill_steps or 0) * size.length * distillation_work(shape, size.length)
    factors = rounding = 0.0
    for feed in FEEDS:
        columns = shape.linear(feed.readers[0])[1]
        rows = sum(shape.linear(reader)[0] for reader in feed.readers)
        factors += shape.layers * FACTORS * factor_work(columns)
        rounding += shape.layers * rounding_work(rows, columns)
    if recipe.head:
        factors += FACTORS * factor_work(shape.hidden)
        rounding += rounding_work(shape.vocab, shape.hidden)
    return products / pace.product + factors / pace.factor + rounding / pace.rounding
