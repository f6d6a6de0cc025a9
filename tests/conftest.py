"""Fixtures that every part's tests share: tiny float checkpoints, made once a session."""

from __future__ import annotations

import os
from pathlib import Path

# Before anything imports Triton, which decides then whether kernels are compiled or, as here, run on CPU tensors.
os.environ["TRITON_INTERPRET"] = "1"

import pytest
import torch

from tiny_models import make_tiny_qwen3

# Of two processes that share the tests each has one core of a small machine; alone it has both.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float16 Qwen3 of two layers with an untied head; tests only read it."""
    return make_tiny_qwen3(tmp_path_factory.mktemp("models") / "tiny-qwen3")
