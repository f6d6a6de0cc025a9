"""A compressed linear, or an embedding, as the tensors that the operators take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tilepress.checkpoint.description import W8A8_DYNAMIC
from tilepress.codec import RESIDENT_FORM, Compressed
from tilepress.errors import UsageError
from tilepress.kernels.reference import SYMMETRIC
from tilepress.kernels.triton.fast_form.form import to_device_form

if TYPE_CHECKING:
    from tilepress.checkpoint import CompressedEmbedding, CompressedLinear


def linear_operands(stored: CompressedLinear) -> dict[str, Tensor]:
    """Return the arguments of `tilepress.kernels.linear` after x, by name and in order, sharing memory with `stored`.

    weight int8 [bytes], index int8 [8 * tiles], info int64 [5], input_scale float32 [1], input_offset int32 [1],
    deq_scale float32 [n], quant_bias int32 [n], and weight_sums int32 [n] where tokens that overflow get a dynamic
    scale.
    """
    offset, quant_bias = stored.input_offset, stored.quant_bias
    if stored.kind == W8A8_DYNAMIC:
        assert stored.weight_sums is not None
        offset, quant_bias = SYMMETRIC, quant_bias - SYMMETRIC * stored.weight_sums
    operands = _bytes(stored.weight) | {
        "input_scale": torch.tensor([stored.input_scale], dtype=torch.float32),
        "input_offset": torch.tensor([offset], dtype=torch.int32),
        "deq_scale": stored.deq_scale,
        "quant_bias": quant_bias,
    }
    return operands if stored.weight_sums is None else operands | {"weight_sums": stored.weight_sums}


def embedding_operands(stored: CompressedEmbedding) -> dict[str, Tensor]:
    """Return the arguments of `tilepress.kernels.embed` between ids and hidden; weight_scale: float32 [vocabulary]."""
    return _bytes(stored.weight) | {"weight_scale": stored.weight_scale}


def for_cuda(operands: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return `operands`, in the fast form as CUDA devices take it (index int32); tiles stay as they are."""
    names = ("weight", "index", "info")
    weight, index, info = (operands[name].numpy() for name in names)
    if int(info[4]) != RESIDENT_FORM:
        return operands
    form = to_device_form(Compressed(weight, index, info))
    return operands | dict(zip(names, map(torch.from_numpy, form), strict=True))


def _bytes(weight: Compressed) -> dict[str, Tensor]:
    return {"weight": _shared(weight.weight), "index": _shared(weight.index), "info": _shared(weight.info)}


def _shared(array: NDArray[Any]) -> Tensor:
    """Return a tensor of the same memory; a read-only array, a small one, is copied, as torch has no such tensors."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def converted(stored: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Return `stored` in dtype; no copy where it has that dtype. name: file and tensor, for the message.

    Raises UsageError where float16 cannot hold a value.
    """
    tensor = stored.to(dtype)
    if dtype == torch.float16 and stored.dtype != dtype and bool(tensor.isinf().any()):
        raise UsageError(f"{name} has values beyond the range of float16; use bfloat16 or float32")
    return tensor
