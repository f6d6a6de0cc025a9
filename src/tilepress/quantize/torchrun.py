"""Quantization by the processes that torchrun started, on one host or several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from tilepress.checkpoint import FloatCheckpoint
from tilepress.codec import core_count
from tilepress.errors import UsageError
from tilepress.group import BACKENDS, Group, group
from tilepress.quantize.clock import Progress
from tilepress.quantize.pipeline import quantize_checkpoint
from tilepress.quantize.ranks import GroupRanks
from tilepress.quantize.recipe import Recipe
from tilepress.quantize.report import QuantizationReport


def quantize_under_torchrun(
    source: FloatCheckpoint,
    out: Path,
    recipe: Recipe,
    *,
    calibration: Path | None = None,
    device: str = "cpu",
    max_memory: int | None = None,
    restart: bool = False,
    before_work: Callable[[], None] | None = None,
    rehearsal: Callable[[], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> QuantizationReport:
    """`quantize_checkpoint` on all processes, which read `source` each; the first reads the text and writes `out`.

    device: "cpu", where each process takes a fair share of its host's cores, or "cuda", a GPU a process. progress:
    called on rank 0 only. Raises what `quantize_checkpoint` does, UsageError for another device, and JobError where
    another process fails or is gone.
    """
    if device not in BACKENDS:
        raise UsageError(f"--device {device}: under torchrun choose cpu or cuda, and each process takes its own GPU")
    with group(device) as this:
        return quantize_checkpoint(
            source,
            out,
            recipe,
            calibration=calibration,
            device=_own_device(device, this),
            max_memory=max_memory,
            restart=restart,
            before_work=before_work,
            rehearsal=rehearsal,
            progress=progress if this.rank == 0 else None,
            ranks=GroupRanks(this),
        )


def _own_device(device: str, this: Group) -> str:
    if device == "cpu":
        # torchrun asks for one thread of each process where nobody set OMP_NUM_THREADS.
        torch.set_num_threads(max(1, core_count() // this.local_world))
        return device
    if this.local_rank >= torch.cuda.device_count():
        raise UsageError(
            f"{this.local_world} processes on this host, which has {torch.cuda.device_count()} GPUs; "
            "start one a GPU with --nproc_per_node"
        )
    torch.cuda.set_device(this.local_rank)
    return f"cuda:{this.local_rank}"
