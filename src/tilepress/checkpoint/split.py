"""Which rows and columns of each tensor belong to which tensor-parallel rank.

Attention is split by whole heads, the MLP by intermediate channels, embedding and head by rows of the vocabulary. Where
there are more ranks than kv heads, neighbouring ranks hold a copy of the same kv head.
"""

from __future__ import annotations

from pathlib import Path

from tilepress.checkpoint.architecture import FusedGroup, ModelShape
from tilepress.errors import CheckpointError

_KV = ("self_attn.k_proj", "self_attn.v_proj")


def check_tp(shape: ModelShape, tp: int, path: Path) -> None:
    """Raises CheckpointError, with the sizes that work, where `tp` does not divide the model."""
    if not _fits(shape, tp):
        works = ", ".join(str(size) for size in range(1, shape.heads + 1) if _fits(shape, size))
        raise CheckpointError(
            f"{path}: {tp} tensor-parallel parts do not fit {shape.heads} heads, {shape.kv_heads} kv heads, "
            f"{shape.intermediate} intermediate channels and {shape.vocab} tokens; choose one of {works}"
        )


def member_rows(shape: ModelShape, member: str, tp: int, rank: int) -> tuple[int, int]:
    """First row and the one after the last that a rank holds of a row-split linear such as "self_attn.k_proj"."""
    rows = shape.linear(member)[0]
    owners = _owners(shape, member, tp)
    owner = rank * owners // tp
    return owner * rows // owners, (owner + 1) * rows // owners


def columns(shape: ModelShape, group: FusedGroup, tp: int, rank: int) -> tuple[int, int]:
    """The same for the columns of a column-split group."""
    k = shape.group(group)[1]
    return rank * k // tp, (rank + 1) * k // tp


def part_shape(shape: ModelShape, group: FusedGroup, tp: int) -> tuple[int, int]:
    """[n, k] of a fused group in one part; the same for every rank."""
    n, k = shape.group(group)
    if group.axis == "columns":
        return n, k // tp
    spans = [member_rows(shape, member, tp, 0) for member in group.members]
    return sum(stop - start for start, stop in spans), k


def pieces(shape: ModelShape, group: FusedGroup, member: str, tp: int) -> list[tuple[int, int, int]]:
    """Where the parts hold the rows of `member`, in order: (rank, first row, row after the last) of the fused matrix.

    Each row comes once; copies of kv heads are left out.
    """
    start = 0
    for before in group.members[: group.members.index(member)]:
        first, last = member_rows(shape, before, tp, 0)
        start += last - first
    first, last = member_rows(shape, member, tp, 0)
    owners = _owners(shape, member, tp)
    return [(owner * tp // owners, start, start + last - first) for owner in range(owners)]


def _owners(shape: ModelShape, member: str, tp: int) -> int:
    """Number of distinct row ranges that a linear is split into."""
    return min(tp, shape.kv_heads) if member in _KV else tp


def _fits(shape: ModelShape, tp: int) -> bool:
    return (
        tp >= 1
        and shape.heads % tp == 0
        and (shape.kv_heads % tp == 0 or tp % shape.kv_heads == 0)
        and shape.intermediate % tp == 0
        and shape.vocab % tp == 0
    )
