"""What a kernel's launch takes from the device. The CPU is Triton's interpreter, for tests."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch

# What has a tile at a time: a warp a strip. With 128 registers a thread two programs fit a multiprocessor, and one
# computes while the other waits for a header.
TILE_WARPS = 8
TILE_REGISTERS = 128
PROGRAMS_A_MULTIPROCESSOR = 2
# It runs programs one after the other. With two, the second one begins in the middle of a matrix.
INTERPRETED_PROGRAMS = 2
INTERPRETED_SHARED_MEMORY = 96 << 10


def programs(device: torch.device, work: int) -> int:
    """How many programs to start for so many pieces of work: what runs at once, and no more than there is to do."""
    return max(1, min(work, _at_once(device)))


@lru_cache
def _at_once(device: torch.device) -> int:
    if device.type == "cpu":
        return INTERPRETED_PROGRAMS
    return PROGRAMS_A_MULTIPROCESSOR * int(torch.cuda.get_device_properties(device).multi_processor_count)


@lru_cache
def shared_memory(device: torch.device) -> int:
    """Bytes that one program can have."""
    if device.type == "cpu":
        return INTERPRETED_SHARED_MEMORY
    properties: Any = torch.cuda.get_device_properties(device)  # torch's annotations lack this one
    return int(properties.shared_memory_per_block_optin)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Kernels are started on the current device; in this context that is `device`."""
    return nullcontext() if device.type == "cpu" else torch.cuda.device(device)
