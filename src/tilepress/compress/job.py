"""The whole compress job in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tilepress.checkpoint.auxiliary import auxiliary_files, copy_auxiliary_files
from tilepress.checkpoint.description import CODING, W8A8SC, quantized_config, write_description
from tilepress.checkpoint.open import open_checkpoint
from tilepress.checkpoint.safetensors.writer import StreamingFile
from tilepress.checkpoint.sharding.shard import Shard
from tilepress.checkpoint.sharding.split import check_tp
from tilepress.checkpoint.tensors.embedding import EMBEDDING
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint
from tilepress.checkpoint.w8a8sc import W8A8SCCheckpoint
from tilepress.codec import CODINGS, TILES
from tilepress.compress.journal import Finished, Journal
from tilepress.compress.resume import WorkDirectory, clear_published, fingerprint, work_directory
from tilepress.errors import CheckpointError, UsageError
from tilepress.jobs.atomic_directory import refuse_existing, writing
from tilepress.jobs.json_files import write_object


def compress_directory(
    source: str | Path,
    out: Path,
    *,
    tp: int = 1,
    coding: str | None = None,
    threads: int | None = None,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compress the W8A8S directory `source` into the W8A8SC directory `out` of `tp` parts, one after the other.

    coding: of the weights, "tiles" or "entropy" (docs/reference/bitstream-v2.md). None: the one that `source` was
    quantized for, else tiles. threads: threads of the encoder, all cores if None. progress: called with the number of
    fused linears done and of all, over all parts. `out` appears whole or not at all. A run that fails or is killed
    keeps beside it what is finished. The next run with the same source, `tp` and coding continues there, unless
    `restart` is given. Memory: the tensors of one fused linear. Raises CheckpointError where `source` cannot be
    compressed for `tp` or `out` exists, OtherJobError where the unfinished run had another source, `tp` or coding.
    """
    checkpoint = open_w8a8s(source, out, tp)
    make_parts(checkpoint, out, tp, coding=coding, threads=threads, restart=restart, progress=progress)


def make_parts(
    checkpoint: W8A8SCheckpoint | W8A8SCCheckpoint,
    out: Path,
    tp: int,
    *,
    coding: str | None = None,
    threads: int | None,
    restart: bool,
    progress: Callable[[int, int], None] | None,
) -> Tiles:
    """Write what `checkpoint` holds to the directory `out` of `tp` parts: see `compress_directory`."""
    extra = described(checkpoint, coding)
    job = fingerprint(checkpoint, tp, extra.get(CODING, TILES))
    step = Steps(len(checkpoint.fused_groups()) * tp, progress)
    with work_directory(out, restart=restart) as work:
        made = [
            write_part(checkpoint.shard(rank, tp, threads=threads), work, job, description=extra, step=step)
            for rank in range(tp)
        ]
        write_common_files(checkpoint, work.directory)
        work.publish(out)
    return Tiles(sum(tiles.tiles for tiles in made), sum(tiles.encoded for tiles in made))


def described(checkpoint: W8A8SCheckpoint | W8A8SCCheckpoint, coding: str | None) -> dict[str, Any]:
    """Return the global keys of the parts' description. Raises UsageError and CheckpointError for an unknown coding."""
    if coding is not None and coding not in CODINGS:
        raise UsageError(f"--coding {coding}: choose one of {', '.join(CODINGS)}")
    extra = dict(checkpoint.description.extra)
    chosen = coding or extra.get(CODING, TILES)
    if chosen not in CODINGS:
        raise CheckpointError(
            f"{checkpoint.description.path}: {CODING} is {chosen!r}; it has to be {' or '.join(CODINGS)}"
        )
    extra.pop(CODING, None)  # without the key it is tiles
    return extra | ({} if chosen == TILES else {CODING: chosen})


class Steps:
    """Counts calls, and tells `progress` of each."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def open_w8a8s(source: str | Path, out: Path, tp: int) -> W8A8SCheckpoint:
    """Open `source`. Raises CheckpointError for all that can be refused before anything is compressed."""
    clear_published(out)
    refuse_existing(out)
    checkpoint = open_checkpoint(source)
    if isinstance(checkpoint, W8A8SCCheckpoint):
        raise CheckpointError(f"{source}: is compressed already; give the W8A8S directory")
    if not isinstance(checkpoint, W8A8SCheckpoint):
        raise CheckpointError(f"{source}: is a float model; make a W8A8S directory of it with `tilepress quant` first")
    check_tp(checkpoint.shape, tp, checkpoint.path)
    return checkpoint


def write_common_files(source: W8A8SCheckpoint | W8A8SCCheckpoint, staging: Path) -> None:
    """Write config.json and the auxiliary files, and check that the directory now opens as a checkpoint."""
    with writing(staging, sum(file.stat().st_size for file in auxiliary_files(source.path))):
        tied = source.shape.tied or source.shares_table
        config = quantized_config(source.config, kind="w8a8sc", tied=tied, mode=source.activations)
        write_object(staging / "config.json", config)
        copy_auxiliary_files(source.path, staging)
    W8A8SCCheckpoint(staging)


WEIGHTS = "quant_model_weight_w8a8sc.safetensors"
# Bytes that are written before they are synced to disk and their modules entered in the journal. A killed run has to
# compress them again, which takes about a second. A sync after every module would make small ones wait for the disk.
BATCH = 256 << 20


class Tiles(NamedTuple):
    """tiles: number of tiles of a part's weights; encoded: how many of them the source did not hold ready."""

    tiles: int
    encoded: int


def write_part(
    source: Shard,
    work: WorkDirectory,
    job: Mapping[str, Any],
    *,
    description: Mapping[str, Any],
    step: Callable[[], None] | None = None,
) -> Tiles:
    """Write what `source` holds as `part{rank}-of-{tp}` into the directory that is made in `work`.

    description: the global keys of the part's description, the coding among them where it is not tiles. job: the
    fingerprint. A part that an earlier run has begun is continued behind its last finished module. step: called after
    each compressed linear. Memory: the tensors of one module. Where this raises, finished modules are on disk. Raises
    CheckpointError and BitstreamError.
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
            _PartWriter(source, part, file, journal, description.get(CODING, TILES)).write(step or (lambda: None))
        types = {tensor.name: kind for done in journal.finished for tensor, kind in done.typed()}
        write_description(part, W8A8SC, types, dict(description))
        return Tiles(sum(done.tiles for done in journal.finished), sum(done.encoded for done in journal.finished))


class _PartWriter:
    def __init__(self, source: Shard, part: Path, file: StreamingFile, journal: Journal, coding: str) -> None:
        self._source, self._part, self._file, self._journal = source, part, file, journal
        self._coding = coding
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
        entries = source.entries(module, self._coding)
        written = tuple(self._file.add(entry.name, entry.tensor) for entry in entries)
        types = tuple(entry.type for entry in entries)
        return Finished(module, written, types, source.tiles - tiles, source.encoded - encoded)

    def _save(self) -> None:
        self._file.sync()
        self._journal.commit()

    def _bytes_left(self) -> int:
        """Estimate the bytes that this part and those behind it still need, by the compression ratio so far."""
        done = len(self._journal.finished)
        plain = list(self._plain.values())
        ratio = self._file.nbytes / sum(plain[:done]) if done else 1.0
        return int(ratio * (sum(plain[done:]) + sum(plain) * (self._source.tp - 1 - self._source.rank)))
