"""The processes of one job: how they are connected and how they end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from tilepress.distributed.heartbeat import Heartbeat
from tilepress.errors import JobError

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
# A process may wait as long as the others compute; `Heartbeat` notices when one is gone.
TIMEOUT = timedelta(days=7)


def launched_by_torchrun() -> bool:
    """Return True if torchrun started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@dataclass(frozen=True)
class ProcessGroup:
    """rank, world: number of this process, and of processes; local_rank, local_world: the same on this host."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    watch: Heartbeat

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """Context for what all processes do at once: raises JobError where one is gone, and says which."""
        try:
            yield
        except RuntimeError as error:
            # torchrun ends the others as soon as it sees one die; before that they find out which one.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if (lost := self.watch.lost()) is None:
                raise
            raise JobError(lost) from error


@contextmanager
def process_group(device: str = "cpu") -> Iterator[ProcessGroup]:
    """Connect this process with the others that torchrun started. device: "cpu" for gloo, "cuda" for gloo and nccl.

    Raises JobError where one of them does not start. An exception in the block is reported to the others. A process
    that torchrun ends with SIGTERM, because another one died, leaves by SystemExit, whose text says which.
    """
    store, rank, world = next(rendezvous("env://"))
    watch = Heartbeat(PrefixStore("tilepress", store), rank, world)
    with _end_on_termination(watch):
        try:
            if (missing := watch.start()) is not None:
                raise JobError(missing)
            dist.init_process_group(BACKENDS[device], store=store, rank=rank, world_size=world, timeout=TIMEOUT)
            local = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", world))
            yield ProcessGroup(rank, world, *local, watch)
            # Not after an exception: it would wait for those that are gone.
            dist.destroy_process_group()
        except JobError:
            raise
        except Exception as error:
            watch.report(str(error) or type(error).__name__)
            raise
        finally:
            watch.stop()


@contextmanager
def _end_on_termination(watch: Heartbeat) -> Iterator[None]:
    """SIGTERM becomes an exception, so that this process cleans up."""

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(watch.lost() or "ended from outside (SIGTERM)")

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
