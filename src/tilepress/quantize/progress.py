"""How far the work is and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """`done` of `total`: visits to a layer, three to each, then steps of distillation. seconds_left: estimate."""

    done: int
    total: int
    seconds_left: float


class Clock:
    """Tells the callback after each visit; what an earlier process did counts, at its own time."""

    def __init__(self, total: int, progress: Callable[[Progress], None] | None) -> None:
        self._total, self._progress = total, progress
        self._started, self._done = time.monotonic(), 0
        self._earlier = 0.0

    def seconds(self) -> float:
        """Of all processes that worked on it, until their last finished stage."""
        return self._earlier + time.monotonic() - self._started

    def tick(self) -> None:
        self._done += 1
        self._tell()

    def restored(self, visits: int, seconds: float) -> None:
        """So many visits were made before, and `seconds` had gone by in all after them."""
        self._done += visits
        self._earlier = max(self._earlier, seconds)
        if visits:
            self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            left = self.seconds() / self._done * (self._total - self._done)
            self._progress(Progress(self._done, self._total, left))
