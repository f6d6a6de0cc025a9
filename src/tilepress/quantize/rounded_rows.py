"""The rows of a matrix rounded and measured, some thousand at a time, by each rank its share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tilepress.quantize.hessian import HessianFactor
from tilepress.quantize.ranges import ActivationRange
from tilepress.quantize.ranks import Ranks
from tilepress.quantize.rate import TILE_ROWS
from tilepress.quantize.rounding import round_weights

ROWS = 64 * TILE_ROWS


@dataclass(frozen=True)
class RoundedRows:
    """integers int8 [n, k], on the CPU.

    error, norm: float32 [n], of each row's outputs on the tokens, squared and added up.
    """

    integers: Tensor
    error: Tensor
    norm: Tensor


def round_rows(
    weight: Callable[[slice], Tensor],
    steps: Tensor,
    lengths: Tensor,
    factor: HessianFactor,
    inputs: ActivationRange,
    tokens: Tensor,
    ranks: Ranks,
) -> RoundedRows:
    """Round the n rows that `weight` gives, float32 [up to ROWS, k] at a time; steps float32 [n].

    lengths float32 [ceil(n / 128), 128], of the codes. tokens float32 [m, k]: what the error is measured on, with the
    activations quantized by `inputs`. On the CPU the integers are the same for any number of ranks. Each rank gets all.
    """
    seen = inputs.round_trip(tokens)
    integers = torch.empty(len(steps), tokens.shape[1], dtype=torch.int8)
    error, norm = torch.zeros_like(steps), torch.zeros_like(steps)
    mine = ranks.share(len(steps), TILE_ROWS)
    for start in range(mine.start, mine.stop, ROWS):
        part = slice(start, min(start + ROWS, mine.stop))
        block = weight(part)
        tables = lengths[start // TILE_ROWS : -(-part.stop // TILE_ROWS)]
        q = round_weights(block, steps[part], factor, tables)
        exact = tokens @ block.T
        error[part] = (seen @ (q * steps[part, None]).T - exact).square().sum(dim=0)
        norm[part] = exact.square().sum(dim=0)
        integers[part] = q
    return RoundedRows(ranks.filled(integers, TILE_ROWS), ranks.add_up(error), ranks.add_up(norm))
