"""The operator `torch.ops.tilepress.linear` and its CPU implementation (CUDA: `tilepress.kernels.triton`)."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from tilepress import _native
from tilepress.errors import BitstreamError

# The prefix by which native code marks damage: torch makes a RuntimeError of every exception that it does not know.
_DAMAGE = "BitstreamError: "
_LIBRARY = "libtorch_cpu.dylib" if sys.platform == "darwin" else "libtorch_cpu.so"
# Stands for no weight_sums in the operator, which takes tensors only.
_CLAMP = torch.empty(0, dtype=torch.int32)
_FLOAT_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

torch.library.define(
    "tilepress::linear",
    "(Tensor x, Tensor weight, Tensor index, Tensor info, Tensor input_scale, Tensor input_offset, "
    "Tensor deq_scale, Tensor quant_bias, Tensor weight_sums) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
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
    weight_sums: Tensor | None = None,
) -> Tensor:
    """Quantize x, multiply it by the compressed int8 matrix W [n, k], and scale the result back.

        xq = clamp(round_half_even(float32(x) / input_scale) + input_offset, -128, 127)
        y = float32(int32(xq @ W.T + quant_bias)) * deq_scale

    A token overflows where, without the clamp, its least or greatest activation or 0 would be outside -128 ... 127.
    Given weight_sums, the sums over the rows of W, it is then quantized by a dynamic scale and offset instead, if that
    scale is a normal number:

        scale = (greatest - least) / 255, offset = -128 - round_half_even(least / scale)
        y = (float32(int32(xq @ W.T - offset * weight_sums)) * (scale / input_scale)
             + float32(int32(quant_bias + input_offset * weight_sums))) * deq_scale

    With the input_offset 128 (`reference.SYMMETRIC`) and weight_sums, every token has the scale greatest(|x|) / 127, or
    1 where that is no normal number, and the offset 0.

    The int32 sums wrap modulo 2**32; y is rounded to nearest even into x's dtype. The result has the same bits for any
    number of threads (`torch.set_num_threads`), any instruction set, and whatever other tokens are in the batch.
    Not-a-number in x counts as minus infinity: it becomes -128.

    x: [..., k], float32, bfloat16 or float16. weight: int8 [x], index: int8 [y], info: int64 [5]
    (docs/reference/bitstream.md). input_scale: float32 [1]. input_offset: int32 [1], -128 to 128. deq_scale:
    float32 [n]. quant_bias: int32 [n]. weight_sums: int32 [n], or None to clamp. Returns [..., n] in x's dtype.

    Raises BitstreamError where the compressed bytes are damaged, with the number of the tile, and ValueError for
    tensors of another dtype, shape or layout. On a CUDA device, for which the host does not wait, damage gives
    not-a-number in the rows concerned instead. There is no gradient.
    """
    try:
        y: Tensor = _OPERATOR(
            x,
            weight,
            index,
            info,
            input_scale,
            input_offset,
            deq_scale,
            quant_bias,
            _CLAMP if weight_sums is None else weight_sums,
        )
    except RuntimeError as error:
        if str(error).startswith(_DAMAGE):
            raise BitstreamError(str(error).removeprefix(_DAMAGE)) from None
        raise
    return y


def linear_from_python(
    x: Tensor,
    weight: Tensor,
    index: Tensor,
    info: Tensor,
    input_scale: Tensor,
    input_offset: Tensor,
    deq_scale: Tensor,
    quant_bias: Tensor,
    weight_sums: Tensor = _CLAMP,
) -> Tensor:
    """The operator on the CPU where torch is too old to call native code: some 10 microseconds a call more."""
    float_type = _FLOAT_TYPES.get(x.dtype)
    if float_type is None or x.dim() == 0:
        raise ValueError(f"x is {x.dtype} {list(x.shape)}; float32, bfloat16 or float16 [..., k] is needed")
    n = deq_scale.numel()
    require("weight", weight, torch.int8, weight.numel())
    require("index", index, torch.int8, index.numel())
    require("info", info, torch.int64, 5)
    require("input_scale", input_scale, torch.float32, 1)
    require("input_offset", input_offset, torch.int32, 1)
    require("deq_scale", deq_scale, torch.float32, n)
    require("quant_bias", quant_bias, torch.int32, n)
    if weight_sums.numel() > 0:
        require("weight_sums", weight_sums, torch.int32, n)
    x = x.contiguous()
    k = x.shape[-1]
    y = torch.empty((*x.shape[:-1], n), dtype=x.dtype)
    _native.linear(
        x.data_ptr(),
        y.data_ptr(),
        float_type,
        x.numel() // k if k else 0,
        k,
        n,
        weight.data_ptr(),
        weight.numel(),
        index.data_ptr(),
        index.numel(),
        info.data_ptr(),
        input_scale.data_ptr(),
        input_offset.data_ptr(),
        deq_scale.data_ptr(),
        quant_bias.data_ptr(),
        weight_sums.data_ptr() if weight_sums.numel() > 0 else 0,
        torch.get_num_threads(),
    )
    return y


def require(name: str, tensor: Tensor, dtype: torch.dtype, length: int) -> None:
    """Raises ValueError unless `tensor` has `length` contiguous entries of `dtype`."""
    if tensor.dtype is not dtype or tensor.numel() != length or not tensor.is_contiguous():
        raise ValueError(
            f"{name} is {tensor.dtype} {list(tensor.shape)}, strides {list(tensor.stride())}; "
            f"{dtype} [{length}], contiguous, is needed"
        )


def _linear_fake(
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
    return x.new_empty((*x.shape[:-1], deq_scale.shape[0]))


NATIVE = _native.register_torch_operators(str(Path(torch.__file__).parent / "lib" / _LIBRARY))
if not NATIVE:
    torch.library.impl("tilepress::linear", "CPU", linear_from_python)
torch.library.register_fake("tilepress::linear", _linear_fake)

_OPERATOR = torch.ops.tilepress.linear.default  # looked up once: three attributes take a microsecond
