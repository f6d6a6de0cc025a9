"""Column scales that level the inputs of a layer's linears, and their exact folds into the modules before them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Bounds of the median token's largest value.
LEAST_INPUT, MOST_INPUT = 0.125, 2.0**20
# A scaled column may reach this many times the median column.
REACH = 4.0


def column_scales(cost: Tensor, largest: Tensor, *, ranged: bool) -> Tensor:
    """s_j = sqrt(sqrt(cost_j) · largest_j) with geometric mean 1, float32 [k]; sqrt(cost_j) unless `ranged`.

    cost: c_j = 1 / U_jj², the cost of an error of the column's weights. largest: max |x_j| over the calibration tokens.
    ranged: whether all tokens share a range. sqrt(c_j) is right for the weights: an error then costs the same in all
    columns. max|x_j| is right for a per-tensor activation range, and s_j is the geometric mean of both. SmoothQuant
    (Xiao et al. 2022) is between the two as well. Inputs become x / s, weights W · s. A column that is always zero
    keeps scale 1.
    """
    used = (largest > 0) & (cost > 0)
    if not used.any():
        return torch.ones_like(largest)
    logarithm = torch.zeros_like(largest)
    logarithm[used] = 0.5 * cost[used].log()
    if ranged:
        logarithm[used] = 0.5 * (logarithm[used] + largest[used].log())
    logarithm[used] -= logarithm[used].mean()
    return logarithm.exp()


def limit_reach(scales: Tensor, largest: Tensor) -> Tensor:
    """Raise scales until max|x_j| / s_j is at most REACH times its median; float32 [k].

    This is for the few columns of down_proj's input with massive activations: their weights take a few more bits, and
    all other columns get a finer input_scale. Measured on SmolLM2 with only down_proj quantized (4 bits, static): KL
    divergence .036 without a limit; .029, .027 and .028 with 8, 4 and 2.
    """
    reach = largest / scales
    used = reach > 0
    if not used.any():
        return scales
    return scales * (reach / (REACH * reach[used].median())).clamp(min=1.0)


def within_range(scales: Tensor, rows: Tensor) -> Tensor:
    """Multiply `scales` by a power of two where the median token's largest |x| / s is below 1/8 or above 2^20.

    float16 holds an input_scale from 6.1e-5 on, too large for inputs below 1/64. The fold stays exact, and the weights
    times `scales` make up for it. rows: float32 [m, k], sampled inputs.
    """
    typical = float((rows / scales).abs().amax(dim=1).median()) if len(rows) else 0.0
    if typical == 0.0 or LEAST_INPUT <= typical <= MOST_INPUT:
        return scales
    return scales * 2.0 ** round(math.log2(typical))


def share_over_query_heads(scales: Tensor, heads: int, kv_heads: int) -> Tensor:
    """Make the scales of o_proj's input [heads · head_dim] equal over the query heads that read one kv head.

    These heads read the same rows of v_proj, so that only a common scale, the largest, folds exactly.
    """
    grouped = scales.view(kv_heads, heads // kv_heads, -1)
    return grouped.amax(dim=1, keepdim=True).expand_as(grouped).reshape(-1)


def rows_of_value_heads(scales: Tensor, heads: int, kv_heads: int) -> Tensor:
    """The scale of each row of v_proj [kv_heads · head_dim] from shared scales of o_proj's input."""
    return scales.view(kv_heads, heads // kv_heads, -1)[:, 0].reshape(-1)


def representable_scales(gain: Tensor, scales: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the norm gain divided by `scales` and stored in `dtype`, and the scales that this gain really applies.

    gain, scales: float32 [k]. The folded gain is float32 with values exact in `dtype`. Rounding the gain first and
    then scaling the weights by the rounded gain keeps the fold exact: otherwise a bfloat16 gain is off by up to 0.4 %
    per column. Columns keep their gain where it is zero or would overflow or underflow `dtype`.
    """
    folded = (gain / scales).to(dtype).float()
    usable = (folded.abs() >= torch.finfo(dtype).tiny) & folded.isfinite()
    folded = torch.where(usable, folded, gain.to(dtype).float())
    applied = torch.where(folded != 0, gain / folded, torch.ones_like(gain))
    return folded, torch.where(applied.isfinite() & (applied > 0), applied, torch.ones_like(gain))
