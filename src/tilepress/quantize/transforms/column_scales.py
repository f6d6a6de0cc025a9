"""Column scales that level the inputs of a layer's linears, and their exact folds into the modules before them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tilepress.checkpoint.tensors.activation_mode import OVERFLOW, STATIC

# Bounds of the median token's largest value.
LEAST_INPUT, MOST_INPUT = 0.125, 2.0**20
# Where tokens share a range and are clipped, max|x_j| / s_j of a column may be this many times the median column's.
REACH = 1.4


def column_scales(cost: Tensor, largest: Tensor, mode: str) -> Tensor:
    """Scales with geometric mean 1 before a limit to their reach, float32 [k].

    cost: c_j = 1 / U_jj², the cost of an error of the column's weights. largest: max |x_j| over the calibration tokens.
    mode: of this input's activations. Inputs become x / s, weights W · s. A column that is always zero keeps scale 1.

    With s_j = sqrt(c_j) an error of a weight costs the same in all columns: that is best for DYNAMIC. STATIC limits
    the reach of these scales. OVERFLOW takes the geometric mean of sqrt(c_j) and max|x_j|, as SmoothQuant (Xiao et al.
    2022) does: under a limit to the reach many columns end where the range ends, and more tokens overflow.
    """
    used = (largest > 0) & (cost > 0)
    if not used.any():
        return torch.ones_like(largest)
    logarithm = torch.zeros_like(largest)
    logarithm[used] = 0.5 * cost[used].log()
    if mode == OVERFLOW:
        logarithm[used] = 0.5 * (logarithm[used] + largest[used].log())
    logarithm[used] -= logarithm[used].mean()
    return limit_reach(logarithm.exp(), largest) if mode == STATIC else logarithm.exp()


def limit_reach(scales: Tensor, largest: Tensor) -> Tensor:
    """Raise scales until max|x_j| / s_j is at most REACH times its median; float32 [k].

    A column that reaches far makes the steps of all others coarse where tokens share a range. Its weights take more
    bits instead, the fewest for a given reach: at a constant rate weights lose mean(c_j / s_j²) over its geometric
    mean. docs/explanation/algorithm.md has what decided for REACH.
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
