"""A compressed linear, or an embedding, as the tensors that the operators take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tilepress.errors import UsageError

if TYPE_CHECKING:
    from tilepress.checkpoint import CompressedEmbedding, CompressedLinear
    from tilepress.codec import Compressed


def linear_operands(stored: CompressedLinear) -> dict[str, Tensor]:
    """What `tilepress.kernels.linear` takes behind x, by its names and in its order; the bytes are the same memory.

    weight int8 [bytes], index int8 [8 * tiles], info int64 [5], input_scale float32 [1], input_offset int32 [1],
    deq_scale float32 [n], quant_bias int32 [n], and for tokens with a scale of their own weight_sums int32 [n].
    """
    operands = _bytes(stored.weight) | {
        "input_scale": torch.tensor([stored.input_scale], dtype=torch.float32),
        "input_offset": torch.tensor([stored.input_offset], dtype=torch.int32),
        "deq_scale": stored.deq_scale,
        "quant_bias": stored.quant_bias,
    }
    return operands if stored.weight_sums is None else operands | {"weight_sums": stored.weight_sums}


def embedding_operands(stored: CompressedEmbedding) -> dict[str, Tensor]:
    """What `tilepress.kernels.embed` takes between ids and hidden: the same with weight_scale float32 [vocabulary]."""
    return _bytes(stored.weight) | {"weight_scale": stored.weight_scale}


def _bytes(weight: Compressed) -> dict[str, Tensor]:
    return {"weight": _shared(weight.weight), "index": _shared(weight.index), "info": _shared(weight.info)}


def _shared(array: NDArray[Any]) -> Tensor:
    """The same memory as a tensor; torch has no read-only tensors, so arrays that are, small ones, are copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def converted(stored: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """`stored` in dtype, itself where it is that already. name: file and tensor, for the message.

    Raises UsageError where float16 cannot hold a value.
    """
    tensor = stored.to(dtype)
    if dtype == torch.float16 and stored.dtype != dtype and bool(tensor.isinf().any()):
        raise UsageError(f"{name} has values beyond the range of float16; use bfloat16 or float32")
    return tensor
