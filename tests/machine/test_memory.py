"""The memory that a process may have: what containers allow counts, whoever asks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tilepress.machine import memory
from tilepress.machine.memory import MemoryLimit, available_bytes, machine_of, memory_limits


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """Control groups in which the slice around a service has the lower limit."""
    service = tmp_path / "a.slice" / "tilepress.service"
    service.mkdir(parents=True)
    for folder, limit, used in ((service, "3000", "700"), (service.parent, "1000", "700"), (tmp_path, "max", "900")):
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(used)
        (folder / "memory.stat").write_text("anon 5\ninactive_file 50")
    (tmp_path / "own").write_text("0::/a.slice/tilepress.service\n")
    return tmp_path


def test_every_group_around_the_process_counts(groups: Path) -> None:
    assert memory_limits(groups, groups / "own") == [MemoryLimit(3000, 2350), MemoryLimit(1000, 350)]
    assert memory_limits(groups, groups / "none") == []


def test_what_is_chosen_and_what_is_checked_see_the_same_limits(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of an outer group, as of a container in a slice, used to count for the one and not for the other."""
    assert available_bytes() > 1000
    found = memory_limits(groups, groups / "own")
    monkeypatch.setattr(memory, "memory_limits", lambda: found)
    assert available_bytes() == 350
    assert machine_of(torch.device("cpu")).memory == 1000
