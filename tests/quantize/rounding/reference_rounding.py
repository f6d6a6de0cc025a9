"""Rounding with error feedback, one weight after the other, as plainly as it can be written."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tilepress.quantize.statistics.fisher import BLOCK, FisherFactor
from tilepress.quantize.statistics.hessian import HessianFactor


def round_plainly(
    weight: Tensor,
    steps: Tensor,
    factor: HessianFactor,
    rate: Tensor,
    lengths: Tensor,
    outputs: FisherFactor | None = None,
) -> Tensor:
    """Its float32 operations, one by one, are those that the native code has to make.

    Each weight is hit by the errors of the columns before it in their order, each by a product and a difference of its
    own, and by the sum of what it gets of the errors of the rows before it: so results can be compared bit by bit.
    """
    remaining = (weight / steps[:, None]).numpy()
    tables = lengths.view(-1, 128).numpy()
    feedback, rates = factor.feedback.numpy(), rate.numpy()
    row_feedback = None if outputs is None else outputs.feedback(steps).numpy()
    order = range(len(weight)) if outputs is None else outputs.order.tolist()
    columns = factor.order.numpy()
    integers = np.zeros(remaining.shape, np.int8)
    own = np.zeros(remaining.shape, np.float32)  # errors of decisions, rows in their order
    for turn, row in enumerate(order):
        first = turn // BLOCK * BLOCK
        fed = np.zeros(len(columns), np.float32)
        if row_feedback is not None:
            for before in range(first, turn):
                fed += row_feedback[turn, before - first] * own[before]
        table = tables[row // 128 if len(tables) > 1 else 0]
        for position, column in enumerate(columns):
            value = remaining[row, column] - fed[position]
            integers[row, column] = nearest(value, table, rates[position])
            own[turn, position] = value - np.float32(integers[row, column])
            error = own[turn, position] + fed[position]
            later = slice(position + 1, None)
            remaining[row, columns[later]] -= error * feedback[position, later]
    return torch.from_numpy(integers)


def nearest(value: np.float32, lengths: np.ndarray, rate: np.float32) -> int:
    """The integer of least squared distance and weighted length, of four; the first of equal ones."""
    magnitude = np.abs(value)
    rounded = int(min(np.round(magnitude), 127))
    best, least = 0, None
    for candidate in (rounded, max(rounded - 1, 0), max(rounded - 2, 0), 0):
        error = magnitude - np.float32(candidate)
        cost = error * error + lengths[candidate] * rate
        if least is None or cost < least:
            best, least = candidate, cost
    return -best if value < 0 else best
