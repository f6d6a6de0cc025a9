"""Refinement of rounded weights, one weight after the other, as plainly as it can be written."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilepress.quantize.statistics.fisher import BLOCK

Floats = NDArray[np.float32]
# Columns whose changes reach the sums of all columns together.
TOGETHER = 32


def refine_plainly(
    weight: Floats,
    steps: Floats,
    order: NDArray[np.int64],
    hessian: Floats,
    rate: Floats,
    lengths: Floats,
    row_order: NDArray[np.int64] | None,
    coupling: Floats | None,
    row_rate: Floats | None,
    noise: Floats,
    integers: NDArray[np.int8],
) -> NDArray[np.int8]:
    """Its float32 operations, one by one, are those that the native code has to make."""
    n, k = weight.shape
    refined = integers.copy()
    for first in range(0, n, BLOCK):
        part = slice(first, min(first + BLOCK, n))
        rows = np.arange(n)[part] if row_order is None else row_order[part]
        count = len(rows)
        coupled = None if coupling is None else coupling[part, :count]
        rates_of_rows = np.ones(count, np.float32) if row_rate is None else row_rate[part]
        table = lengths[first // BLOCK if len(lengths) > 1 else 0]
        now = refined[rows][:, order].astype(np.float32)
        errors = now - (weight / steps[:, None])[rows][:, order]
        sums = np.zeros((count, k), np.float32)
        for c in range(k):
            sums += errors[:, c, None] * hessian[c]
        random = (np.arange(1, count + 1, dtype=np.uint64) * 0x9E3779B9 % 2**32).astype(np.uint32)
        for width in noise:
            for begin in range(0, k, TOGETHER):
                local, changes = sums[:, begin : begin + TOGETHER].copy(), []
                for c in range(begin, min(begin + TOGETHER, k)):
                    random ^= random << np.uint32(13)
                    random ^= random >> np.uint32(17)
                    random ^= random << np.uint32(5)
                    drawn = ((random & 0xFFFF) + (random >> 16)).astype(np.int32) - 65535
                    rates = rates_of_rows * rate[c]
                    noises = drawn.astype(np.float32) * (rates * (width / np.float32(65535)))
                    gradient = local[:, c - begin].copy()
                    if coupled is not None:
                        gradient = np.zeros(count, np.float32)
                        for i in range(count):
                            gradient += local[i, c - begin] * coupled[i]
                    inverse = np.float32(1) / hessian[c, c]
                    for row in range(count):
                        value = now[row, c] - gradient[row] * inverse
                        chosen = redecided(value, now[row, c], rates[row], noises[row], table, width > 0)
                        by = np.float32(chosen - now[row, c])
                        if by == 0:
                            continue
                        now[row, c] = chosen
                        changes.append((row, c, by))
                        local[row, c - begin + 1 :] += by * hessian[c, c + 1 : begin + TOGETHER]
                        if coupled is not None:
                            gradient += (by * hessian[c, c]) * coupled[row]
                for row, c, by in changes:
                    sums[row] += by * hessian[c]
        refined[rows[:, None], order] = now.astype(np.int8)
    return refined


def redecided(
    value: np.float32, now: np.float32, rate: np.float32, noise: np.float32, lengths: Floats, noisy: bool
) -> np.float32:
    """The integer of least cost among those around `value` and 0, the upper one with noise; without, also `now`."""
    value = np.clip(value, np.float32(-127), np.float32(127))

    def cost(integer: np.float32) -> np.float32:
        error = value - integer
        return error * error + lengths[int(abs(integer))] * rate

    low = np.floor(value)
    high = low + np.float32(1) if low < 127 else low
    chosen = high if cost(high) - cost(low) < noise else low
    if cost(np.float32(0)) < cost(chosen):
        chosen = np.float32(0)
    return now if not noisy and cost(now) <= cost(chosen) else chosen
