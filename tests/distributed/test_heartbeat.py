"""Processes of one job that watch each other, here as two watches on one store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from tilepress.distributed import heartbeat
from tilepress.distributed.heartbeat import Heartbeat


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Heartbeat, Heartbeat]]:
    """Communicator 0 and 1, both started; signs of life come twenty times as fast."""
    monkeypatch.setattr(heartbeat, "BEAT", 0.02)
    monkeypatch.setattr(heartbeat, "UNHEARD", 0.3)
    store = HashStore()
    first, second = (Heartbeat(store, rank, 2) for rank in range(2))
    store.set("host/1", "here")
    store.set("beat/1", "0")
    assert first.start() is None
    assert second.start() is None
    yield first, second
    first.stop()
    second.stop()


def test_nobody_is_lost_while_all_give_signs(pair: tuple[Heartbeat, Heartbeat]) -> None:
    assert pair[0].lost() is None
    assert pair[1].lost() is None


def test_a_rank_without_signs_is_named_with_its_host(
    pair: tuple[Heartbeat, Heartbeat], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair[1].stop()
    lost = pair[0].lost()
    assert lost is not None
    assert lost.startswith("rank 1 on ")
    assert "no longer answers" in lost


def test_the_first_failure_is_what_all_hear(pair: tuple[Heartbeat, Heartbeat]) -> None:
    pair[1].report("disk full")
    pair[0].report("the connection broke")
    assert pair[0].lost() == "rank 1 failed: disk full"


def test_who_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "START", timedelta(seconds=0.2))
    assert Heartbeat(HashStore(), 0, 3).start() == "ranks 1, 2 did not start within 0 minutes"


def test_a_process_that_hangs_ends_when_another_falls_silent() -> None:
    """As in a collective with a rank whose host lost its power: no exception ever comes."""
    script = (
        "import signal, threading\n"
        "from torch.distributed import HashStore\n"
        "from tilepress.distributed import heartbeat as watch\n"
        "watch.BEAT, watch.SILENT, watch.GRACE = 0.02, 0.3, 0.2\n"
        "store = HashStore()\n"
        "store.set('host/1', 'far')\n"
        "store.set('beat/1', '0')\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "watch.Heartbeat(store, 0, 2).start()\n"
        "threading.Event().wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "error: rank 1 on far no longer answers" in done.stderr
