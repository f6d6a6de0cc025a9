"""A W8A8S and a W8A8SC directory that tests read, and copies of them that tests damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from quantized_models import make_w8a8s
from tilepress.compress import compress_directory


@pytest.fixture(scope="session")
def w8a8s(tmp_path_factory: pytest.TempPathFactory, tiny_qwen3: Path) -> Path:
    return make_w8a8s(tiny_qwen3, tmp_path_factory.mktemp("checkpoints") / "w8a8s", levels=7)


@pytest.fixture(scope="session")
def w8a8sc(tmp_path_factory: pytest.TempPathFactory, w8a8s: Path) -> Path:
    out = tmp_path_factory.mktemp("checkpoints") / "w8a8sc"
    compress_directory(w8a8s, out, tp=2)
    return out


@pytest.fixture
def w8a8s_copy(tmp_path: Path, w8a8s: Path) -> Path:
    return Path(shutil.copytree(w8a8s, tmp_path / "copy"))


@pytest.fixture
def w8a8sc_copy(tmp_path: Path, w8a8sc: Path) -> Path:
    return Path(shutil.copytree(w8a8sc, tmp_path / "copy"))


@pytest.fixture
def float_copy(tmp_path: Path, tiny_qwen3: Path) -> Path:
    return Path(shutil.copytree(tiny_qwen3, tmp_path / "copy"))
