"""`torch.ops.tilepress.linear` for CUDA tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from tilepress.kernels.triton import large_batch, small_batch
from tilepress.kernels.triton.fast_form import few_tokens
from tilepress.kernels.triton.fast_form.form import check_fast_matrix
from tilepress.kernels.triton.machine import current
from tilepress.kernels.triton.matrix import check_matrix
from tilepress.kernels.triton.operands import Operands

FLOAT_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def linear(
    x: Tensor,
    weight: Tensor,
    index: Tensor,
    info: Tensor,
    input_scale: Tensor,
    input_offset: Tensor,
    deq_scale: Tensor,
    quant_bias: Tensor,
    weight_sums: Tensor,
) -> Tensor:
    """Compute `tilepress.kernels.linear` with the same bits, but y is not-a-number in damaged rows.

    The weight is in the fast form for devices (`fast_form/form.py`) where the index is int32.

    The host never waits for the device, and nothing depends on what tensors hold: CUDA graphs can record it. Raises
    ValueError for tensors of another dtype, shape or layout.
    """
    if x.dtype not in FLOAT_TYPES or x.dim() == 0:
        raise ValueError(f"x is {x.dtype} {list(x.shape)}; float32, bfloat16 or float16 [..., k] is needed")
    k, n = x.shape[-1], deq_scale.numel()
    fast = index.dtype is torch.int32
    matrix = (check_fast_matrix if fast else check_matrix)(weight, index, info, n, k)
    operands = Operands(matrix, input_scale, input_offset, deq_scale, quant_bias, weight_sums)
    y = torch.empty((*x.shape[:-1], n), dtype=x.dtype, device=x.device)
    tokens = y.numel() // n
    if tokens > 0:
        few = few_tokens.multiply if fast else small_batch.multiply
        multiply = few if tokens <= small_batch.MOST_TOKENS else large_batch.multiply
        with current(x.device):
            multiply(x.contiguous().view(tokens, k), operands, y.view(tokens, n))
    return y
