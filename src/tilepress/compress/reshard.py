"""A W8A8SC directory made anew for another number of tensor-parallel ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tilepress import codec
from tilepress.checkpoint.open import open_checkpoint
from tilepress.checkpoint.sharding.split import check_tp
from tilepress.checkpoint.tensors.compressed_linear import naming_damage
from tilepress.checkpoint.tensors.embedding import EMBEDDING
from tilepress.checkpoint.w8a8sc import W8A8SCCheckpoint
from tilepress.compress.job import make_parts
from tilepress.errors import CheckpointError
from tilepress.jobs.atomic_directory import refuse_existing


@dataclass(frozen=True)
class Resharding:
    """before, tp: number of parts of the source and of the result.

    tiles: number of tiles of all parts made; encoded: those that a cut went through or shifted. Others moved as bytes.
    """

    before: int
    tp: int
    tiles: int
    encoded: int


def reshard_directory(
    source: str | Path,
    out: Path,
    *,
    tp: int,
    threads: int | None = None,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Resharding:
    """Make the directory `out` of `tp` parts from the W8A8SC directory `source`, as compressing for `tp` would.

    threads: threads of the codec, all cores if None. progress: called with the number of fused linears done and of all.
    `out` appears whole or not at all, and an unfinished run is continued as by `compress_directory`, or dropped with
    `restart`. Raises CheckpointError, and BitstreamError where `source` is damaged.
    """
    refuse_existing(out)
    checkpoint = open_checkpoint(source)
    if not isinstance(checkpoint, W8A8SCCheckpoint):
        raise CheckpointError(
            f"{source}: is not compressed; give a W8A8SC directory, or make one with `tilepress compress --tp {tp}`"
        )
    check_tp(checkpoint.shape, tp, checkpoint.path)
    _check_tiles(checkpoint)
    made = make_parts(checkpoint, out, tp, threads=threads, restart=restart, progress=progress)
    return Resharding(checkpoint.tp, tp, made.tiles, made.encoded)


def _check_tiles(checkpoint: W8A8SCCheckpoint) -> None:
    """Raise BitstreamError for a damaged tile header: tiles that move as bytes are not checked later."""
    for part in checkpoint.parts:
        tables = [EMBEDDING] if part.is_quantized(EMBEDDING) else []
        for prefix in filter(part.holds_tiles, [*checkpoint.fused_groups(), *tables]):
            with naming_damage(part.path, prefix):
                codec.validate(part.tiles(prefix))
            checkpoint.release()
