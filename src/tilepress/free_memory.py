"""How much memory this machine has to give."""

from __future__ import annotations

import os
from pathlib import Path


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
