"""Conversion of float tensors to the type that a directory stores."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tilepress.errors import CheckpointError
from tilepress.finite import is_finite

# Rows checked at a time: for a whole embedding table the results of the checks would be as large as the table.
ROWS = 8192


def stored_float(name: str, tensor: Tensor, dtype: str, source: Path) -> tuple[Tensor, int]:
    """Return `tensor` on the CPU in dtype ("float16" or "bfloat16"), and how many of its values became zero.

    Raises CheckpointError, naming `source` and the tensor, for a value that is not finite or that dtype cannot hold.
    """
    converted = torch.empty(tensor.shape, dtype=getattr(torch, dtype))
    flushed = 0
    for values, stored in zip(torch.split(tensor.detach(), ROWS), torch.split(converted, ROWS), strict=True):
        if not is_finite(values):
            raise CheckpointError(f"{source}: {name} holds NaN or infinite values; get the model again")
        stored.copy_(values)
        if not is_finite(stored):
            overflow = torch.isinf(stored)
            remedy = "; use --dtype bfloat16" if dtype == "float16" else ""
            raise CheckpointError(
                f"{source}: {int(overflow.sum())} values of {name} exceed {dtype}, such as "
                f"{float(values[overflow.to(values.device)][0])}{remedy}"
            )
        flushed += int(torch.count_nonzero(values)) - int(torch.count_nonzero(stored))
    return converted, flushed
