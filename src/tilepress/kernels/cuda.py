"""The operators for CUDA tensors. Triton, which is optional, is imported when the first of them is called."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from tilepress.errors import UsageError

# From Ampere on: Triton compiles int8 tensor core products for nothing older.
LEAST_CAPABILITY = (8, 0)


def check_device(device: torch.device) -> None:
    """Raise UsageError where the kernels cannot run on this CUDA device, with what to do."""
    _kernels("linear")
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        raise UsageError(
            f"--device {device}: {torch.cuda.get_device_name(device)} has compute capability "
            f"{capability[0]}.{capability[1]}, and compressed weights need 8.0 (Ampere) or more; use --device cpu"
        )


def _kernels(name: str) -> Any:
    try:
        return importlib.import_module(f"tilepress.kernels.triton.{name}")
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise UsageError(
            "compressed weights on a CUDA device need Triton: pip install triton, or use --device cpu"
        ) from None


def _linear(*operands: Tensor) -> Tensor:
    y: Tensor = _kernels("linear").linear(*operands)
    return y


def _embed(*operands: Any) -> Tensor:
    rows: Tensor = _kernels("embedding").embed(*operands)
    return rows


torch.library.impl("tilepress::linear", "CUDA", _linear)
torch.library.impl("tilepress::embed", "CUDA", _embed)
