"""Ranges for ordinary tokens; a token that overflows is not clipped but gets a dynamic scale."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from tilepress.errors import QuantizationError
from tilepress.quantize.statistics.input_statistics import InputStatistics
from tilepress.quantize.transforms.activation_ranges import ActivationRange, range_of, round_trip_by_token

# A token is massive where its largest |x| exceeds this many times that of the median token.
MASSIVE = 8.0
# Shares of the calibration's ordinary tokens that may overflow. On other text 1.5 to 2 times as many do, and each costs
# time; the largest share keeps them below 5 % there.
SHARES = (0.0, 0.005, 0.01, 0.02)
# Shares of these tokens that overflow at the lower end; the others do at the upper end.
DOWNWARDS = (0.0, 0.25, 0.5, 0.75, 1.0)
# The range that practically all tokens overflow is this many times finer than that of ordinary tokens.
FINER = 256


def ordinary_rows(rows: Tensor) -> Tensor:
    """The tokens of `rows` [m, k] that are not massive."""
    largest = rows.abs().amax(dim=1)
    limit = MASSIVE * largest.median()
    return rows[largest <= limit] if limit > 0 else rows


def overflow_range(seen: InputStatistics, importance: Tensor, dtype: torch.dtype, where: str) -> ActivationRange:
    """The range of least Σ_j importance_j · mean (x_j - Q(x_j))² over ordinary tokens; importance float32 [k].

    Q includes the dynamic scales of tokens that overflow. Without a limit the best range would be one that all tokens
    overflow, so that candidates let at most 2 % of the ordinary tokens do so, those that reach lowest or highest.
    Raises QuantizationError naming `where` if the error is not finite.
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
    """A range that practically all tokens overflow: a 256th of that of the ordinary tokens of `rows` [m, k].

    A token inside it is all but zero, and its error is at most half of the scale, which is 256 times finer than the
    ordinary one. In float16 the scale is at least 6.1e-5, the least normal number.
    """
    rows = ordinary_rows(rows)
    ordinary = range_of(float(rows.min()), float(rows.max()), dtype, where)
    scale = max(ordinary.scale / FINER, torch.finfo(dtype).tiny)
    return ActivationRange(scale, 0, dynamic=True, per_token=True)


def _ends(rows: Tensor) -> Iterable[tuple[float, float]]:
    """Distinct pairs (low, high) that the shares above of the tokens of `rows` [m, k] overflow."""
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
