"""Sparse quantization of large language models: int8 weights, compressed without loss, run as they are."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tilepress.errors import BitstreamError, CheckpointError, QuantizationError, TilepressError, UsageError
from tilepress.registration import register

if TYPE_CHECKING:
    from tilepress.api import compress, evaluate, inspect, quantize
    from tilepress.engines.transformers import load

    __version__: str

__all__ = [
    "BitstreamError",
    "CheckpointError",
    "QuantizationError",
    "TilepressError",
    "UsageError",
    "__version__",
    "compress",
    "evaluate",
    "inspect",
    "load",
    "quantize",
]


register()


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562): torch and transformers take seconds, `import tilepress` none."""
    if name == "load":
        from tilepress.engines.transformers import load

        return load
    if name == "inspect":
        from tilepress.api import inspect

        return inspect
    if name in ("compress", "evaluate", "quantize"):  # packages that can be called
        return import_module(f"tilepress.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("tilepress")
    raise AttributeError(f"module 'tilepress' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
