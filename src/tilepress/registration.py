"""Makes transformers know tilepress's directories, and packages callable, without importing anything early.

`import tilepress` takes milliseconds, transformers' quantizers seconds. So they get tilepress's when they are imported,
before or after.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

# transformers' module that loads models; it has imported the quantizers when it is ready.
MODULE = "transformers.modeling_utils"
METHOD = "tilepress"
# What the from_pretrained under way was asked for, and its revision: a config may come from elsewhere, or not say it.
ASKED: ContextVar[tuple[str, str | None] | None] = ContextVar("asked", default=None)
# Words of `quantize` in config.json by which directories of the vendor's tool are known: they have nothing else there.
VENDORS = ("w8a8s", "w8a8", "w8a8_mix", "w8a8_dynamic")


def register() -> None:
    """Register now where transformers loads models already, else as soon as it does. Once is enough."""
    if MODULE in sys.modules:
        _register(sys.modules[MODULE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds MODULE as before, with a loader that registers behind it."""

    _looking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MODULE or self._looking:
            return None
        self._looking = True
        try:
            spec = find_spec(fullname)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self._loader, self._finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        _register(module)


def _register(modeling: Any) -> None:
    """Register the quantizer when models are first loaded, and let directories of the vendor's tool name it too."""
    choose = modeling.get_hf_quantizer
    if getattr(choose, "knows_tilepress", False):
        return

    def get_hf_quantizer(config: Any, quantization_config: Any, *arguments: Any, **options: Any) -> Any:
        _recognise_vendors(config)
        if _method(quantization_config) == METHOD:  # transformers would take the directory's, with a warning
            config.quantization_config, quantization_config = quantization_config.to_dict(), None
        if _method(getattr(config, "quantization_config", None)) == METHOD:
            importlib.import_module("tilepress.engines.transformers.quantizer")
        return choose(config, quantization_config, *arguments, **options)

    load = modeling.PreTrainedModel.from_pretrained.__func__

    @wraps(load)
    def from_pretrained(cls: Any, path: Any = None, *arguments: Any, **options: Any) -> Any:
        folder = options.get("subfolder")
        asked = None if path is None else (str(Path(path) / folder) if folder else str(path), options.get("revision"))
        token = ASKED.set(asked)
        try:
            return load(cls, path, *arguments, **options)
        finally:
            ASKED.reset(token)

    get_hf_quantizer.knows_tilepress = True  # type: ignore[attr-defined]
    modeling.get_hf_quantizer = get_hf_quantizer
    modeling.PreTrainedModel.from_pretrained = classmethod(from_pretrained)


def _recognise_vendors(config: Any) -> None:
    """Give a config of the vendor's tool the quantization_config that it lacks."""
    if getattr(config, "quantization_config", None) is None and getattr(config, "quantize", None) in VENDORS:
        path = Path((ASKED.get() or (config.name_or_path or "", None))[0])
        if path.is_dir() and any(path.glob("quant_model_description*.json")):
            config.quantization_config = {"quant_method": METHOD, "format": config.quantize}


def _method(quantization_config: Any) -> object:
    """Return the quant_method of a quantization_config, which is a dict or an object."""
    if isinstance(quantization_config, dict):
        return quantization_config.get("quant_method")
    return getattr(quantization_config, "quant_method", None)


class _CallablePackage(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        function = getattr(importlib.import_module("tilepress.api"), self.__name__.rpartition(".")[2])
        return function(*arguments, **options)


def make_callable(package: str) -> None:
    """Let a package be called as the function of its name in `tilepress.api`: `tilepress.quantize(model, out)`."""
    sys.modules[package].__class__ = _CallablePackage
