"""Rounding with error feedback, one column after the other, as plainly as it can be written."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tilepress.quantize.statistics.hessian import HessianFactor


def round_plainly(weight: Tensor, steps: Tensor, factor: HessianFactor, rate: Tensor, lengths: Tensor) -> Tensor:
    """What round_in_torch is asked for. Its float32 operations, one by one, are those that the native code has to make.

    Each weight is hit by the errors of the columns before it in their order, each by a product and a difference of its
    own: so results can be compared bit by bit.
    """
    remaining = (weight / steps[:, None]).numpy()
    tables = lengths.view(-1, 128).numpy()
    table_of_row = np.arange(len(remaining)) // 128 if len(tables) > 1 else np.zeros(len(remaining), int)
    feedback, rates = factor.feedback.numpy(), rate.numpy()
    integers = np.zeros(remaining.shape, np.int8)
    order = factor.order.tolist()
    for position, column in enumerate(order):
        value = remaining[:, column].copy()
        magnitude = np.abs(value)
        nearest = np.minimum(np.round(magnitude), 127).astype(int)
        candidates = np.stack([nearest, np.maximum(nearest - 1, 0), np.maximum(nearest - 2, 0), np.zeros_like(nearest)])
        errors = magnitude - candidates.astype(np.float32)
        costs = errors * errors + tables[table_of_row, candidates] * rates[position]
        chosen = candidates[costs.argmin(axis=0), np.arange(len(value))]  # the first of equal ones
        integers[:, column] = np.where(value < 0, -chosen, chosen)
        error = value - integers[:, column].astype(np.float32)
        for later in range(position + 1, len(order)):
            remaining[:, order[later]] -= error * feedback[position, later]
    return torch.from_numpy(integers)
