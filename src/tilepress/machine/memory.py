"""The memory of this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from tilepress.codec import core_count

_ROOT, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class MemoryLimit:
    """Limit and remaining bytes of a control group (version 2); droppable file cache counts as remaining."""

    limit: int
    left: int


def memory_limits(root: Path = _ROOT, own: Path = _OWN) -> list[MemoryLimit]:
    """Limits of the control groups around this process, as containers set them, from its own to the outermost."""
    limits = []
    try:
        group = root / own.read_text().rpartition("0::/")[2].split("\n")[0]
    except OSError:
        return []
    for directory in (group, *group.parents):
        if not directory.is_relative_to(root):
            break
        try:
            limit = int((directory / "memory.max").read_text())
            used = int((directory / "memory.current").read_text())
            counts = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        limits.append(MemoryLimit(limit, max(limit - used + int(counts.get("inactive_file", 0)), 0)))
    return limits


def available_bytes() -> int:
    """Bytes that new processes can have: those that Linux reports, and no more than `memory_limits` leave."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([free, *(group.left for group in memory_limits())])


# Share of the memory that hidden states may take.
MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class Machine:
    """memory: total bytes, not free ones, so that choices made from them are the same at each run.

    cores: the number that this process may use; None where another device computes.
    """

    memory: int
    cores: int | None


def machine_of(device: torch.device) -> Machine:
    """Return the Machine of a device. Its memory is the least of host, device and `memory_limits`."""
    memory = min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *(g.limit for g in memory_limits())])
    if device.type == "cpu":
        return Machine(memory, core_count())
    _, of_device = getattr(torch, device.type).mem_get_info(device)
    return Machine(min(memory, int(of_device)), None)
