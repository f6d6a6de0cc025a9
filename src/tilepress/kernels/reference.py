"""What the kernels compute, on a plain int8 matrix: the definition that they are tested against."""

from __future__ import annotations

import torch
from torch import Tensor


def quantize_activations(x: Tensor, input_scale: Tensor, input_offset: Tensor) -> Tensor:
    """clamp(round_half_even(float32(x) / input_scale) + input_offset, -128, 127) as int8; not-a-number gives -128."""
    steps = torch.nan_to_num(x.float() / input_scale, nan=-torch.inf)
    return torch.clamp(torch.round(steps) + input_offset, -128, 127).to(torch.int8)


def linear(
    x: Tensor, matrix: Tensor, input_scale: Tensor, input_offset: Tensor, deq_scale: Tensor, quant_bias: Tensor
) -> Tensor:
    """`tilepress.kernels.linear` with `matrix` [n, k] (int8) in place of its compressed form.

    Sums are taken in float64, where no int8 product of less than 2**38 terms rounds, and wrapped to int32 at the end.
    """
    quantized = quantize_activations(x, input_scale, input_offset)
    sums = (quantized.double() @ matrix.double().T).to(torch.int64) + quant_bias
    return (sums.to(torch.int32).float() * deq_scale).to(x.dtype)
