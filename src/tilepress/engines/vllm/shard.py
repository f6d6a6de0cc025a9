"""The shard of a quantized directory that one tensor-parallel rank of vLLM loads. This file needs no vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tilepress.checkpoint import FloatCheckpoint, Shard, open_checkpoint
from tilepress.errors import CheckpointError


@dataclass(frozen=True)
class ModelShard:
    """A rank's shard. shard: its tensors. path: the directory. tied: the head is the embedding, float or quantized.

    shares_table: the head is the embedding, and quantized.
    """

    shard: Shard
    path: Path
    tied: bool
    shares_table: bool


def open_shard(path: str | Path, *, tp: int, rank: int, revision: str | None = None, fast: bool = False) -> ModelShard:
    """Return the shard of rank `rank` of `tp` from the W8A8S or W8A8SC directory, or hub id and its revision, `path`.

    fast: as in Shard.
    Raises CheckpointError for any other directory, and where `tp` does not divide the model.
    """
    checkpoint = open_checkpoint(path, revision=revision)
    if isinstance(checkpoint, FloatCheckpoint):
        raise CheckpointError(f"{path}: config.json says tilepress, but the tensors are float; get the model again")
    return ModelShard(
        shard=checkpoint.shard(rank, tp, fast=fast),
        path=checkpoint.path,
        tied=checkpoint.shape.tied or checkpoint.shares_table,
        shares_table=checkpoint.shares_table,
    )
