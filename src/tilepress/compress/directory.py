"""The whole compress job in one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tilepress.checkpoint.auxiliary import auxiliary_files, copy_auxiliary_files
from tilepress.checkpoint.config_file import quantized_config
from tilepress.checkpoint.json_files import write_object
from tilepress.checkpoint.source import open_checkpoint
from tilepress.checkpoint.split import check_tp
from tilepress.checkpoint.staging import refuse_existing, writing
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint
from tilepress.checkpoint.w8a8sc import W8A8SCCheckpoint
from tilepress.compress.fingerprint import fingerprint
from tilepress.compress.part_writer import Tiles, write_part
from tilepress.compress.work_directory import clear_published, work_directory
from tilepress.errors import CheckpointError


def compress_directory(
    source: str | Path,
    out: Path,
    *,
    tp: int = 1,
    threads: int | None = None,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compress the W8A8S directory `source` into the W8A8SC directory `out` of `tp` parts, one after the other.

    threads: of the encoder, all cores if None. progress: called with the linears done and their number. `out` appears
    whole or not at all: what a run that fails or is killed has finished is kept beside it, and the next one with the
    same source and `tp` goes on from there, unless `restart` is given. Memory: the tensors of one fused linear. Raises
    CheckpointError, OtherJobError where the unfinished run had another source or `tp`.
    """
    checkpoint = open_w8a8s(source, out, tp)
    make_parts(checkpoint, out, tp, threads=threads, restart=restart, progress=progress)


def make_parts(
    checkpoint: W8A8SCheckpoint | W8A8SCCheckpoint,
    out: Path,
    tp: int,
    *,
    threads: int | None,
    restart: bool,
    progress: Callable[[int, int], None] | None,
) -> Tiles:
    """The directory `out` of `tp` parts with what `checkpoint` holds: see `compress_directory`."""
    job = fingerprint(checkpoint, tp)
    step = Steps(len(checkpoint.fused_groups()) * tp, progress)
    extra = checkpoint.description.extra
    with work_directory(out, restart=restart) as work:
        made = [
            write_part(checkpoint.rank(rank, tp, threads=threads), work, job, description=extra, step=step)
            for rank in range(tp)
        ]
        write_common_files(checkpoint, work.directory)
        work.publish(out)
    return Tiles(sum(tiles.tiles for tiles in made), sum(tiles.encoded for tiles in made))


class Steps:
    """Counts calls, and tells `progress` of each."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def open_w8a8s(source: str | Path, out: Path, tp: int) -> W8A8SCheckpoint:
    """Everything that can be refused before work starts is refused here, with a CheckpointError."""
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
    """config.json and the auxiliary files, and a check that the directory now reads as a checkpoint."""
    with writing(staging, sum(file.stat().st_size for file in auxiliary_files(source.path))):
        config = quantized_config(source.config, kind="w8a8sc", tied=source.shape.tied or source.shares_table)
        write_object(staging / "config.json", config)
        copy_auxiliary_files(source.path, staging)
    W8A8SCCheckpoint(staging)
