"""The processes that quantize one model together: the share of each, and how shares are put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from tilepress.distributed import ProcessGroup

T = TypeVar("T")


def share(rank: int, world: int, count: int, unit: int) -> slice:
    """Return the slice of `count` items for `rank` of `world`: whole units, except at the end; may be empty."""
    units = -(-count // unit)
    start, stop = (units * before // world * unit for before in (rank, rank + 1))
    return slice(min(start, count), min(stop, count))


class Communicator:
    """The communicator of a single process, which holds everything. `GroupCommunicator` is that of one of several.

    All ranks call the same methods in the same order. Tensors may be on the CPU or on the device of the rank.
    """

    rank = 0
    world = 1
    # Processes on this host, which share its memory.
    local_world = 1

    @property
    def writes(self) -> bool:
        """True on the first rank, which has the results and writes them."""
        return self.rank == 0

    def share(self, count: int, unit: int = 1) -> slice:
        """Return this rank's slice of `count` items: whole units, except at the end; may be empty."""
        return share(self.rank, self.world, count, unit)

    def others(self, count: int) -> tuple[int, int]:
        """Return how many items the ranks before this one have, and those after it. count: this rank's items."""
        return 0, 0

    def add_up(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place."""
        return tensor

    def least(self, tensor: Tensor) -> Tensor:
        """Take the least of the ranks, element by element, in place."""
        return tensor

    def greatest(self, tensor: Tensor) -> Tensor:
        """Take the greatest of the ranks, element by element, in place."""
        return tensor

    def concatenated(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks, in rank order, [n_0 + n_1 + ..., ...]. rows: [n_rank, ...]."""
        return rows

    def agreed(self, tensor: Tensor) -> Tensor:
        """Replace the values by the first rank's, in place: other hardware may have computed other values."""
        return tensor

    def filled(self, rows: Tensor, unit: int) -> Tensor:
        """Complete rows [n, ...], in which each rank has filled in its share, on all ranks, in place."""
        return rows

    def all(self, holds: bool) -> bool:
        """Return True if `holds` is true on all ranks. The ranks wait for each other here."""
        return holds

    def first(self, work: Callable[[], T]) -> T:
        """Call `work` on the first rank alone, and return its result on all: plain values or CPU tensors."""
        return work()


ALONE = Communicator()


class GroupCommunicator(Communicator):
    """The communicator of one process of a group. Its methods raise JobError where another process is gone."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group
        self.rank, self.world, self.local_world = group.rank, group.world, group.local_world

    def others(self, count: int) -> tuple[int, int]:
        counts = self._counts(count)
        return sum(counts[: self.rank]), sum(counts[self.rank + 1 :])

    def add_up(self, tensor: Tensor) -> Tensor:
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def least(self, tensor: Tensor) -> Tensor:
        return self._reduced(tensor, dist.ReduceOp.MIN)

    def greatest(self, tensor: Tensor) -> Tensor:
        return self._reduced(tensor, dist.ReduceOp.MAX)

    def concatenated(self, rows: Tensor) -> Tensor:
        counts = self._counts(len(rows))
        every = rows.new_empty(sum(counts), *rows.shape[1:])
        for rank, part in enumerate(torch.split(every, counts)):
            if len(part) == 0:
                continue
            if rank == self.rank:
                part.copy_(rows)
            with self._group.exchange():
                dist.broadcast(part, rank)
        return every

    def agreed(self, tensor: Tensor) -> Tensor:
        with self._group.exchange():
            dist.broadcast(tensor, 0)
        return tensor

    def filled(self, rows: Tensor, unit: int) -> Tensor:
        for rank in range(self.world):
            part = rows[share(rank, self.world, len(rows), unit)]
            if len(part) > 0:
                with self._group.exchange():
                    dist.broadcast(part, rank)
        return rows

    def all(self, holds: bool) -> bool:
        return bool(self.least(torch.tensor(int(holds))))

    def first(self, work: Callable[[], T]) -> T:
        shared = [work() if self.rank == 0 else None]
        with self._group.exchange():
            dist.broadcast_object_list(shared, 0, device=torch.device("cpu"))
        return cast(T, shared[0])

    def _counts(self, count: int) -> list[int]:
        counts = torch.zeros(self.world, dtype=torch.int64)
        counts[self.rank] = count
        return cast(list[int], self.add_up(counts).tolist())

    def _reduced(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        with self._group.exchange():
            dist.all_reduce(tensor, operation)
        return tensor
