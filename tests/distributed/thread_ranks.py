"""Communicator as threads of one process: what several processes compute, without starting them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from tilepress.distributed.communicator import Communicator, share

T = TypeVar("T")


class ThreadRanks(Communicator):
    """Exchanges values through `values`, of all ranks, between two waits at `barrier`."""

    def __init__(self, rank: int, values: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.world = rank, len(values)
        self._values, self._barrier = values, barrier

    def _of_all(self, value: T) -> list[T]:
        self._values[self.rank] = value
        self._barrier.wait()
        every = list(self._values)
        self._barrier.wait()
        return every

    def others(self, count: int) -> tuple[int, int]:
        counts = self._of_all(count)
        return sum(counts[: self.rank]), sum(counts[self.rank + 1 :])

    def add_up(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(cast(Tensor, sum(self._of_all(tensor.clone()))))

    def least(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self._of_all(tensor.clone())).amin(dim=0))

    def greatest(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self._of_all(tensor.clone())).amax(dim=0))

    def concatenated(self, rows: Tensor) -> Tensor:
        return torch.cat(self._of_all(rows.clone()))

    def agreed(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(self._of_all(tensor.clone())[0])

    def filled(self, rows: Tensor, unit: int) -> Tensor:
        for rank, theirs in enumerate(self._of_all(rows.clone())):
            part = share(rank, self.world, len(rows), unit)
            rows[part] = theirs[part]
        return rows

    def all(self, holds: bool) -> bool:
        return all(self._of_all(holds))

    def first(self, work: Callable[[], T]) -> T:
        return cast(T, self._of_all(work() if self.rank == 0 else None)[0])


def on_ranks(world: int, work: Callable[[Communicator], T]) -> list[T]:
    """What `work` gives on each of `world` ranks; the exception of the first one that raises."""
    barrier = threading.Barrier(world, timeout=60)
    values: list[Any] = [None] * world

    def one(rank: int) -> T:
        try:
            return work(ThreadRanks(rank, values, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(world) as pool:
        futures = [pool.submit(one, rank) for rank in range(world)]
    failures = [error for future in futures if (error := future.exception()) is not None]
    for error in failures:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    return [future.result() for future in futures]
