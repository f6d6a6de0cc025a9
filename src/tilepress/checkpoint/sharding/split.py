"""The split of each tensor's rows or columns among tensor-parallel ranks.

Attention is split by whole heads, the MLP by intermediate channels, embedding and head by rows of the vocabulary, as
vLLM splits them: rounded up to a multiple of 64, so that the last rank may have fewer. Where there are more ranks than
kv heads, neighbouring ranks hold a copy of the same kv head.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tilepress.errors import CheckpointError
from tilepress.models.architecture import HEAD, FusedLinears, ModelShape

_KV = ("self_attn.k_proj", "self_attn.v_proj")
# vLLM pads the vocabulary to a multiple of this many rows before it splits it among ranks.
VOCABULARY_UNIT = 64


class Span(NamedTuple):
    """Rows or columns [start, stop) of the part that rank `rank` holds of a fused group."""

    rank: int
    start: int
    stop: int


def check_tp(shape: ModelShape, tp: int, path: Path) -> None:
    """Raise CheckpointError, with the sizes that work, where `tp` does not divide the model."""
    if not _fits(shape, tp):
        works = ", ".join(map(str, fitting_sizes(shape)))
        raise CheckpointError(
            f"{path}: {tp} tensor-parallel parts do not fit {shape.heads} heads, {shape.kv_heads} kv heads and "
            f"{shape.intermediate} intermediate channels; choose one of {works}"
        )


def fitting_sizes(shape: ModelShape) -> list[int]:
    """The numbers of ranks that divide the model."""
    return [size for size in range(1, shape.heads + 1) if _fits(shape, size)]


def member_rows(shape: ModelShape, member: str, tp: int, rank: int) -> tuple[int, int]:
    """Return rows [start, stop) that a rank holds of a row-split linear such as "self_attn.k_proj"."""
    rows = shape.linear(member)[0]
    owners, each = _owners(shape, member, tp), _rows_each(shape, member, tp)
    owner = rank * owners // tp
    return min(owner * each, rows), min((owner + 1) * each, rows)


def columns(shape: ModelShape, group: FusedLinears, tp: int, rank: int) -> tuple[int, int]:
    """Return columns [start, stop) that a rank holds of a column-split group."""
    k = shape.group(group)[1]
    return rank * k // tp, (rank + 1) * k // tp


def part_shape(shape: ModelShape, group: FusedLinears, tp: int, rank: int) -> tuple[int, int]:
    """Return [n, k] of a fused group in the part of a rank; only the head's differs between ranks."""
    n, k = shape.group(group)
    if group.axis == "columns":
        return n, k // tp
    spans = [member_rows(shape, member, tp, rank) for member in group.members]
    return sum(stop - start for start, stop in spans), k


def held_rows(
    shape: ModelShape, group: FusedLinears, member: str, tp: int, rows: tuple[int, int], near: int = 0
) -> list[Span]:
    """Return the spans, in order, of parts made for `tp` ranks that hold rows [first, last) of `member`, when fused.

    near: a rank; where several ranks hold a copy of the same kv head, the nearest to this one is taken.
    """
    above = 0
    for before in group.members[: group.members.index(member)]:
        first, last = member_rows(shape, before, tp, 0)
        above += last - first
    owners = _owners(shape, member, tp)
    each, copies = _rows_each(shape, member, tp), tp // owners
    return [
        Span(min(max(near, owner * copies), (owner + 1) * copies - 1), above + start, above + stop)
        for owner, start, stop in _overlaps(each, rows)
    ]


def spans(shape: ModelShape, group: FusedLinears, held: int, *, rank: int, tp: int) -> list[Span]:
    """Return the spans of parts made for `held` ranks that, put together, are what rank `rank` of `tp` holds.

    Spans that follow one another in one part are joined, so that a part made for `tp` ranks is one whole span.
    """
    if group.axis == "columns":
        each = shape.group(group)[1] // held
        found = [Span(*overlap) for overlap in _overlaps(each, columns(shape, group, tp, rank))]
    else:
        found = [
            span
            for member in group.members
            for span in held_rows(shape, group, member, held, member_rows(shape, member, tp, rank), rank * held // tp)
        ]
    joined = found[:1]
    for span in found[1:]:
        last = joined[-1]
        if (span.rank, span.start) == (last.rank, last.stop):
            joined[-1] = last._replace(stop=span.stop)
        else:
            joined.append(span)
    return joined


def _overlaps(each: int, wanted: tuple[int, int]) -> list[tuple[int, int, int]]:
    """(number, start, stop) of each of the ranges [0, each), [each, 2 each) ... that [first, last) touches."""
    first, last = wanted
    return [(i, max(first - i * each, 0), min(last - i * each, each)) for i in range(first // each, -(-last // each))]


def _owners(shape: ModelShape, member: str, tp: int) -> int:
    """Number of distinct row ranges that a linear is split into."""
    return min(tp, shape.kv_heads) if member in _KV else tp


def _rows_each(shape: ModelShape, member: str, tp: int) -> int:
    """Rows of each of these ranges; the vocabulary's last range may have fewer."""
    rows = shape.linear(member)[0]
    if member == HEAD.name:
        return -(-padded_vocabulary(shape) // tp)
    return rows // _owners(shape, member, tp)


def padded_vocabulary(shape: ModelShape) -> int:
    """The rows of the vocabulary, rounded up to a multiple of 64."""
    return -(-shape.vocab // VOCABULARY_UNIT) * VOCABULARY_UNIT


def _fits(shape: ModelShape, tp: int) -> bool:
    return (
        tp >= 1
        and shape.heads % tp == 0
        and (shape.kv_heads % tp == 0 or tp % shape.kv_heads == 0)
        and shape.intermediate % tp == 0
        and (tp - 1) * _rows_each(shape, HEAD.name, tp) < shape.vocab
    )
