"""The torch operator `tilepress::linear`."""

from __future__ import annotations

import torch
from torch import Tensor

from tilepress import _native

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_LIBRARY = torch.library.Library("tilepress", "DEF")
_LIBRARY.define(
    "linear(Tensor x, Tensor weight, Tensor index, Tensor info, Tensor input_scale, Tensor input_offset, "
    "Tensor deq_scale, Tensor quant_bias) -> Tensor"
)


def linear(
    x: Tensor,
    weight: Tensor,
    index: Tensor,
    info: Tensor,
    input_scale: Tensor,
    input_offset: Tensor,
    deq_scale: Tensor,
    quant_bias: Tensor,
) -> Tensor:
    """y = (x_q @ W.T + quant_bias) * deq_scale, with x_q = clamp(round(x / input_scale) + input_offset, -128, 127).

    x [..., k] float32, bfloat16 or float16; W int8 [n, k] compressed in weight int8 [bytes], index int8 [8 * tiles] and
    info int64 [5] (docs/bitstream.md); input_scale float32 [1], input_offset int32 [1], deq_scale float32 [n], quant_bias
    int32 [n]. Returns [..., n] of x's dtype. Rounding is to nearest even, accumulation int32 modulo 2^32; a NaN in x
    counts as the lowest value. The same bits for any batch, number of threads (`torch.get_num_threads()`) and instruction
    set. Safe on any bytes: raises BitstreamError for damaged ones, ValueError for tensors that do not fit.
    """
    y: Tensor = torch.ops.tilepress.linear.default(
        x, weight, index, info, input_scale, input_offset, deq_scale, quant_bias
    )
    return y


@torch.library.impl(_LIBRARY, "linear", "CPU")
def _linear_cpu(
    x: Tensor,
    weight: Tensor,
    index: Tensor,
    info: Tensor,
    input_scale: Tensor,
    input_offset: Tensor,
    deq_scale: Tensor,
    quant_bias: Tensor,
) -> Tensor:
    n, k = deq_scale.shape[0], x.shape[-1]
    _check(x, weight, index, info, input_scale, input_offset, deq_scale, quant_bias)
    x = x.contiguous()
    y = x.new_empty((*x.shape[:-1], n))
    tokens = x.numel() // k if k else 0
    if tokens:
        _native.linear(
            x.data_ptr(),
            y.data_ptr(),
            _TYPES[x.dtype],
            tokens,
            k,
            n,
            weight.data_ptr(),
            weight.shape[0],
            index.data_ptr(),
            index.shape[0],
            info.data_ptr(),
            input_scale.data_ptr(),
            input_offset.data_ptr(),
            deq_scale.data_ptr(),
            quant_bias.data_ptr(),
            torch.get_num_threads(),
        )
    return y


@torch.library.register_fake("tilepress::linear")
def _linear_fake(
    x: Tensor,
    weight: Tensor,
    index: Tensor,
    info: Tensor,
    input_scale: Tensor,
    input_offset: Tensor,
    deq_scale: Tensor,
    quant_bias: Tensor,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], deq_scale.shape[0]))


def _check(x: Tensor, *operands: Tensor) -> None:
    """The native kernel takes addresses: types, sizes and layouts have to be right before."""
    if x.dtype not in _TYPES:
        raise ValueError(f"x is {x.dtype}; it has to be float32, bfloat16 or float16")
    for operand, (name, dtype, size) in zip(operands, _OPERANDS, strict=True):
        if operand.dtype != dtype or operand.dim() != 1 or not operand.is_contiguous() or not operand.is_cpu:
            raise ValueError(
                f"{name} is {operand.dtype} {list(operand.shape)} on {operand.device}; it has to be contiguous {dtype} "
                "[n] on the CPU"
            )
        if size and operand.shape[0] != size:
            raise ValueError(f"{name} has {operand.shape[0]} entries; it has to have {size}")
    if operands[5].shape != operands[6].shape:
        raise ValueError(f"deq_scale has {operands[5].shape[0]} entries, quant_bias {operands[6].shape[0]}")


_OPERANDS = (
    ("weight", torch.int8, None),
    ("index", torch.int8, None),
    ("info", torch.int64, 5),
    ("input_scale", torch.float32, 1),
    ("input_offset", torch.int32, 1),
    ("deq_scale", torch.float32, None),
    ("quant_bias", torch.int32, None),
)
