"""Float tensors in the type that an engine computes in."""

from __future__ import annotations

import torch
from torch import Tensor

from tilepress.errors import UsageError


def converted(stored: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """`stored` in dtype, itself where it is that already. name: file and tensor, for the message.

    Raises UsageError where float16 cannot hold a value.
    """
    tensor = stored.to(dtype)
    if dtype == torch.float16 and stored.dtype != dtype and bool(tensor.isinf().any()):
        raise UsageError(f"{name} has values beyond the range of float16; use bfloat16 or float32")
    return tensor
