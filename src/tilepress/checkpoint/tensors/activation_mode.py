"""The activation modes: what becomes of a token that overflows the static range of a linear's input."""

from __future__ import annotations

import torch
from torch import Tensor

from tilepress.checkpoint.description import ACTIVATIONS, W8A8_DYNAMIC, W8A8S_DYNAMIC, Description
from tilepress.checkpoint.description import OVERFLOW as OVERFLOW
from tilepress.checkpoint.description import STATIC as STATIC
from tilepress.errors import CheckpointError

PER_TOKEN, DYNAMIC = "per-token", "dynamic"
MODES = (OVERFLOW, STATIC, PER_TOKEN, DYNAMIC)
_BLOCK = 1 << 20  # weights


def mode_of(description: Description) -> str:
    """Return one of MODES. A directory without one, such as the vendor's, is static: it clamps tokens that overflow.

    Raises CheckpointError for any other value.
    """
    mode = description.extra.get(ACTIVATIONS, STATIC)
    if mode not in MODES:
        raise CheckpointError(
            f"{description.path}: {ACTIVATIONS} is {mode!r}; it has to be {', '.join(MODES[:-1])} or {MODES[-1]}, "
            "quantize the model again"
        )
    return str(mode)


def mode_of_input(mode: str, *, massive: bool) -> str:
    """Return OVERFLOW, STATIC or DYNAMIC for one input of a model; massive: as in `Feed`."""
    if mode != PER_TOKEN:
        return mode
    return DYNAMIC if massive else STATIC


def is_dynamic(mode: str, kind: str) -> bool:
    """Return True if tokens that overflow the range of a linear of type `kind` get a dynamic scale and offset."""
    return mode in (OVERFLOW, DYNAMIC) or kind in (W8A8S_DYNAMIC, W8A8_DYNAMIC)


def row_sums(weight: Tensor) -> Tensor:
    """Return int32 [n], the sums over the rows of an int8 weight [n, k], which dynamic offsets are multiplied by."""
    # In blocks: torch widens what it sums, which for a head of 152 thousand tokens would take 3 GB. One tensor for all
    # sums: sums allocated between the blocks would keep the C library from reusing the memory of the blocks.
    sums = torch.empty(len(weight), dtype=torch.int32)
    rows = max(1, _BLOCK // weight.shape[1])
    for block, out in zip(torch.split(weight, rows), torch.split(sums, rows), strict=True):
        torch.sum(block, dim=1, dtype=torch.int32, out=out)
    return sums
