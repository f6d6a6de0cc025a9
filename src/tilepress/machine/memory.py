"""How much memory this machine has to give."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from tilepress.codec import core_count


def available_bytes() -> int:
    """Memory that new processes can have: what Linux says, and no more than the control groups of this one allow."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([free, *_left_in_groups()])


def _left_in_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes left under each limit of the control groups (version 2) around this process; cached files can go."""
    left = []
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
        left.append(max(limit - used + int(counts.get("inactive_file", 0)), 0))
    return left


# Of the memory, that hidden states may take.
MEMORY_SHARE = 0.25

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Machine:
    """memory: bytes in all, not those free just now: a choice made from them is the same at each run.

    cores: that this process may use, None where a device computes.
    """

    memory: int
    cores: int | None


def machine_of(device: torch.device) -> Machine:
    """The memory is the smaller one of host and device, and of what a container (cgroup v2) may take."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if CGROUP_LIMIT.is_file() and (limit := CGROUP_LIMIT.read_text(encoding="ascii").strip()).isdecimal():
        memory = min(memory, int(limit))
    if device.type == "cpu":
        return Machine(memory, core_count())
    _, of_device = getattr(torch, device.type).mem_get_info(device)
    return Machine(min(memory, int(of_device)), None)
