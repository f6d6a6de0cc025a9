"""Parameters whose size is known only when they are loaded."""

from __future__ import annotations

import torch
from torch import nn


def placeholder(dtype: torch.dtype) -> nn.Parameter:
    """An empty parameter of a type; its `data` is replaced when it is loaded."""
    return nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
