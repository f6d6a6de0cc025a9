"""Quantizing activations to int8, by the static scale or, for tokens that overflow, by a dynamic one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
NUM_WARPS = 8
# Columns are padded with zeros to whole tiles, and to whole steps of the products.
COLUMNS = 256


@dataclass(frozen=True)
class Quantized:
    """values: int8 [rows, width]; the first rows are the tokens, and columns from k on are 0.

    ratio: float32 [tokens], a token's dynamic scale over the static one; 0 where it has the static one. offset: int32
    [tokens].
    """

    values: Tensor
    ratio: Tensor
    offset: Tensor


@triton.jit
def _round_half_even(value):
    """Round a float32, ties to even; a magnitude beyond 1024 becomes 1024."""
    near = tl.minimum(tl.maximum(value, -1024.0), 1024.0)
    return (near + 12582912.0) - 12582912.0  # 1.5 * 2**23, from where on floats are whole numbers


@triton.jit
def _range(x, k, BLOCK: tl.constexpr):
    """Return (least, greatest) of a token's k activations and 0; not-a-number does not count."""
    low, high = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for begin in range(0, k, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        value = tl.load(x + column, mask=column < k, other=0.0).to(tl.float32)
        value = tl.where(value == value, value, 0.0)
        low, high = tl.minimum(low, value), tl.maximum(high, value)
    return tl.min(low), tl.max(high)


@triton.jit
def _own_scale(low, high, scale, offset):
    """Return (scale, offset, ratio) that a token with this range is quantized by."""
    leaves = (_round_half_even(tl.div_rn(high, scale)) + offset > 127.0) | (
        _round_half_even(tl.div_rn(low, scale)) + offset < -128.0
    )
    symmetric = offset == 128.0
    own = tl.where(symmetric, tl.div_rn(tl.maximum(high, -low), 127.0), tl.div_rn(high - low, 255.0))
    normal = (own >= 1.1754943508222875e-38) & (own <= 3.4028234663852886e38)
    overflows = symmetric | (leaves & normal)
    own = tl.where(overflows & normal, own, 1.0)
    own_offset = tl.where(symmetric, 0.0, -128.0 - _round_half_even(tl.div_rn(low, own)))
    ratio = tl.where(overflows, tl.div_rn(own, scale), 0.0)
    return tl.where(overflows, own, scale), tl.where(overflows, own_offset, offset), ratio


@triton.jit
def _quantize(
    x,
    k,
    input_scale,
    input_offset,
    values,
    width,
    ratios,
    offsets,
    zeroed,
    zeros,
    OWN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (t, c) quantizes columns BLOCK c, ... of token t; together they zero the `zeros` entries at `zeroed`."""
    token, chunk = tl.program_id(0), tl.program_id(1)
    x += token.to(tl.int64) * k
    scale, offset = tl.load(input_scale), tl.load(input_offset).to(tl.float32)
    ratio = 0.0
    if OWN:
        low, high = _range(x, k, BLOCK)
        scale, offset, ratio = _own_scale(low, high, scale, offset)
    if chunk == 0:
        tl.store(ratios + token, ratio)
        tl.store(offsets + token, offset.to(tl.int32))
    column = chunk * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + column, mask=column < k, other=0.0).to(tl.float32)
    steps = tl.div_rn(value, scale)
    steps = tl.where(steps == steps, steps, -1024.0)
    quantized = tl.minimum(tl.maximum(_round_half_even(steps) + offset, -128.0), 127.0)
    quantized = tl.where(column < k, quantized, 0.0).to(tl.int32).to(tl.int8)
    tl.store(values + token.to(tl.int64) * width + column, quantized, mask=column < width)
    program, programs = token * tl.num_programs(1) + chunk, tl.num_programs(0) * tl.num_programs(1)
    for begin in range(program * BLOCK, zeros, programs * BLOCK):
        entry = begin + tl.arange(0, BLOCK)
        tl.store(zeroed + entry, tl.zeros([BLOCK], tl.int32), mask=entry < zeros)


def quantize(
    x: Tensor, input_scale: Tensor, input_offset: Tensor, *, dynamic: bool, rows: int, zeroed: Tensor
) -> Quantized:
    """Quantize x [tokens, k], contiguous, as `tilepress.kernels.linear` defines it. The result has `rows` rows.

    zeroed: int32, contiguous; it is set to 0, which saves the next product a launch.
    """
    tokens, k = x.shape
    width = -(-k // COLUMNS) * COLUMNS
    quantized = Quantized(
        values=torch.empty((rows, width), dtype=torch.int8, device=x.device),
        ratio=torch.empty(tokens, dtype=torch.float32, device=x.device),
        offset=torch.empty(tokens, dtype=torch.int32, device=x.device),
    )
    block = min(BLOCK, triton.next_power_of_2(width))
    _quantize[(tokens, triton.cdiv(width, block))](
        x,
        k,
        input_scale,
        input_offset,
        quantized.values,
        width,
        quantized.ratio,
        quantized.offset,
        zeroed,
        zeroed.numel(),
        OWN=dynamic,
        BLOCK=block,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,
    )
    return quantized
