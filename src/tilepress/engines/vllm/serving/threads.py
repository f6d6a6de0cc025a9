"""Which processor cores each rank computes on, in the form of vLLM's VLLM_CPU_OMP_THREADS_BIND."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

NOBIND = "nobind"
_MANY = 4


def binding(cores: list[int], tp: int) -> str:
    """Consecutive `cores` for each of `tp` ranks, "0,1|2,3"; "nobind" where there are fewer cores than ranks.

    vLLM's own "auto" wants a memory node for each rank. As it does, a rank that has four cores or more leaves one to
    server and scheduler, which run between its steps.
    """
    each = len(cores) // tp
    if each == 0:
        return NOBIND
    used = each - 1 if each >= _MANY else each
    ranks = (cores[rank * each : rank * each + used] for rank in range(tp))
    return "|".join(",".join(map(str, rank)) for rank in ranks)


def physical_cores(root: Path = Path("/sys/devices/system/cpu"), allowed: Collection[int] | None = None) -> list[int]:
    """One of the processors of each core that this process may run on, by socket and core."""
    if allowed is None:
        affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
        allowed = affinity(0) if affinity else range(os.cpu_count() or 1)
    first: dict[tuple[int, int], int] = {}
    for cpu in sorted(allowed):
        try:
            place = [
                int((root / f"cpu{cpu}/topology/{name}").read_text()) for name in ("physical_package_id", "core_id")
            ]
        except (OSError, ValueError):
            place = [0, cpu]
        first.setdefault((place[0], place[1]), cpu)
    return [first[place] for place in sorted(first)]
