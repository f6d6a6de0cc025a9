"""What the tests of quantization share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices: a second thread costs more than it brings, twentyfold on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
