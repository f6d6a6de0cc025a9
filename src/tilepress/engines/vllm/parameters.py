"""Parameters whose size is known only when they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def register_compressed(layer: Any, shape: tuple[int, int], operands: Mapping[str, torch.dtype]) -> None:
    """A compressed weight's parameters, and `operands` by their types, empty until their `data` is replaced.

    shape: of the rank's weight, [n, k].
    """
    layer.compressed_shape = shape
    code = {"weight": torch.int8, "index": torch.int8, "info": torch.int64}
    for name, dtype in {**code, **operands}.items():
        layer.register_parameter(name, nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False))
