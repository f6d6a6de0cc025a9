"""A rank's tensors from a W8A8SC directory made for any number of ranks.

Whole tiles move as bytes where cuts lie on tile borders (multiples of 128 rows and 256 columns of a part's matrix);
only the rows or columns of tiles that a cut goes through or shifts are decoded and encoded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tilepress import codec
from tilepress.checkpoint.description import FLOAT
from tilepress.checkpoint.sharding.shard import Shard
from tilepress.checkpoint.sharding.split import Span, spans
from tilepress.checkpoint.tensors.activation_mode import row_sums
from tilepress.checkpoint.tensors.compressed_linear import CompressedLinear, Scales, naming_damage
from tilepress.checkpoint.tensors.embedding import EMBEDDING, CompressedEmbedding
from tilepress.codec import Compressed
from tilepress.errors import CheckpointError
from tilepress.models.architecture import HEAD, FusedLinears, group_of

if TYPE_CHECKING:
    from tilepress.checkpoint.w8a8sc import W8A8SCCheckpoint


class ShardOfW8A8SC(Shard):
    """See Shard. A tensor that one part holds whole is mapped from its file, not copied."""

    def __init__(self, source: W8A8SCCheckpoint, rank: int, tp: int, threads: int | None, fast: bool) -> None:
        super().__init__(source, rank, tp, threads, fast)
        self._path, self._parts = source.path, source.parts

    def compressed_linear(self, prefix: str) -> CompressedLinear:
        _, group = group_of(prefix)
        shares = [part.scales(prefix) for part in self._parts]
        self._check_scales(prefix, group, shares)
        needed, first = self._spans(group), shares[0]
        weight = self._in_fast_form(prefix, group, needed) if self.fast else self._gathered(prefix, group, needed)
        sums = [share.weight_sums for share in shares if share.weight_sums is not None]
        if group.axis == "rows":
            deq_scale = _joined([share.deq_scale for share in shares], needed)
            quant_bias = _joined([share.quant_bias for share in shares], needed)
            weight_sums = _joined(sums, needed) if sums else None
        else:
            deq_scale = first.deq_scale
            quant_bias = first.quant_bias if self.rank == 0 else torch.zeros_like(first.quant_bias)
            weight_sums = self._column_sums(prefix, group, shares, needed, weight) if sums else None
        return CompressedLinear(
            weight, first.input_scale, first.input_offset, deq_scale, quant_bias, weight_sums, first.kind
        )

    def float_tensor(self, name: str) -> Tensor:
        prefix, _, leaf = name.rpartition(".")
        try:
            group = HEAD if prefix == EMBEDDING else group_of(prefix)[1]
        except KeyError:
            return self._parts[0].float_tensor(name)
        if group.axis == "columns" and leaf == "bias":
            bias = self._parts[0].float_tensor(name)
            return bias if self.rank == 0 else torch.zeros_like(bias)
        shares = [part.float_tensor(name) for part in self._parts]
        return _joined(shares, self._spans(group), 0 if group.axis == "rows" else 1)

    def _own_embedding(self) -> CompressedEmbedding:
        needed = self._spans(HEAD)
        scales = [part.embedding_scale() for part in self._parts]
        return CompressedEmbedding(self._gathered(EMBEDDING, HEAD, needed), _joined(scales, needed))

    def _holds_float(self, name: str) -> bool:
        return self._parts[0].types.get(name) == FLOAT

    def _spans(self, group: FusedLinears) -> list[Span]:
        return spans(self._source.shape, group, len(self._parts), rank=self.rank, tp=self.tp)

    def _gathered(self, prefix: str, group: FusedLinears, needed: list[Span]) -> Compressed:
        gather = codec.gather_rows if group.axis == "rows" else codec.gather_columns
        held = {part: self._parts[part].tiles(prefix, threads=self.threads) for part, _, _ in needed}
        with naming_damage(self._path, prefix):
            gathered = gather([(held[part], start, stop) for part, start, stop in needed], threads=self.threads)
        self.tiles += gathered.tiles
        ready = all(self._parts[part].holds_tiles(prefix) for part in held)
        self.encoded += gathered.encoded if ready else gathered.tiles
        return gathered.weight

    def _in_fast_form(self, prefix: str, group: FusedLinears, needed: list[Span]) -> Compressed:
        """Return what `_gathered` does in the form for memory, made of the integers: tiles would have to be decoded."""
        axis = 0 if group.axis == "rows" else 1
        matrices = {part: self._parts[part].matrix(prefix, threads=self.threads)[0] for part, _, _ in needed}
        joined = _joined({part: torch.from_numpy(matrix) for part, matrix in matrices.items()}, needed, axis)
        return codec.encode_resident(joined.contiguous().numpy(), threads=self.threads)

    def _column_sums(
        self, prefix: str, group: FusedLinears, shares: list[Scales], needed: list[Span], weight: Compressed
    ) -> Tensor:
        """Return int32 [n], the sums over the rows of `weight`: those of whole parts added up, else computed anew."""
        width = self._source.shape.linear(group.members[0])[1] // len(self._parts)
        if any((start, stop) != (0, width) for _, start, stop in needed):
            with naming_damage(self._path, prefix):
                return row_sums(torch.from_numpy(codec.decode(weight, threads=self.threads)))
        sums = [shares[part].weight_sums for part, _, _ in needed]
        return torch.stack([own for own in sums if own is not None]).sum(dim=0, dtype=torch.int32)

    def _check_scales(self, prefix: str, group: FusedLinears, shares: list[Scales]) -> None:
        """Check that the parts agree on what they share, and that in a column split only rank 0's has a bias."""
        first, name = shares[0], self._parts[0].path.name
        for part, share in zip(self._parts[1:], shares[1:], strict=True):
            odd = None
            if (share.input_scale, share.input_offset) != (first.input_scale, first.input_offset):
                odd = f"input_scale or input_offset differs from {name}"
            elif group.axis == "columns" and not torch.equal(share.deq_scale, first.deq_scale):
                odd = f"deq_scale differs from {name}"
            elif group.axis == "columns" and bool(share.quant_bias.any()):
                odd = f"quant_bias is not 0, but {name} carries it"
            if odd:
                raise CheckpointError(f"{part.path}: {prefix}: {odd}; compress the model again")


def _joined(shares: Sequence[Tensor] | Mapping[int, Tensor], needed: list[Span], axis: int = 0) -> Tensor:
    """Join the spans `needed` of the parts' tensors; a view where there is one span."""
    taken = [shares[part].narrow(axis, start, stop - start) for part, start, stop in needed]
    return taken[0] if len(taken) == 1 else torch.cat(taken, axis)
