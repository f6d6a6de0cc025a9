"""Locks that let one process at a time make a directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from tilepress.errors import CheckpointError


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock on `file`, which is made if it is missing. The lock ends with the process at the latest.

    Raises CheckpointError where another process holds it, or where the file system has no locks.
    """
    descriptor = _lock(file)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(file: Path) -> int:
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _unlockable(file, error) from None
        try:
            taken = lock_descriptor(descriptor, blocking=False)
        except OSError as error:
            os.close(descriptor)
            raise _unlockable(file, error) from None
        # filelock's FileLock leaves its file for ever. Ours is removed with its directory, so the name is checked
        # again.
        if taken and _is_still(file, descriptor):
            return descriptor
        os.close(descriptor)
        if not taken:
            raise CheckpointError(f"{file.parent}: another process writes there now; wait for it, or end it first")


def _unlockable(file: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{file}: cannot be locked ({error.strerror}); choose another output directory")


def _is_still(file: Path, descriptor: int) -> bool:
    """Return True if the locked file still has this name: the process that held it before may have removed it."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
