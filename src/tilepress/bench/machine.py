"""The machine that a benchmark runs on, and the speed of its memory."""

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
# What makes us and torch, with the oneDNN and the FBGEMM that it calls, keep to an instruction set.
ENVIRONMENTS: dict[str | None, dict[str, str]] = {
    None: {},
    "avx2": {
        "TILEPRESS_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
    },
}


@dataclass(frozen=True)
class Machine:
    """bandwidth: number of threads -> bytes a second that they read from memory."""

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


def describe_machine(threads: Sequence[int], *, nbytes: int = GIGABYTE, repeats: int = 7) -> Machine:
    """Return this machine, with the bandwidth measured for each number of threads."""
    return Machine(
        processor=_processor(),
        cores=codec.core_count(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        instruction_set=_native.isa(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        torch=torch.__version__,
        bandwidth=read_bandwidth(threads, nbytes=nbytes, repeats=repeats),
    )


def read_bandwidth(threads: Sequence[int], *, nbytes: int, repeats: int) -> dict[int, float]:
    """Return threads -> bytes a second, the best of `repeats` times that `nbytes` of memory are read.

    torch allocates the memory, as it does for weights: in small pages, which Zen 4 reads at 25 GB/s, large ones at 29.
    """
    memory = torch.ones(nbytes, dtype=torch.uint8).numpy()
    return {count: nbytes / min(_seconds(memory, count) for _ in range(repeats)) for count in threads}


def _seconds(memory: np.ndarray[Any, np.dtype[np.uint8]], threads: int) -> float:
    start = time.perf_counter()
    _native.read_memory(memory, threads)
    return time.perf_counter() - start


def _processor() -> str:
    """Return the name; on Linux with family and model, since clouds shorten names: "AMD EPYC" alone is every Zen."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.machine()
    return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')})"
