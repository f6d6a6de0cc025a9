"""Memory of mapped files: how much of one is resident, as the system counts it, before and after it is given back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tilepress.checkpoint.safetensors.mapped_pages import release_pages
from tilepress.checkpoint.safetensors.reader import TensorFiles

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell what is mapped")


def resident(file: Path) -> int:
    """Bytes of `file` in this process's memory."""
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            counts = line.endswith(f" {file}")
        elif counts and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


@pytest.fixture
def large(tmp_path: Path) -> Path:
    file = tmp_path / "large and spaced.safetensors"
    save_file({"a": torch.arange(1 << 20), "b": torch.ones(1 << 20)}, file)
    return file


def test_what_was_read_is_given_back_and_can_be_read_again(large: Path) -> None:
    files = TensorFiles(large)
    a = files.tensor("a")
    total = int(a.sum())
    assert resident(large) >= a.nbytes
    files.release()
    assert resident(large) == 0
    assert int(a.sum()) == total


def test_other_files_keep_theirs(large: Path, tmp_path: Path) -> None:
    a = TensorFiles(large).tensor("a")
    a.sum()
    release_pages([tmp_path / "other", tmp_path])
    assert resident(large) >= a.nbytes
