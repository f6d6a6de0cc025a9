"""The compress job under torchrun: each process makes the part of its rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from tilepress.checkpoint.description import CODING
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint
from tilepress.codec import TILES, core_count
from tilepress.compress.job import Steps, described, open_w8a8s, write_common_files, write_part
from tilepress.compress.resume import WorkDirectory, fingerprint, work_directory
from tilepress.distributed import ProcessGroup, process_group
from tilepress.errors import CheckpointError

T = TypeVar("T")


def compress_under_torchrun(
    source: str | Path,
    out: Path,
    *,
    coding: str | None = None,
    threads: int | None = None,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compress into as many parts as torchrun started processes; rank 0 puts the directory in place.

    coding: as of `compress_directory`. threads: threads of the encoder in each process; a fair share of the cores if
    None. progress: called on rank 0 only, with the fused linears of its part. Where a rank fails, all raise
    CheckpointError; where one dies, JobError. What the ranks have finished is kept, and continued or dropped as by
    `compress_directory`. `source` and `out` are the same for all ranks.
    """
    with process_group() as this:
        threads = threads or max(1, core_count() // this.local_world)
        checkpoint = _together(this, lambda: open_w8a8s(source, out, this.world))
        with _shared_work(this, out, restart) as work:
            step = Steps(len(checkpoint.fused_groups()), progress if this.rank == 0 else None)
            share = checkpoint.shard(this.rank, this.world, threads=threads)
            extra = described(checkpoint, coding)
            begun = fingerprint(checkpoint, this.world, extra.get(CODING, TILES))
            _together(this, lambda: write_part(share, work, begun, description=extra, step=step))
            _together(this, lambda: _finish(checkpoint, work, out) if this.rank == 0 else None)


def _finish(checkpoint: W8A8SCheckpoint, work: WorkDirectory, out: Path) -> None:
    write_common_files(checkpoint, work.directory)
    work.publish(out)


@contextmanager
def _shared_work(this: ProcessGroup, out: Path, restart: bool) -> Iterator[WorkDirectory]:
    """Hold the work directory, which rank 0 makes for all."""
    with ExitStack() as stack:
        made = _together(
            this, lambda: stack.enter_context(work_directory(out, restart=restart)) if this.rank == 0 else None
        )
        shared: list[Path | None] = [made.path if made is not None else None]
        with this.exchange():
            dist.broadcast_object_list(shared, src=0)
        path = shared[0]
        assert path is not None
        yield WorkDirectory(path)


def _together(this: ProcessGroup, work: Callable[[], T]) -> T:
    """Do `work` on every rank; where it fails on any, raise on all of them."""
    result: list[T] = []
    failure: str | None = None
    cause: Exception | None = None
    try:
        result.append(work())
    except Exception as error:
        failure, cause = str(error) or type(error).__name__, error
    failures: list[str | None] = [None] * this.world
    with this.exchange():
        dist.all_gather_object(failures, failure)
    if cause is not None:
        raise cause
    for rank, other in enumerate(failures):
        if other is not None:
            raise CheckpointError(f"rank {rank}: {other}")
    return result[0]
