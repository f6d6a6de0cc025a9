"""Rounding with error feedback (GPTQ) where each decision weighs the error against the bits it costs."""

from __future__ import annotations

import torch
from torch import Tensor

from tilepress.quantize.hessian import HessianFactor
from tilepress.quantize.rate import LARGEST, RATE_WEIGHT, decide

BLOCK = 64


def round_weights(weight: Tensor, steps: Tensor, factor: HessianFactor, lengths: Tensor) -> Tensor:
    """Integers q that keep (weight - q · steps) small on the calibration inputs and cheap to code.

    weight float32 [n, k]; steps float32 [n]; lengths float32 [128] from `code_lengths`. Returns int8 [n, k].

    Column by column in `factor.order`, q is the candidate of least
    (w - q Δ)² c_j + η Δ² mean(c) bits(q), and the remaining error is spread over the columns not rounded yet:
    w_k -= (w_j - q_j Δ) U_jk / U_jj. Sources: optimal brain surgeon (Hassibi & Stork 1993), GPTQ (Frantar et al. 2022),
    SparseGPT (Frantar & Alistarh 2023); the rate term as in CERWU. Everything is in units of Δ, so that Δ drops out,
    and transposed, so that a column is contiguous.

    Feedback inside a block of columns is applied at once, to the columns after it once a block (GPTQ's lazy updates).
    """
    remaining = (weight / steps[:, None]).T[factor.order].contiguous()
    integers = torch.empty_like(remaining)
    rate = (RATE_WEIGHT * factor.cost.mean() / factor.cost).tolist()
    columns = len(factor.order)
    feedback = factor.feedback()
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
    in_place[factor.order] = integers.clamp_(-LARGEST, LARGEST).to(torch.int8)
    return in_place.T.contiguous()
