"""The processes of one job watch each other: they learn which one is gone, and which one failed and why."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

from torch.distributed.distributed_c10d import Store

# In seconds. BEAT: between two heartbeats. UNHEARD: silence after which a process is gone if a connection broke.
# SILENT: the same if none broke, as when a host loses power. Heartbeats come from a thread, also while a process
# computes.
BEAT = 0.5
UNHEARD = 3.0
SILENT = 60.0
# How long a process waits for all others to start.
START = timedelta(minutes=10)
# Seconds for the main thread to clean up, before a process that waits for a lost one is ended.
GRACE = 10.0

_FAILURE = "failure"


class Heartbeat:
    """The heartbeat of rank `rank` of `world`, and what it knows of the other ranks, through the job's store."""

    def __init__(self, store: Store, rank: int, world: int) -> None:
        self._store, self._rank = store, rank
        self._others = [other for other in range(world) if other != rank]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._count = 0

    def start(self) -> str | None:
        """Wait for all others, then watch them. Return why the job cannot start, or None."""
        self._store.set(_host(self._rank), socket.gethostname())
        self._beat()
        deadline = time.monotonic() + START.total_seconds()
        missing = self._others
        while missing := [other for other in missing if not self._store.check([_beat(other)])]:
            if time.monotonic() > deadline:
                return f"{_ranks(missing)} did not start within {START.total_seconds() / 60:.0f} minutes"
            if (failure := self._failure()) is not None:
                return failure
            time.sleep(BEAT / 5)
        self._thread.start()
        return None

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def report(self, failure: str) -> None:
        """Tell the others why this process fails, unless another failed before it."""
        self._store.compare_set(_FAILURE, "", f"rank {self._rank} failed: {failure}")

    def lost(self) -> str | None:
        """Return which rank failed or no longer answers, in words; None where all answer. Takes up to 3 s."""
        try:
            before, deadline = self._beats(), time.monotonic() + UNHEARD
            while time.monotonic() < deadline:
                if (failure := self._failure()) is not None:
                    return failure
                time.sleep(BEAT / 5)
            after = self._beats()
        except RuntimeError:
            return _NO_STORE
        return self._unheard([other for other in self._others if before[other] == after[other]])

    def _failure(self) -> str | None:
        return self._store.get(_FAILURE).decode() if self._store.check([_FAILURE]) else None

    def _unheard(self, ranks: Sequence[int]) -> str | None:
        if not ranks:
            return None
        hosts = sorted({self._store.get(_host(other)).decode() for other in ranks})
        return f"{_ranks(ranks)} on {', '.join(hosts)} no longer answer{'s' if len(ranks) == 1 else ''}; {_AGAIN}"

    def _beat(self) -> None:
        self._count += 1
        self._store.set(_beat(self._rank), str(self._count))

    def _beats(self) -> dict[int, bytes]:
        return {other: self._store.get(_beat(other)) for other in self._others}

    def _run(self) -> None:
        heard: dict[int, bytes] = {}
        at = dict.fromkeys(self._others, time.monotonic())
        while not self._stopped.wait(BEAT):
            try:
                self._beat()
                now, beats = time.monotonic(), self._beats()
                at |= {other: now for other in self._others if beats[other] != heard.get(other)}
                heard = beats
                gone = self._unheard([other for other in self._others if now - at[other] > SILENT])
            except RuntimeError:
                gone = _NO_STORE
            if gone is not None:
                self._end(gone)

    def _end(self, reason: str) -> None:
        """End this process: it may hang in the connection to a lost one, where no exception reaches it."""
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._stopped.wait(GRACE):
            print(f"error: {reason}", file=sys.stderr, flush=True)
            os._exit(1)


_AGAIN = "start the job again with the same command"
_NO_STORE = f"the process of torchrun at which the others meet, on the first host, no longer answers; {_AGAIN}"


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _beat(rank: int) -> str:
    return f"beat/{rank}"


def _host(rank: int) -> str:
    return f"host/{rank}"
