"""The compress job under torchrun: each process makes the part of its rank."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch.distributed as dist

from tilepress.checkpoint.w8a8s import W8A8SCheckpoint
from tilepress.codec import core_count
from tilepress.compress.directory import Steps, open_w8a8s, write_common_files
from tilepress.compress.fingerprint import fingerprint
from tilepress.compress.part_writer import write_part
from tilepress.compress.work_directory import WorkDirectory, work_directory
from tilepress.errors import CheckpointError

T = TypeVar("T")


def launched_by_torchrun() -> bool:
    """Whether this process is one of torchrun's."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def compress_under_torchrun(
    source: str | Path,
    out: Path,
    *,
    threads: int | None = None,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compress into as many parts as torchrun started processes; rank 0 puts the directory in place.

    threads: of the encoder in each process; a fair share of the cores if None. progress: called on rank 0 only, with
    the linears of its part. Where any rank fails, all raise CheckpointError. What each has finished is kept, and is
    continued or forgotten as by `compress_directory`; `source` and `out` are the same for all ranks.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    threads = threads or max(1, core_count() // int(os.environ.get("LOCAL_WORLD_SIZE", world)))
    with _exit_on_termination(), _process_group():
        checkpoint = _together(lambda: open_w8a8s(source, out, world))
        with _shared_work(out, rank, restart) as work:
            step = Steps(len(checkpoint.fused_groups()), progress if rank == 0 else None)
            share = checkpoint.rank(rank, world, threads=threads)
            extra = checkpoint.description.extra
            _together(lambda: write_part(share, work, fingerprint(checkpoint, world), description=extra, step=step))
            _together(lambda: _finish(checkpoint, work, out) if rank == 0 else None)


def _finish(checkpoint: W8A8SCheckpoint, work: WorkDirectory, out: Path) -> None:
    write_common_files(checkpoint, work.directory)
    work.publish(out)


@contextmanager
def _shared_work(out: Path, rank: int, restart: bool) -> Iterator[WorkDirectory]:
    """The work directory, which rank 0 makes and holds for all."""
    with ExitStack() as stack:
        made = _together(lambda: stack.enter_context(work_directory(out, restart=restart)) if rank == 0 else None)
        shared: list[Path | None] = [made.path if made is not None else None]
        dist.broadcast_object_list(shared, src=0)
        path = shared[0]
        assert path is not None
        yield WorkDirectory(path)


def _together(work: Callable[[], T]) -> T:
    """Do `work` on every rank; where it fails on any, raise on all of them."""
    result: list[T] = []
    failure: str | None = None
    cause: Exception | None = None
    try:
        result.append(work())
    except Exception as error:
        failure, cause = str(error) or type(error).__name__, error
    failures: list[str | None] = [None] * dist.get_world_size()
    try:
        dist.all_gather_object(failures, failure)
    except RuntimeError as error:
        raise CheckpointError(
            "another process of the job died; see its output, and give the same command again to go on"
        ) from error
    if cause is not None:
        raise cause
    for rank, other in enumerate(failures):
        if other is not None:
            raise CheckpointError(f"rank {rank}: {other}")
    return result[0]


@contextmanager
def _process_group() -> Iterator[None]:
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _exit_on_termination() -> Iterator[None]:
    """torchrun sends SIGTERM to the others when one process dies: leave as by an exception, so that they clean up."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
