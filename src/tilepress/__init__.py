"""Sparse quantization of large language models: int8 weights, compressed without loss, run as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilepress.errors import BitstreamError, CheckpointError, QuantizationError, TilepressError, UsageError
from tilepress.registration import register

if TYPE_CHECKING:
    from tilepress.engines.transformers import load

    __version__: str

__all__ = [
    "BitstreamError",
    "CheckpointError",
    "QuantizationError",
    "TilepressError",
    "UsageError",
    "__version__",
    "load",
]


register()


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562): torch and transformers take seconds, `import tilepress` none."""
    if name == "load":
        from tilepress.engines.transformers import load

        return load
    if name == "__version__":
        from importlib.metadata import version

        return version("tilepress")
    raise AttributeError(f"module 'tilepress' has no attribute {name!r}")
