"""The codec's cost of quantized integers: bits per weight and the length of each code, for one row of tiles."""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor

from tilepress import codec
from tilepress.codec import ENTROPY, TILE_COLUMNS, TILE_ROWS, TILES
from tilepress.quantize.rate.rounding_rule import LARGEST

TILE_SYMBOLS = TILE_ROWS * TILE_COLUMNS
# Average padding in bits, from rounding up to 16 bytes in the header and to 64 behind the tile.
_PADDING = 8 * (8 + 32)
# Rows that are counted at a time: counting takes eight bytes for each integer.
COUNTED_ROWS = 8 * TILE_ROWS
_TERMINAL_WIDTHS = range(9)


def strip_counts(integers: Tensor) -> Tensor:
    """Count each |q| from 0 to 127 in each 128 rows of integers [n, k]; int64 [ceil(n / 128), 128]."""
    return torch.cat([_strip_counts(rows) for rows in torch.split(integers, COUNTED_ROWS)])


def _strip_counts(integers: Tensor) -> Tensor:
    rows = torch.arange(len(integers), device=integers.device)
    first = rows // TILE_ROWS * (LARGEST + 1)
    places = integers.abs().to(torch.int64) + first[:, None]
    tables = -(-len(integers) // TILE_ROWS)
    return torch.bincount(places.flatten(), minlength=tables * (LARGEST + 1)).view(tables, LARGEST + 1)


def coded_bits(integers: Tensor, coding: str = TILES) -> float:
    """Compressed bits per weight of integers [n, k]: counted as whole tiles, or those of the entropy coder."""
    if coding == ENTROPY:
        return 8 * codec.encode_entropy(integers.numpy()).nbytes / integers.numel()
    return mean_bits(tile_rate(strip_counts(integers))[0], len(integers))


def share_of_zeros(integers: Tensor) -> float:
    """Share of zeros in integers [n, k]. Comparing with zero would take a byte for each, and adding those up eight."""
    return 1.0 - int(torch.count_nonzero(integers)) / integers.numel()


def mean_bits(bits: Tensor, rows: int) -> float:
    """The mean over `rows` rows. bits: per weight, of each row of tiles, float32 [ceil(rows / 128)]."""
    share = torch.full_like(bits, TILE_ROWS)
    share[-1] = rows - TILE_ROWS * (len(bits) - 1)
    return float(bits @ share) / rows


def tile_rate(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cost of a tile whose magnitudes are distributed like `counts`, float or int [g, 128], with fair signs.

    That is bits per weight, float32 [g], and the length of each magnitude's code, float32 [g, 128]. A code of level l
    is as long as the widths of levels 0 … l together. The widths are the cheapest for each row of counts among all that
    docs/reference/bitstream.md allows; the encoder chooses the same.
    """
    shares = counts.double().cpu()
    shares = shares / shares.sum(dim=1, keepdim=True) * TILE_SYMBOLS
    symbols = torch.cat([shares[:, :1], (shares[:, 1:] / 2).repeat_interleave(2, dim=1)], dim=1)
    ranked, order = symbols.sort(dim=1, descending=True, stable=True)
    # left[m]: number of symbols that are not among the m most frequent values.
    left = ranked.flip(1).cumsum(1).flip(1)
    left = torch.cat([left, torch.zeros_like(left[:, :1])], dim=1).clamp(min=0)
    distinct = (ranked > 0).sum(dim=1)
    widths, firsts, fixed = _structures()
    cost = fixed + (left[:, firsts] * widths).sum(dim=2)
    held = firsts[:, -1] + 2 ** widths[:, -1].long()
    cost[held < distinct[:, None]] = torch.inf
    best = cost.argmin(dim=1)

    place = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    reached = place[:, :, None] >= firsts[best][:, None, :]
    lengths = (reached * widths[best][:, None, :]).sum(dim=2)
    # The two signs of a magnitude may fall to different levels.
    by_magnitude = torch.cat([lengths[:, :1], (lengths[:, 1::2] + lengths[:, 2::2]) / 2], dim=1)
    bits = cost.gather(1, best[:, None])[:, 0] / TILE_SYMBOLS
    return bits.float().to(counts.device), by_magnitude.float().to(counts.device)


@functools.cache
def _structures() -> tuple[Tensor, Tensor, Tensor]:
    """Return every choice of widths: widths, firsts, fixed.

    widths: float64 [s, 4], with zeros in front of shorter choices. firsts: int64 [s, 4], the number of values in the
    levels before. fixed: float64 [s], bits of header, tables and padding.
    """
    widths, firsts, fixed = [], [], []
    for escapes in itertools.chain.from_iterable(itertools.product(range(1, 8), repeat=r) for r in range(4)):
        for terminal in _TERMINAL_WIDTHS:
            chosen = (*escapes, terminal)
            caps = [0, *itertools.accumulate(2**b - 1 for b in escapes)]
            if caps[-1] > 2 * LARGEST:
                continue
            absent = 4 - len(chosen)
            widths.append((0,) * absent + chosen)
            firsts.append([0] * absent + caps)
            tables = caps[-1] + (2**terminal if terminal < 8 else 0)
            counts = 16 + 2 * max(0, len(chosen) - 2) if len(chosen) > 1 else 0
            fixed.append(8 * (tables + counts) + _PADDING + sum(64 * b for b in chosen[1:]))
    return (
        torch.tensor(widths, dtype=torch.float64),
        torch.tensor(firsts),
        torch.tensor(fixed, dtype=torch.float64),
    )
