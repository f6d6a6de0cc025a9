"""The definition of what the kernels compute, on a plain int8 matrix; they are tested against it."""

from __future__ import annotations

import torch
from torch import Tensor

# An input_offset that gives every token a symmetric scale of its own.
SYMMETRIC = 128


def quantize_activations(x: Tensor, input_scale: Tensor, input_offset: Tensor) -> Tensor:
    """clamp(round_half_even(float32(x) / input_scale) + input_offset, -128, 127) as int8; -128 for not-a-number."""
    steps = torch.nan_to_num(x.float() / input_scale, nan=-torch.inf)
    return torch.clamp(torch.round(steps) + input_offset, -128, 127).to(torch.int8)


def linear(
    x: Tensor,
    matrix: Tensor,
    input_scale: Tensor,
    input_offset: Tensor,
    deq_scale: Tensor,
    quant_bias: Tensor,
    weight_sums: Tensor | None = None,
) -> Tensor:
    """`tilepress.kernels.linear` with `matrix` [n, k] (int8) in place of its compressed form.

    Sums are taken in float64, where no int8 product of less than 2**38 terms rounds, and wrapped to int32 at the end.
    """
    sums = _products(quantize_activations(x, input_scale, input_offset), matrix) + quant_bias
    y = sums.to(torch.int32).float() * deq_scale
    if weight_sums is not None:
        symmetric = int(input_offset) == SYMMETRIC
        overflows, own_scale, own_offset = symmetric_scales(x) if symmetric else dynamic(x, input_scale, input_offset)
        own_offset = own_offset.to(torch.int32)
        products = _products(quantize_activations(x, own_scale, own_offset), matrix) - own_offset * weight_sums
        bias = (quant_bias + input_offset * weight_sums).to(torch.int32)
        own = (products.to(torch.int32).float() * (own_scale / input_scale) + bias.float()) * deq_scale
        y = torch.where(overflows, own, y)
    return y.to(x.dtype)


def dynamic(x: Tensor, input_scale: Tensor, input_offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return whether a token gets a dynamic scale, that scale and its offset, each [..., 1]; else 1 and 0."""
    known = torch.nan_to_num(x.float(), nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    low, high = known.amin(-1, keepdim=True).clamp(max=0), known.amax(-1, keepdim=True).clamp(min=0)
    leaves = (torch.round(high / input_scale) + input_offset > 127) | (
        torch.round(low / input_scale) + input_offset < -128
    )
    scale = (high - low) / 255
    limits = torch.finfo(torch.float32)
    overflows = leaves & (scale >= limits.tiny) & (scale <= limits.max)
    scale = torch.where(overflows, scale, 1.0)
    return overflows, scale, torch.where(overflows, -128 - torch.round(low / scale), 0.0)


def symmetric_scales(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `dynamic` does where input_offset is SYMMETRIC: every token has a scale, and the offset 0."""
    known = torch.nan_to_num(x.float(), nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    scale = known.abs().amax(-1, keepdim=True) / 127
    limits = torch.finfo(torch.float32)
    normal = (scale >= limits.tiny) & (scale <= limits.max)
    return torch.ones_like(normal), torch.where(normal, scale, 1.0), torch.zeros_like(scale)


def _products(quantized: Tensor, matrix: Tensor) -> Tensor:
    return (quantized.double() @ matrix.double().T).to(torch.int64)
