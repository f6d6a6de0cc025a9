"""The journal of one part: a JSON line for each finished module, written when its tensors are on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from tilepress.checkpoint.safetensors.writer import Written, write_whole
from tilepress.errors import CheckpointError
from tilepress.jobs.fingerprint import differences
from tilepress.jobs.lock import locked

T = TypeVar("T")


@dataclass(frozen=True)
class Finished:
    """A module whose tensors are in the part's files, with the type of each.

    tiles, encoded: number of tiles of its weight, and how many of them the source did not hold ready.
    """

    module: str
    tensors: tuple[Written, ...]
    types: tuple[str, ...]
    tiles: int
    encoded: int

    def typed(self) -> list[tuple[Written, str]]:
        """Each tensor with its type."""
        return list(zip(self.tensors, self.types, strict=True))

    def as_line(self) -> bytes:
        return json.dumps([self.module, self.tensors, self.types, self.tiles, self.encoded]).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Finished:
        """Raises ValueError or TypeError for a line that is cut off."""
        module, tensors, types, tiles, encoded = json.loads(line)
        written = tuple(Written(name, dtype, tuple(shape)) for name, dtype, shape in tensors)
        return cls(module, written, tuple(types), tiles, encoded)


class OtherJobError(CheckpointError):
    """An unfinished run has begun with another source, other options or another version."""


class Journal:
    """The journal of a part in `file`, open for reading and writing; see `open_journal`.

    finished: all finished modules, those of earlier runs included.
    """

    def __init__(self, file: FileIO, job: Mapping[str, Any]) -> None:
        self._file = file
        self._pending: list[bytes] = []
        self.finished: list[Finished] = []
        lines = file.read().splitlines(keepends=True)
        begun = _parsed(lines[0], json.loads) if lines else None
        if begun is None:  # new, or cut off before anything was done
            self._end, self._pending = 0, [json.dumps(job).encode() + b"\n"]
            self.commit()
            return
        if begun != job:
            raise OtherJobError(
                f"{Path(file.name).parent}: an unfinished run had another source or other options: "
                f"{', '.join(differences(begun, job))}; give the command as it was then, or --restart to start over"
            )
        self._end = len(lines[0])
        for line in lines[1:]:
            finished = _parsed(line, Finished.from_line)
            if finished is None:
                break
            self.finished.append(finished)
            self._end += len(line)

    def add(self, finished: Finished) -> None:
        """Add a finished module, which is on disk when `commit` returns."""
        self._pending.append(finished.as_line())
        self.finished.append(finished)

    def commit(self) -> None:
        """Write the added modules. Their tensors have to be on disk. May be called again after a failure."""
        self._file.seek(self._end)
        self._file.truncate()
        write_whole(self._file, memoryview(b"".join(self._pending)))
        os.fsync(self._file.fileno())
        self._end, self._pending = self._file.tell(), []


@contextmanager
def open_journal(file: Path, job: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal in `file`, which is locked meanwhile.

    job: the fingerprint. Raises OtherJobError where the journal was begun with another one, CheckpointError where
    another process has it open.
    """
    with locked(file), file.open("r+b", buffering=0) as opened:
        yield Journal(opened, job)


def _parsed(line: bytes, parse: Callable[[bytes], T]) -> T | None:
    """Return the parsed line; None where it was cut off, as by a power failure."""
    try:
        return parse(line) if line.endswith(b"\n") else None
    except (ValueError, TypeError):
        return None
