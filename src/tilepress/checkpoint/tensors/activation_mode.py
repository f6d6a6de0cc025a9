"""What becomes of a token that leaves the static range of a linear's input: what a directory was made for."""

from __future__ import annotations

import torch
from torch import Tensor

from tilepress.checkpoint.description import W8A8S_DYNAMIC, Description
from tilepress.errors import CheckpointError

KEY = "activations"
OVERFLOW, STATIC, PER_TOKEN = "overflow", "static", "per-token"
MODES = (OVERFLOW, STATIC, PER_TOKEN)
_BLOCK = 1 << 20  # weights


def mode_of(description: Description) -> str:
    """One of MODES. Directories that do not say it, the vendor's among them, are static: such tokens are clamped.

    Raises CheckpointError for any other value.
    """
    mode = description.extra.get(KEY, STATIC)
    if mode not in MODES:
        raise CheckpointError(
            f"{description.path}: {KEY} is {mode!r}; it has to be {', '.join(MODES[:-1])} or {MODES[-1]}, "
            "quantize the model again"
        )
    return str(mode)


def is_dynamic(mode: str, kind: str) -> bool:
    """Whether tokens that overflow the range of a linear of type `kind` get a dynamic scale and offset."""
    return mode == OVERFLOW or kind == W8A8S_DYNAMIC


def row_sums(weight: Tensor) -> Tensor:
    """int32 [n], the sums over the rows of an int8 weight [n, k]: what the offset of such a token is multiplied by."""
    # torch widens what it sums: of a head of 152 thousand tokens at once that would be 3 GB. Sums that are allocated
    # between the blocks would keep the C library from using their memory again.
    sums = torch.empty(len(weight), dtype=torch.int32)
    rows = max(1, _BLOCK // weight.shape[1])
    for block, out in zip(torch.split(weight, rows), torch.split(sums, rows), strict=True):
        torch.sum(block, dim=1, dtype=torch.int32, out=out)
    return sums
