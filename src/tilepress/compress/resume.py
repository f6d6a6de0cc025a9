"""The work directory: a hidden directory of a fixed name beside the result, which is made in it part by part.

It survives a run that fails or is killed at any moment, and the same command continues in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import tilepress
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint
from tilepress.checkpoint.w8a8sc import W8A8SCCheckpoint
from tilepress.compress.journal import Journal, OtherJobError, open_journal
from tilepress.errors import CheckpointError, TilepressError
from tilepress.jobs.atomic_directory import discard, kept_in, publish, refuse_existing, sync
from tilepress.jobs.fingerprint import describe_file
from tilepress.jobs.lock import locked


class WorkDirectory:
    """path: the hidden directory; directory: in it, what becomes the result."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = path / "directory"

    def journal(self, rank: int, job: Mapping[str, Any]) -> AbstractContextManager[Journal]:
        """Open the journal of a rank's part: see `open_journal`."""
        return open_journal(self.path / f"part{rank}.journal", job)

    def waiting(self, rank: int) -> Path:
        """Return the file in which a part's small tensors wait."""
        return self.path / f"part{rank}.waiting"

    def make_part(self, name: str) -> Path:
        """Make and return the directory of a part. Its name is on disk when this returns."""
        part = self.directory / name
        part.mkdir(parents=True, exist_ok=True)
        for folder in (self.directory, self.path, self.path.parent):
            sync(folder)
        return part

    def clear(self) -> None:
        """Remove whatever earlier runs have left."""
        shutil.rmtree(self.directory, ignore_errors=True)
        for file in self.path.glob("part*"):
            file.unlink()

    def has_progress(self) -> bool:
        """Return True if any module is finished and the directory has not been put in place yet."""
        return self.directory.is_dir() and any(
            file.read_bytes().count(b"\n") > 1 for file in self.path.glob("part*.journal")
        )

    def publish(self, out: Path) -> None:
        """Put the directory in place: see `atomic_directory.publish`."""
        publish(self.directory, out)


@contextmanager
def work_directory(out: Path, *, restart: bool) -> Iterator[WorkDirectory]:
    """Hold the work directory of `out`, which no other process has meanwhile. The block ends with its `publish`.

    restart: drop what earlier runs have done. Where the block raises, finished modules are kept, and the error says so;
    if none is finished, nothing is left. Raises CheckpointError where `out` exists or another process makes it.
    """
    refuse_existing(out)
    path = _make(out)
    with locked(path / "lock"):
        refuse_existing(out)
        work = WorkDirectory(path)
        if restart or not work.has_progress():
            work.clear()
        try:
            yield work
        except BaseException as error:
            if not work.has_progress():
                discard(path)
            elif isinstance(error, TilepressError) and not isinstance(error, OtherJobError):
                error.args = (f"{error}; {kept_in(path)}",)
            raise
        discard(path)


def clear_published(out: Path) -> None:
    """Remove what is left of a run that was killed after it had put `out` in place and before it cleaned up."""
    work = WorkDirectory(_path(out))
    if out.exists() and not work.directory.exists():
        discard(work.path)


def kept_progress(out: Path) -> str | None:
    """Return a sentence for the user where an unfinished run of `out` has left something, else None."""
    work = WorkDirectory(_path(out))
    return kept_in(work.path) if work.has_progress() else None


def written_bytes(out: Path) -> int:
    """Return the bytes of the weights of `out` that an unfinished run has written."""
    return sum(file.stat().st_size for file in WorkDirectory(_path(out)).directory.glob("part*/*"))


def _path(out: Path) -> Path:
    return out.absolute().parent / f".{out.name}.partial"


def _make(out: Path) -> Path:
    path = _path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be made ({error.strerror}); choose another directory") from None
    # In a folder that others may write to, someone else may have made it to choose what becomes the result.
    if path.is_symlink() or path.stat().st_uid != os.geteuid():
        raise CheckpointError(f"{path}: is not of this user; remove it or choose another output directory")
    return path


def fingerprint(source: W8A8SCheckpoint | W8A8SCCheckpoint, tp: int, coding: str) -> dict[str, Any]:
    """Return, for JSON, the version of tilepress, number of parts, coding, and `describe_file` of each file by name.

    The files are weights, descriptions, config and auxiliary files of `source`; others do not count.
    """
    files = {*source.files(), *source.auxiliary_files()}
    for folder in {source.path, *(file.parent for file in source.files())}:
        files |= set(folder.glob("*.json"))
    described = {str(file.relative_to(source.path)): describe_file(file) for file in sorted(files)}
    return {"tilepress": tilepress.__version__, "tp": tp, "coding": coding, "source": described}
