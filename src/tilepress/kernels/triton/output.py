"""From integer sums to outputs."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def narrow(value, type: tl.constexpr):
    """Return a float32 rounded to nearest even in `type`, float32, bfloat16 or float16.

    Bfloat16 by hand: Triton's interpreter cuts the bits off.
    """
    if type == tl.bfloat16:
        bits = value.to(tl.uint32, bitcast=True)
        rounded = tl.where(value == value, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7FC0)
        result = rounded.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        result = value.to(type)
    return result


@triton.jit
def scale_sums(
    sums, token, row, n, ratio, offset, input_offset, deq_scale, quant_bias, weight_sums, there, OWN: tl.constexpr
):
    """Return y in float32 as `tilepress.kernels.linear` defines it; launches need enable_fp_fusion=False.

    sums: int32; token and row broadcast to its shape. there: which of the tokens exist. The pointers are the operator's
    operands, and ratio and offset as in Quantized. weight_sums is read where OWN is set.
    """
    present = row < n
    scale = tl.load(deq_scale + row, mask=present, other=0.0)
    bias = tl.load(quant_bias + row, mask=present, other=0)
    y = (sums + bias).to(tl.float32) * scale
    if OWN:
        of_weights = tl.load(weight_sums + row, mask=present, other=0)
        own_ratio = tl.load(ratio + token, mask=there, other=0.0)
        own_offset = tl.load(offset + token, mask=there, other=0)
        products = (sums - own_offset * of_weights).to(tl.float32) * own_ratio
        own_bias = (bias + tl.load(input_offset) * of_weights).to(tl.float32)
        y = tl.where(own_ratio > 0.0, (products + own_bias) * scale, y)
    return y
