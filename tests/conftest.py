"""Fixtures that every part's tests share: tiny float checkpoints, made once a session."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

# Before anything imports Triton, which decides then whether kernels are compiled or, as here, run on CPU tensors.
os.environ["TRITON_INTERPRET"] = "1"

import pytest
import torch

from quantized_models import make_w8a8s
from tilepress.compress import compress_directory
from tiny_models import make_tiny_qwen3

# Of two processes that share the tests each has one core of a small machine; alone it has both.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float16 Qwen3 of two layers with an untied head; tests only read it."""
    return make_tiny_qwen3(tmp_path_factory.mktemp("models") / "tiny-qwen3")


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


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    """A text of the user's, enough for six sequences of 64 tokens."""
    file = tmp_path / "calibration.txt"
    words = [
        "the",
        "model",
        "reads",
        "what",
        "the",
        "user",
        "wrote",
        "and",
        "learns",
        "where",
        "its",
        "inputs",
        "are",
        "large",
    ]
    paragraphs = [" ".join(words[i % 7 :]) for i in range(60)]
    file.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return file
