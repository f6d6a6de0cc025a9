"""What of the machine bounds the calibration: its memory and its cores."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from tilepress.codec import core_count

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
