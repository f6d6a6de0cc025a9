"""Ranges of ordinary tokens, where a token that overflows is not clipped but gets a dynamic scale."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from tilepress.errors import QuantizationError
from tilepress.quantize.statistics.input_statistics import InputStatistics
from tilepress.quantize.transforms.activation_ranges import ActivationRange, range_of, round_trip_by_token

# A token is massive where its largest |x| is over so many times that of the median token.
MASSIVE = 8.0
# Shares of the calibration's ordinary tokens that are let out of the range. On other text it is half as many again to
# twice as many, and each costs time, so that the last one keeps below 5 % there.
SHARES = (0.0, 0.005, 0.01, 0.02)
# Shares of those that are let out downwards; the others go upwards.
DOWNWARDS = (0.0, 0.25, 0.5, 0.75, 1.0)
# How much finer than the range of ordinary tokens the range is that practically all tokens leave.
FINER = 256


def ordinary_rows(rows: Tensor) -> Tensor:
    """The tokens of `rows` [m, k] that are not massive."""
    largest = rows.abs().amax(dim=1)
    limit = MASSIVE * largest.median()
    return rows[largest <= limit] if limit > 0 else rows


def overflow_range(seen: InputStatistics, importance: Tensor, dtype: torch.dtype, where: str) -> ActivationRange:
    """The range of least Σ_j importance_j · mean (x_j - Q(x_j))² over ordinary tokens; importance float32 [k].

    Q is exact: what overflows the range gets a dynamic scale. Without a limit the best range would be one that
    all tokens leave; candidates let out at most 2 % of the ordinary ones, of those that reach lowest or highest.
    """
    compared = ordinary_rows(seen.fewer_rows())
    own_error = (round_trip_by_token(compared) - compared).square_() @ importance
    best, least = None, float("inf")
    for low, high in _ends(ordinary_rows(seen.rows)):
        candidate = range_of(low, high, dtype, where, dynamic=True)
        error = (candidate.clip(compared) - compared).square_() @ importance
        mean = float(torch.where(candidate.overflows(compared), own_error, error).mean())
        if mean < least:
            best, least = candidate, mean
    if best is None:
        raise QuantizationError(
            f"{where}: the error of the activations is not finite; check the float model on the calibration text"
        )
    return best


def per_token_range(rows: Tensor, dtype: torch.dtype, where: str) -> ActivationRange:
    """A range that practically all tokens leave: a 256th of that of the ordinary tokens of `rows` [m, k].

    A token that stays in it is all but zero, and loses no more than half of a step 256 times finer than the ordinary
    one. For float16, whose least normal number is 6.1e-5, it is less fine where it has to be.
    """
    rows = ordinary_rows(rows)
    ordinary = range_of(float(rows.min()), float(rows.max()), dtype, where)
    scale = max(ordinary.scale / FINER, torch.finfo(dtype).tiny)
    return ActivationRange(scale, 0, dynamic=True, per_token=True)


def _ends(rows: Tensor) -> Iterable[tuple[float, float]]:
    """Pairs of ends, each once, that leave the shares above of the tokens of `rows` [m, k] outside."""
    low, high = rows.amin(dim=1), rows.amax(dim=1)
    ascending = low.sort().values
    ends: dict[tuple[float, float], None] = {}
    for share in SHARES:
        outside = int(share * len(rows))
        for downwards in DOWNWARDS:
            below = int(downwards * outside)
            lowest = ascending[below]
            descending = high[low >= lowest].sort(descending=True).values
            ends[float(lowest), float(descending[outside - below])] = None
    return ends
