"""Writing one part of a W8A8SC directory, module after module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tilepress.checkpoint.descriptions import W8A8SC, write_description
from tilepress.checkpoint.embedding import EMBEDDING
from tilepress.checkpoint.rank import Rank
from tilepress.checkpoint.staging import writing
from tilepress.checkpoint.streaming_file import StreamingFile
from tilepress.compress.journal import Finished, Journal
from tilepress.compress.work_directory import WorkDirectory

WEIGHTS = "quant_model_weight_w8a8sc.safetensors"
# So many bytes are written before they are synced to disk and their modules entered in the journal. It is what a killed
# run has to do again, about a second's work; synced after every module, small ones would wait for the disk.
BATCH = 256 << 20


class Tiles(NamedTuple):
    """tiles: of the compressed weights of a part; encoded: those of them that did not lie ready in the source."""

    tiles: int
    encoded: int


def write_part(
    source: Rank,
    work: WorkDirectory,
    job: Mapping[str, Any],
    *,
    description: Mapping[str, Any],
    step: Callable[[], None] | None = None,
) -> Tiles:
    """Write what `source` holds as `part{rank}-of-{tp}` into the directory that is made in `work`.

    job: the fingerprint. A part that an earlier run has begun is continued behind its last finished module.
    description: its global keys. step: called after each compressed linear. Memory: the tensors of one module. Where it
    raises, what is finished is on disk. Raises CheckpointError and BitstreamError.
    """
    modules = source.modules()
    names = [name for module in modules for name in source.possible_names(module)]
    with (
        writing(work.path, sum(source.plain_bytes(module) for module in modules)),
        work.journal(source.rank, job) as journal,
    ):
        part = work.make_part(f"part{source.rank}-of-{source.tp}")
        written = [tensor for finished in journal.finished for tensor in finished.tensors]
        with StreamingFile(part / WEIGHTS, work.waiting(source.rank), names, written) as file:
            _PartWriter(source, part, file, journal).write(step or (lambda: None))
        types = {tensor.name: kind for done in journal.finished for tensor, kind in done.typed()}
        write_description(part, W8A8SC, types, dict(description))
        return Tiles(sum(done.tiles for done in journal.finished), sum(done.encoded for done in journal.finished))


class _PartWriter:
    def __init__(self, source: Rank, part: Path, file: StreamingFile, journal: Journal) -> None:
        self._source, self._part, self._file, self._journal = source, part, file, journal
        self._plain = {module: source.plain_bytes(module) for module in source.modules()}

    def write(self, step: Callable[[], None]) -> None:
        with writing(self._part, self._bytes_left):
            try:
                self._write_modules(step)
                self._save()
                self._file.finish()
            except BaseException:
                with suppress(OSError):
                    self._file.cut(sum(len(finished.tensors) for finished in self._journal.finished))
                    self._save()
                raise

    def _write_modules(self, step: Callable[[], None]) -> None:
        earlier = len(self._journal.finished)
        for number, module in enumerate(self._plain):
            if number >= earlier:
                self._journal.add(self._written(module))
                if self._plain[module]:
                    self._source.release()
                if self._file.unsynced >= BATCH:
                    self._save()
            if self._source.is_quantized(module) and module != EMBEDDING:
                step()

    def _written(self, module: str) -> Finished:
        source = self._source
        tiles, encoded = source.tiles, source.encoded
        entries = source.entries(module)
        written = tuple(self._file.add(entry.name, entry.tensor) for entry in entries)
        types = tuple(entry.type for entry in entries)
        return Finished(module, written, types, source.tiles - tiles, source.encoded - encoded)

    def _save(self) -> None:
        self._file.sync()
        self._journal.commit()

    def _bytes_left(self) -> int:
        """About what this part and those behind it still need: as much smaller than plain as what is written."""
        done = len(self._journal.finished)
        plain = list(self._plain.values())
        ratio = self._file.nbytes / sum(plain[:done]) if done else 1.0
        return int(ratio * (sum(plain[done:]) + sum(plain) * (self._source.tp - 1 - self._source.rank)))
