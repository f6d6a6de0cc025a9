"""A compression in a process of its own, forked from one that has imported everything, to be killed at any instant."""

from __future__ import annotations

import signal
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["killed_runs", "tilepress.compress"])


def compress_and_kill(source: Path, out: Path, *, tp: int, after: float) -> bool:
    """Compress, and send SIGKILL so many seconds after the beginning. Whether it was still running."""
    ready, begins = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_compress, args=(source, out, tp, begins))
    process.start()
    begins.close()
    ready.recv_bytes()
    process.join(after)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def _compress(source: Path, out: Path, tp: int, begins: Connection) -> None:
    from tilepress.compress import compress_directory, job

    job.BATCH = 0  # each module counts as soon as it is written
    begins.send_bytes(b"begins")
    compress_directory(source, out, tp=tp, threads=1)
