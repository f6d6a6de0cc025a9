"""How long a quantization takes, from the operations that it does and the pace of the machine."""

from __future__ import annotations

from tilepress.checkpoint import ModelShape
from tilepress.models.flops import distillation_work, sensitivity_work, statistics_work
from tilepress.models.layer_inputs import FEEDS
from tilepress.quantize.calibration.size import CalibrationSize
from tilepress.quantize.estimate.throughput import Throughput, cholesky_work, inverse_work, rounding_work
from tilepress.quantize.recipe.recipe import Recipe

# Each input is factored for its column scales and for the rounding, in both passes; the last factor is inverted.
FACTORS = 4
# The head is mostly rounded a second time, so that its bits come out.
HEAD_ROUNDINGS = 2
# Of the search for the bits of each group, for each of its rows: as long as so many operations of a product. Measured:
# 73 s for 339 thousand rows on two cores that multiply at 140 GFLOP/s.
SEARCH_WORK = 3e7


def estimated_seconds(shape: ModelShape, recipe: Recipe, size: CalibrationSize, pace: Throughput) -> float:
    """Of the whole quantization; recipe.distill_steps is what will be done. Reading and writing are left out."""
    products = size.samples * size.length * statistics_work(shape, size.length)
    sensitivity_tokens = size.sensitivity_samples * size.sensitivity_length
    products += sensitivity_tokens * sensitivity_work(shape, size.sensitivity_length)
    products += (recipe.distill_steps or 0) * size.length * distillation_work(shape, size.length)
    factors = rounding = 0.0
    for feed in FEEDS:
        columns = shape.linear(feed.consumers[0])[1]
        rows = sum(shape.linear(consumer)[0] for consumer in feed.consumers)
        products += shape.layers * SEARCH_WORK * rows
        factors += shape.layers * (FACTORS * cholesky_work(columns) + inverse_work(columns))
        rounding += shape.layers * rounding_work(rows, columns)
    if recipe.head:
        products += SEARCH_WORK * shape.vocab
        factors += FACTORS * cholesky_work(shape.hidden) + inverse_work(shape.hidden)
        rounding += HEAD_ROUNDINGS * rounding_work(shape.vocab, shape.hidden)
    if recipe.embeddings and not shape.tied:
        products += SEARCH_WORK * shape.vocab
    return products / pace.product + factors / pace.factor + rounding / pace.rounding
