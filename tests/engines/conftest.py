"""Quantized tiny models that several tests of the engine read."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantized_models import make_w8a8s


@pytest.fixture(scope="session")
def tiny_w8a8s(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen3 as a W8A8S directory; tests only read it."""
    return make_w8a8s(tiny_qwen3, tmp_path_factory.mktemp("models") / "tiny-w8a8s")
