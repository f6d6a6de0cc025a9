"""Rounding with error feedback (GPTQ) where each decision weighs the error against the bits it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tilepress import _native
from tilepress.codec import TILE_ROWS
from tilepress.distributed.communicator import Communicator
from tilepress.quantize.rate.rounding_rule import LARGEST, RATE_WEIGHT, decide
from tilepress.quantize.statistics.hessian import HessianFactor
from tilepress.quantize.transforms.activation_ranges import ActivationRange

BLOCK = 64


def round_weights(weight: Tensor, weight_scale: Tensor, factor: HessianFactor, lengths: Tensor) -> Tensor:
    """Return integers q, int8 [n, k], |q| <= 127, cheap to code and with small error on the calibration inputs.

    weight: float32 [n, k]. weight_scale: float32 [n], positive. lengths, from `tile_rate`: float32 [128] for all rows,
    or [ceil(n / 128), 128], a table for each 128 rows. All finite.

    Column by column in `factor.order`, q is the candidate of least
    (w - q Δ)² c_j + η Δ² mean(c) bits(q), and the remaining error is spread over the columns not rounded yet:
    w_k -= (w_j - q_j Δ) U_jk / U_jj. Sources: optimal brain surgeon (Hassibi & Stork 1993), GPTQ (Frantar et al. 2022),
    SparseGPT (Frantar & Alistarh 2023); the rate term as in CERWU. Everything is in units of Δ, so that Δ drops out.

    On the CPU the integers do not depend on the number of threads or the instruction set. Other devices add up the
    same errors in another order, so that near-ties may be decided otherwise.
    """
    rate = RATE_WEIGHT * factor.cost.mean() / factor.cost
    if weight.device.type != "cpu":
        return round_in_torch(weight, weight_scale, factor, rate, lengths)
    out = torch.empty(weight.shape, dtype=torch.int8)
    _native.round_weights(
        weight.contiguous().numpy(),
        weight_scale.contiguous().numpy(),
        factor.order.numpy(),
        factor.feedback.contiguous().numpy(),
        rate.numpy(),
        lengths.reshape(-1, LARGEST + 1).contiguous().numpy(),
        out.numpy(),
        torch.get_num_threads(),
    )
    return out


def round_in_torch(
    weight: Tensor, weight_scale: Tensor, factor: HessianFactor, rate: Tensor, lengths: Tensor
) -> Tensor:
    """Do what `round_weights` does, on any device.

    rate: float32 [k], the weight of the bits in `decide` for the columns in `factor.order`. The matrix is transposed,
    so that a column is contiguous. Feedback is applied at once inside a block of columns, and once per block to the
    columns after it (GPTQ's lazy updates).
    """
    remaining = (weight / weight_scale[:, None]).T[factor.order].contiguous()
    integers = torch.empty_like(remaining)
    columns = len(factor.order)
    feedback = factor.feedback
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        block = remaining[start:stop]
        spread = feedback[start:stop, start:stop]
        for j in range(stop - start):
            integers[start + j] = decide(block[j], lengths, rate[start + j])
            block[j] -= integers[start + j]
            block[j + 1 :].addr_(spread[j, j + 1 :], block[j], alpha=-1.0)
        remaining[stop:].addmm_(feedback[start:stop, stop:].T, block, alpha=-1.0)
    in_place = torch.empty_like(integers, dtype=torch.int8)
    in_place[factor.order] = integers.to(torch.int8)
    return in_place.T.contiguous()


ROWS = 64 * TILE_ROWS


@dataclass(frozen=True)
class RoundedRows:
    """integers int8 [n, k], on the CPU.

    error: float32 [n], squared error of each row's outputs, summed over the tokens. norm: float32 [n], their squares.
    """

    integers: Tensor
    error: Tensor
    norm: Tensor


def round_rows(
    weight: Callable[[slice], Tensor],
    weight_scale: Tensor,
    lengths: Tensor,
    factor: HessianFactor,
    inputs: ActivationRange,
    tokens: Tensor,
    ranks: Communicator,
) -> RoundedRows:
    """Round the n rows that `weight` returns, float32 [up to ROWS, k] at a time.

    weight_scale: float32 [n]. lengths: of the codes, float32 [ceil(n / 128), 128]. tokens: float32 [m, k]; on them,
    quantized by `inputs`, the error is measured. Each rank rounds its share and gets all rows. On the CPU the integers
    are the same for any number of ranks.
    """
    seen = inputs.round_trip(tokens)
    integers = torch.empty(len(weight_scale), tokens.shape[1], dtype=torch.int8)
    error, norm = torch.zeros_like(weight_scale), torch.zeros_like(weight_scale)
    mine = ranks.share(len(weight_scale), TILE_ROWS)
    for start in range(mine.start, mine.stop, ROWS):
        part = slice(start, min(start + ROWS, mine.stop))
        block = weight(part)
        tables = lengths[start // TILE_ROWS : -(-part.stop // TILE_ROWS)]
        q = round_weights(block, weight_scale[part], factor, tables)
        exact = tokens @ block.T
        error[part] = (seen @ (q * weight_scale[part, None]).T - exact).square().sum(dim=0)
        norm[part] = exact.square().sum(dim=0)
        integers[part] = q
    return RoundedRows(ranks.filled(integers, TILE_ROWS), ranks.add_up(error), ranks.add_up(norm))
