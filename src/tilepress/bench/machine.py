"""What a benchmark ran on, and how fast its memory is."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tilepress import _native, codec

GIGABYTE = 1_000_000_000


@dataclass(frozen=True)
class Machine:
    """bandwidth: threads -> bytes a second read from memory by so many."""

    processor: str
    cores: int
    memory_bytes: int
    instruction_set: str
    system: str
    python: str
    torch: str
    bandwidth: dict[int, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe_machine(threads: Sequence[int], *, nbytes: int = GIGABYTE, passes: int = 7) -> Machine:
    """This machine, with the bandwidth measured for each of the numbers of threads."""
    return Machine(
        processor=_processor(),
        cores=codec.core_count(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        instruction_set=_native.isa(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        torch=torch.__version__,
        bandwidth=read_bandwidth(threads, nbytes=nbytes, passes=passes),
    )


def read_bandwidth(threads: Sequence[int], *, nbytes: int, passes: int) -> dict[int, float]:
    """Threads -> bytes a second, the best of so many passes over `nbytes` of memory.

    The memory is torch's, as that of the weights is: with small pages, 25 GB/s where large ones gave 29 on Zen 4.
    """
    memory = torch.ones(nbytes, dtype=torch.uint8).numpy()
    return {count: nbytes / min(_seconds(memory, count) for _ in range(passes)) for count in threads}


def _seconds(memory: np.ndarray[Any, np.dtype[np.uint8]], threads: int) -> float:
    start = time.perf_counter()
    _native.read_memory(memory, threads)
    return time.perf_counter() - start


def _processor() -> str:
    """The name; on Linux with family and model, as clouds shorten names: "AMD EPYC" alone is every Zen."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.machine()
    return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')})"
