"""Progress of a quantization and an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """done, total: visits, three to each layer and some to head and embedding, then steps of distillation.

    Before them come calibration sequences that the model writes itself. seconds_left: estimate.
    """

    done: int
    total: int
    seconds_left: float


class Clock:
    """Calls the callback after each visit. Visits of an earlier, interrupted process count, with the time they took."""

    def __init__(self, total: int, progress: Callable[[Progress], None] | None) -> None:
        self._total, self._progress = total, progress
        self._started, self._done = time.monotonic(), 0
        self._earlier = 0.0

    def seconds(self) -> float:
        """Return the seconds spent so far; those of earlier processes count up to their last finished stage."""
        return self._earlier + time.monotonic() - self._started

    def tick(self) -> None:
        self._done += 1
        self._tell()

    def restored(self, visits: int, seconds: float) -> None:
        """Count `visits` of an earlier process, after which `seconds` had gone by in all."""
        self._done += visits
        self._earlier = max(self._earlier, seconds)
        if visits:
            self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            left = self.seconds() / self._done * (self._total - self._done)
            self._progress(Progress(self._done, self._total, left))
