"""The common factor of the weight scales that meets a target of bits, bytes or loss, and the curve around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.filesize import decimal
from torch import Tensor

from tilepress.errors import QuantizationError
from tilepress.quantize.rate.rounding_rule import decide
from tilepress.quantize.rate.weight_scales import WeightSample, closest_step_factor, fit_step_factor, mean_of_weights
from tilepress.quantize.recipe.recipe import DEFAULT_BITS, Recipe

LEAST_BITS, MOST_BITS = 1.0, 7.5
TOLERANCE = 0.003
ATTEMPTS = 40

# The curve covers these bits per weight, in steps of half a bit at a high rate.
CURVE_BITS = (2.0, 6.0)
CURVE_FACTOR = 2.0**0.5
LONGEST = 16


def fit_target(samples: Sequence[WeightSample], recipe: Recipe, fixed: int) -> float:
    """The common factor at which `samples` meet the recipe's bits, size or loss.

    fixed: bytes that no factor changes. Raises QuantizationError for a target out of reach, with what is in reach.
    """
    if recipe.size is not None:
        return fit_step_factor(samples, bits_of_size(recipe, recipe.size, _weights(samples), fixed))
    if recipe.loss is not None:
        return _fit_loss(samples, recipe.loss)
    if recipe.bits is None:  # a model of many zeros may hold fewer bits: then it gets all that it can use
        return closest_step_factor(samples, DEFAULT_BITS)[0]
    return fit_step_factor(samples, recipe.bits)


def stored_bytes(samples: Sequence[WeightSample], bits: float, fixed: int) -> int:
    """Bytes of the weight files of the W8A8SC directory at `bits` per weight."""
    return _stored(_weights(samples), bits, fixed)


def point(samples: Sequence[WeightSample], step_factor: float, fixed: int) -> CurvePoint:
    rates = [sample.rate_at(step_factor) for sample in samples]
    bits = mean_of_weights(samples, [bits for bits, _ in rates])
    loss = sum(
        loss_at_lengths(sample, step_factor, lengths) for sample, (_, lengths) in zip(samples, rates, strict=True)
    )
    return CurvePoint(step_factor, bits, stored_bytes(samples, bits, fixed), loss)


def loss_curve(samples: Sequence[WeightSample], step_factor: float, fixed: int) -> tuple[CurvePoint, ...]:
    """The point of `step_factor` and those around it from 2 to 6 bits, most bits first."""
    points = [point(samples, step_factor, fixed)]
    for _ in range(LONGEST):
        if points[0].bits >= CURVE_BITS[1]:
            break
        points.insert(0, point(samples, points[0].step_factor / CURVE_FACTOR, fixed))
        if points[0].bits - points[1].bits < TOLERANCE:  # rows at their least scale take no more bits
            break
    for _ in range(LONGEST):
        if points[-1].bits <= CURVE_BITS[0]:
            break
        points.append(point(samples, points[-1].step_factor * CURVE_FACTOR, fixed))
    return tuple(points)


def bits_of_size(recipe: Recipe, size: int, weights: int, fixed: int) -> float:
    """The bits that each of `weights` weights may take in a file of `size` bytes, of which `fixed` are something else.

    Raises QuantizationError for a size out of reach, with what is in reach.
    """
    more = "" if recipe.head and recipe.embeddings else ", or quantize head and embedding too (--head --embeddings)"
    bits = (size - fixed) * 8 / weights
    least, most = (_stored(weights, bits, fixed) for bits in (LEAST_BITS, MOST_BITS))
    if size <= fixed:
        raise QuantizationError(
            f"a size of {_size(size)} cannot be met: what stays float, scales and index take {_size(fixed)}; ask for "
            f"{_size(least)} or more{more}"
        )
    if bits < LEAST_BITS:
        raise QuantizationError(
            f"a size of {_size(size)} leaves {bits:.2f} bits a weight; ask for {_size(least)} or more{more}"
        )
    if bits > MOST_BITS:
        raise QuantizationError(
            f"a size of {_size(size)} is more than int8 weights fill; ask for {_size(most)} or less"
        )
    return bits


def _stored(weights: int, bits: float, fixed: int) -> int:
    return fixed + round(bits * weights / 8)


def _fit_loss(samples: Sequence[WeightSample], loss: float) -> float:
    """Find the factor by bisection of its logarithm: the predicted loss rises with the weight scales."""

    def predicted(step_factor: float) -> float:
        return sum(predicted_loss(sample, step_factor) for sample in samples)

    finest, coarsest = closest_step_factor(samples, 4.0)[0], closest_step_factor(samples, LEAST_BITS)[0]
    finest /= 2.0 ** (MOST_BITS - 4.0)
    least, most = predicted(finest), predicted(coarsest)
    if not least <= loss <= most:
        raise QuantizationError(
            f"a predicted loss of {loss:g} nats cannot be met; from {least:.2g} (some {MOST_BITS:g} bits a weight) to "
            f"{most:.2g} ({LEAST_BITS:g} bit) is in reach for this model"
        )
    low, high = math.log2(finest), math.log2(coarsest)
    for _ in range(ATTEMPTS):
        middle = (low + high) / 2
        found = predicted(2.0**middle)
        if abs(found - loss) < TOLERANCE * loss:
            break
        low, high = (middle, high) if found < loss else (low, middle)
    return float(2.0**middle)


def _weights(samples: Sequence[WeightSample]) -> int:
    return sum(sample.weights for sample in samples)


def _size(nbytes: float) -> str:
    return decimal(round(nbytes), precision=2)


@dataclass(frozen=True)
class CurvePoint:
    """step_factor: common factor of the weight scales. bits: per weight. size: bytes of the W8A8SC weight files.

    loss: predicted increase of the loss by rounding weights, in nats per token.
    """

    step_factor: float
    bits: float
    size: int
    loss: float


def predicted_loss(sample: WeightSample, step_factor: float) -> float:
    """½ Σ_o G_o Δ_o² Σ_j c_j E[(w_oj / Δ_o - q_oj)²], in nats per token, at a common factor of the weight scales.

    This is the second-order increase of the loss under the diagonal of the Fisher information. Errors of different
    channels and tokens are taken to be independent; c accounts for error feedback. The sum over j is estimated from the
    sampled columns.
    """
    return loss_at_lengths(sample, step_factor, sample.rate_at(step_factor)[1])


def loss_at_lengths(sample: WeightSample, step_factor: float, lengths: Tensor) -> float:
    """`predicted_loss` where the code lengths at that factor are known from `sample.rate_at`."""
    weight_scale = sample.weight_scales(step_factor)
    values = sample.columns / weight_scale
    integers = decide(values, lengths, sample.rate)
    by_row = ((values - integers).square_() * sample.cost).mean(dim=0)
    columns = sample.weights // len(weight_scale)
    return 0.5 * columns * float((sample.sensitivity * weight_scale.square() * by_row).sum())
