"""The rounding decision that weighs the error of a weight against the bits that it takes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tilepress.codec import TILE_ROWS

LARGEST = 127

# Slope of the best trade of error against bits for a uniform quantizer at high rate: an error of Δ²/12 falls by
# a factor of four with each bit, so d(error)/d(bits) = -2 ln 2 · Δ²/12.
RATE_WEIGHT = 2.0 * math.log(2.0) / 12.0


def decide(values: Tensor, lengths: Tensor, weight: Tensor | float) -> Tensor:
    """Round `values` (in units of the weight scale) to the integers of least (v - q)² + weight · lengths[|q|].

    Candidates are a, a - 1, a - 2 and 0, with the sign of v, where a = round(|v|), at most 127; the first one wins a
    tie. Zero makes the weights sparse: the importance test of the optimal brain surgeon against the bits saved.
    Shapes: values [..., n]; weight broadcastable to it; lengths float32 [128], or [ceil(n / 128), 128] with a table for
    each 128 of the n rows. Returns integral floats of the shape of values.
    """
    tables = lengths.flatten()
    row = torch.arange(values.shape[-1], device=values.device)
    first = row // TILE_ROWS * (LARGEST + 1) if len(tables) > LARGEST + 1 else torch.zeros_like(row)
    magnitude = values.abs()

    def cost(candidate: Tensor) -> Tensor:
        return (magnitude - candidate).square_().add_(tables[first + candidate.int()].mul_(weight))

    nearest = magnitude.round().clamp_(max=LARGEST)
    chosen, least = nearest, cost(nearest)
    for candidate in ((nearest - 1.0).clamp_(min=0.0), (nearest - 2.0).clamp_(min=0.0), torch.zeros_like(nearest)):
        its_cost = cost(candidate)
        chosen = torch.where(its_cost < least, candidate, chosen)
        least = torch.minimum(its_cost, least)
    return chosen.copysign(values)
