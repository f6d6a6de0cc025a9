"""Column scales that level the inputs of a block's linears, and their exact folds into what produces those inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Of the median token's largest value.
LEAST_INPUT, MOST_INPUT = 0.125, 2.0**20
# How many times the median column a column may reach once it is scaled.
REACH = 4.0


def column_scales(cost: Tensor, largest: Tensor) -> Tensor:
    """s_j = sqrt(sqrt(cost_j) · largest_j) with geometric mean 1, float32 [k].

    cost: c_j = 1 / U_jj², what an error of the column's weights costs. largest: max |x_j| over the calibration tokens.
    The geometric mean of the scale that is right for the weights, sqrt(c_j), and the one that is right for a per-tensor
    activation range, max|x_j|; SmoothQuant (Xiao et al. 2022) also stands between the two. Inputs become x / s,
    weights W · s. A column that never carries a value keeps scale 1.
    """
    used = (largest > 0) & (cost > 0)
    if not used.any():
        return torch.ones_like(largest)
    logarithm = torch.zeros_like(largest)
    logarithm[used] = 0.25 * cost[used].log() + 0.5 * largest[used].log()
    logarithm[used] -= logarithm[used].mean()
    return logarithm.exp()


def limit_reach(scales: Tensor, largest: Tensor) -> Tensor:
    """Scales that bring max|x_j| / s_j down to REACH times its median where it is above, float32 [k].

    For the few columns of down_proj's input that hold massive activations: their weights take a few more bits, all
    other columns get a finer activation step. Measured on SmolLM2 with only down_proj quantized (4 bits, static): KL
    divergence .036 without a limit, .029, .027 and .028 with 8, 4 and 2.
    """
    reach = largest / scales
    used = reach > 0
    if not used.any():
        return scales
    return scales * (reach / (REACH * reach[used].median())).clamp(min=1.0)


def within_range(scales: Tensor, rows: Tensor) -> Tensor:
    """`scales`, times a power of two where the median token's largest |x| / s is below 1/8 or beyond 2^20.

    float16 holds an input_scale from 6.1e-5 on: an input of less than 1/64 would have none. The fold stays exact, and
    weights times `scales` make up for it. rows float32 [m, k]: sampled inputs.
    """
    typical = float((rows / scales).abs().amax(dim=1).median()) if len(rows) else 0.0
    if typical == 0.0 or LEAST_INPUT <= typical <= MOST_INPUT:
        return scales
    return scales * 2.0 ** round(math.log2(typical))


def share_over_query_heads(scales: Tensor, heads: int, kv_heads: int) -> Tensor:
    """The scales of o_proj's input [heads · head_dim] made equal over the query heads that read one kv head.

    Those heads read the same rows of v_proj, so that only their common (largest) scale folds exactly.
    """
    grouped = scales.view(kv_heads, heads // kv_heads, -1)
    return grouped.amax(dim=1, keepdim=True).expand_as(grouped).reshape(-1)


def rows_of_value_heads(scales: Tensor, heads: int, kv_heads: int) -> Tensor:
    """The scale of each row of v_proj [kv_heads · head_dim] from shared scales of o_proj's input."""
    return scales.view(kv_heads, heads // kv_heads, -1)[:, 0].reshape(-1)


def representable_scales(gain: Tensor, scales: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The norm gain divided by `scales` as stored in `dtype`, and the scales that this stored gain really applies.

    gain, scales: float32 [k]. Returns (folded gain in float32, all values exact in `dtype`; scales). Rounding the gain
    first and scaling the weights by what it became keeps the fold exact: a bfloat16 gain alone would cost up to 0.4 %
    a column.
    Columns whose gain is zero or would leave the range of `dtype` keep their gain.
    """
    folded = (gain / scales).to(dtype).float()
    usable = (folded.abs() >= torch.finfo(dtype).tiny) & folded.isfinite()
    folded = torch.where(usable, folded, gain.to(dtype).float())
    applied = torch.where(folded != 0, gain / folded, torch.ones_like(gain))
    return folded, torch.where(applied.isfinite() & (applied > 0), applied, torch.ones_like(gain))
