"""Launch settings that depend on the device. The CPU stands for Triton's interpreter, in tests."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch

# For programs that decode a tile at a time: a warp a strip. With 128 registers a thread two programs fit a
# multiprocessor, and one computes while the other waits for a header.
TILE_WARPS = 8
TILE_REGISTERS = 128
PROGRAMS_A_MULTIPROCESSOR = 2
# The interpreter runs programs one after the other. With two, the second one begins in the middle of a matrix.
INTERPRETED_PROGRAMS = 2
INTERPRETED_SHARED_MEMORY = 96 << 10


def programs(device: torch.device, work: int) -> int:
    """Return how many programs to start: as many as run at once, but not more than the pieces of work."""
    return max(1, min(work, at_once(device, PROGRAMS_A_MULTIPROCESSOR)))


@lru_cache
def at_once(device: torch.device, a_multiprocessor: int) -> int:
    """Return how many programs run at once where so many fit a multiprocessor."""
    if device.type == "cpu":
        return INTERPRETED_PROGRAMS
    return a_multiprocessor * int(torch.cuda.get_device_properties(device).multi_processor_count)


@lru_cache
def shared_memory(device: torch.device) -> int:
    """Return the bytes of shared memory that one program can have."""
    if device.type == "cpu":
        return INTERPRETED_SHARED_MEMORY
    properties: Any = torch.cuda.get_device_properties(device)  # torch's annotations lack this one
    return int(properties.shared_memory_per_block_optin)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which `device` is the current device, on which kernels are started."""
    return nullcontext() if device.type == "cpu" else torch.cuda.device(device)
