"""The size of quantized integers: entropy, code lengths, and the rounding decision that weighs error against bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST = 127

# Slope of the best trade of error against bits for a uniform quantizer at high rate: an error of Δ²/12 falls by
# a factor of four with each bit, so d(error)/d(bits) = -2 ln 2 · Δ²/12.
RATE_WEIGHT = 2.0 * math.log(2.0) / 12.0


def magnitude_counts(integers: Tensor) -> Tensor:
    """How often each |q| from 0 to 127 occurs, int64 [128]."""
    return torch.bincount(integers.abs().flatten().to(torch.int64), minlength=LARGEST + 1)


def entropy_of_counts(counts: Tensor) -> float:
    """Order-0 entropy in bits a symbol of integers with these magnitude counts and fair signs."""
    share = counts.double() / counts.sum()
    present = share[share > 0]
    return float(-(present * present.log2()).sum() + share[1:].sum())


def code_lengths(counts: Tensor) -> Tensor:
    """Bits of an ideal code for each magnitude with its sign, float32 [128].

    Half an occurrence is added to each magnitude, so that values not met yet have a finite length.
    """
    smoothed = counts.float() + 0.5
    lengths = -(smoothed / smoothed.sum()).log2()
    lengths[1:] += 1.0
    return lengths


def decide(values: Tensor, lengths: Tensor, weight: Tensor | float) -> Tensor:
    """Round `values` (in units of the step) to the integers of least (v - q)² + weight · lengths[|q|].

    Candidates are a, a - 1 and 0, with the sign of v, where a = round(|v|), at most 127. Zero is the sparsifying
    candidate: the importance test of the optimal brain surgeon against the bits saved.
    Shapes: values [...], weight broadcastable to it, result like values, integral floats.
    """
    magnitude = values.abs()
    nearest = magnitude.round().clamp_(max=LARGEST)
    lower = (nearest - 1.0).clamp_(min=0.0)
    nearest_cost = (magnitude - nearest).square_().add_(lengths[nearest.int()].mul_(weight))
    lower_cost = (magnitude - lower).square_().add_(lengths[lower.int()].mul_(weight))
    zero_cost = magnitude.square_().add_(lengths[0] * weight)
    chosen = torch.where(lower_cost < nearest_cost, lower, nearest)
    chosen = torch.where(zero_cost < torch.minimum(nearest_cost, lower_cost), 0.0, chosen)
    return chosen.copysign_(values)
