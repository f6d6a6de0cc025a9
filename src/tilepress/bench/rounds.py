"""Timing several contenders in turn, so that other load on the machine strikes all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch

SLICE_SECONDS = 0.15


@dataclass(frozen=True)
class Contender:
    """One product to time. calls: the product on different copies of the weights, in turn so that none is cached.

    nbytes: bytes of weights that one call reads.
    """

    name: str
    calls: Sequence[Callable[[], object]]
    nbytes: int


def measure_in_turn(
    contenders: Sequence[Contender], *, repeats: int, slice_seconds: float = SLICE_SECONDS
) -> dict[str, float]:
    """Return name -> seconds of one call, the median of `repeats` rounds.

    In every round each contender runs for about slice_seconds, and at least one call.
    """
    rings = {contender.name: _Ring(contender, slice_seconds) for contender in contenders}
    times: dict[str, list[float]] = {name: [] for name in rings}
    with torch.inference_mode():
        for ring in rings.values():
            ring.settle()
        for _ in range(repeats):
            for name, ring in rings.items():
                times[name].append(ring.seconds_a_call())
    return {name: statistics.median(seconds) for name, seconds in times.items()}


class _Ring:
    """A contender and where in its weights the next round begins."""

    def __init__(self, contender: Contender, slice_seconds: float) -> None:
        self._calls: Iterator[Callable[[], object]] = cycle(contender.calls)
        self._slice_seconds = slice_seconds
        self._count = 1

    def settle(self) -> None:
        """Call once for what only a first call does, then again to find out how many calls fill a round."""
        self.seconds_a_call()
        self._count = max(1, round(self._slice_seconds / self.seconds_a_call()))

    def seconds_a_call(self) -> float:
        if self._count > 2:
            time.sleep(0.01)  # OpenMP's threads go on spinning for some milliseconds after the contender before
            next(self._calls)()  # wakes this one's threads
        start = time.perf_counter()
        for _ in range(self._count):
            next(self._calls)()
        return (time.perf_counter() - start) / self._count
