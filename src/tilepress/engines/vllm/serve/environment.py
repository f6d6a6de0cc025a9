"""Environment variables for vLLM's processes, on the CPU above all. What the user has set stays."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from tilepress.engines.vllm.serve.unchanged import VARIABLE as DIGEST

_OPENMP = "libiomp5.so"


def environment(
    current: Mapping[str, str],
    *,
    binding: str | None,
    openmp: Path | None,
    offline: bool,
    api_key: str | None,
    digest: str,
) -> dict[str, str]:
    """Return the variables to set beside those of `current`.

    binding: cores of the ranks, None where vLLM does not run on the CPU. openmp: Intel's OpenMP library. offline: the
    model is a local directory, and nothing has to be asked of the hub. api_key: goes here, since everyone on the
    machine sees command lines. digest: what `check_unchanged` compares.
    """
    wanted = {"VLLM_NO_USAGE_STATS": "1"}
    if binding is not None:
        # A number of threads that the user has chosen stays.
        wanted["VLLM_CPU_OMP_THREADS_BIND"] = NOBIND if "OMP_NUM_THREADS" in current else binding
    if offline:
        wanted |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    wanted = {name: value for name, value in wanted.items() if name not in current}
    preloaded = current.get("LD_PRELOAD", "")
    if openmp is not None and not any(name in preloaded for name in ("libiomp", "libomp", "libgomp")):
        wanted["LD_PRELOAD"] = f"{openmp}:{preloaded}" if preloaded else str(openmp)
    if api_key is not None:
        wanted["VLLM_API_KEY"] = api_key
    return wanted | {DIGEST: digest}


def find_openmp() -> Path | None:
    """Return Intel's OpenMP library where the package intel-openmp is installed, as vLLM for the CPU has it on x86."""
    try:
        files = distribution("intel-openmp").files or []
    except PackageNotFoundError:
        return None
    found = [Path(str(file.locate())).resolve() for file in files if file.name == _OPENMP]
    return next((file for file in found if file.is_file()), None)


NOBIND = "nobind"
_MANY = 4


def binding(cores: list[int], tp: int) -> str:
    """Return consecutive `cores` for each of `tp` ranks, "0,1|2,3"; "nobind" for fewer cores than ranks.

    vLLM's own "auto" wants a memory node for each rank. As with "auto", a rank of four cores or more leaves one to
    server and scheduler, which run between its steps.
    """
    each = len(cores) // tp
    if each == 0:
        return NOBIND
    used = each - 1 if each >= _MANY else each
    ranks = (cores[rank * each : rank * each + used] for rank in range(tp))
    return "|".join(",".join(map(str, rank)) for rank in ranks)


def physical_cores(root: Path = Path("/sys/devices/system/cpu"), allowed: Collection[int] | None = None) -> list[int]:
    """Return one processor of each core that this process may run on, by socket and core."""
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
