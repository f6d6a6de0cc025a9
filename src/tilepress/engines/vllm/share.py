"""What one tensor-parallel rank loads of a quantized directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tilepress import codec
from tilepress.checkpoint import (
    EMBEDDING,
    CompressedEmbedding,
    CompressedLinear,
    FloatCheckpoint,
    FusedGroup,
    QuantizedLinear,
    W8A8SCCheckpoint,
    W8A8SCheckpoint,
    open_checkpoint,
)
from tilepress.checkpoint.activations import has_own_scales, row_sums
from tilepress.checkpoint.architecture import HEAD, fused_groups, group_of
from tilepress.checkpoint.compressed_linear import naming_damage
from tilepress.checkpoint.split import check_tp, columns, member_rows
from tilepress.errors import CheckpointError

QuantizedCheckpoint = W8A8SCheckpoint | W8A8SCCheckpoint


class Share(Protocol):
    """The tensors of one rank, by the names that they have in a part of a W8A8SC directory.

    path: the directory. tied: the head is the embedding, float or quantized. shares_table: it is, and quantized.
    """

    @property
    def path(self) -> Path: ...
    @property
    def tied(self) -> bool: ...
    @property
    def shares_table(self) -> bool: ...

    def is_quantized(self, prefix: str) -> bool:
        """Whether a fused linear, such as "model.layers.0.mlp.gate_up_proj" or "lm_head", or an own embedding is."""

    def fused_groups(self) -> list[str]:
        """Prefixes of the quantized linears."""

    def compressed_linear(self, prefix: str) -> CompressedLinear:
        """The rank's rows or columns of a fused linear."""

    def compressed_embedding(self) -> CompressedEmbedding:
        """The rank's rows of a quantized embedding; where it shares the head's table, of that table."""

    def float_names(self) -> list[str]:
        """All float tensors, those of linears left float under their fused names."""

    def float_tensor(self, name: str) -> Tensor:
        """The rank's share of one of them, in its stored dtype."""


def open_share(path: str | Path, *, tp: int, rank: int, revision: str | None = None) -> Share:
    """The share of rank `rank` of `tp` in the W8A8S or W8A8SC directory, or hub id and its revision, `path`.

    Raises CheckpointError for any other directory, and where `tp` does not divide the model.
    """
    checkpoint = open_checkpoint(path, revision=revision)
    if isinstance(checkpoint, FloatCheckpoint):
        raise CheckpointError(f"{path}: config.json says tilepress, but the tensors are float; get the model again")
    check_tp(checkpoint.shape, tp, checkpoint.path)
    if isinstance(checkpoint, W8A8SCCheckpoint) and checkpoint.tp == tp:
        return PartShare(checkpoint, rank)
    return CutShare(checkpoint, tp, rank)


class PartShare:
    """A part of a W8A8SC directory of as many parts as there are ranks: mapped, and used as it is."""

    def __init__(self, checkpoint: W8A8SCCheckpoint, rank: int) -> None:
        self._part = checkpoint.parts[rank]
        self._groups = checkpoint.fused_groups()
        self.path = self._part.path
        self.shares_table = self._part.shares_table
        self.tied = self._part.tied or self._part.shares_table

    def is_quantized(self, prefix: str) -> bool:
        return self._part.is_quantized(prefix)

    def fused_groups(self) -> list[str]:
        return self._groups

    def compressed_linear(self, prefix: str) -> CompressedLinear:
        return self._part.compressed_linear(prefix)

    def compressed_embedding(self) -> CompressedEmbedding:
        if self.shares_table:
            return CompressedEmbedding.of_head(self.compressed_linear(HEAD.name))
        return self._part.compressed_embedding()

    def float_names(self) -> list[str]:
        return [name for name, kind in self._part.types.items() if kind == "FLOAT"]

    def float_tensor(self, name: str) -> Tensor:
        return self._part.float_tensor(name)


class CutShare:
    """A rank's share cut out of whole tensors, one at a time, and compressed now where it is not the whole."""

    def __init__(self, checkpoint: QuantizedCheckpoint, tp: int, rank: int) -> None:
        self._checkpoint, self._tp, self._rank = checkpoint, tp, rank
        self.path = checkpoint.path
        self.shares_table = checkpoint.shares_table
        self.tied = checkpoint.shape.tied or checkpoint.shares_table

    def is_quantized(self, prefix: str) -> bool:
        if prefix == EMBEDDING:
            return self._checkpoint.is_quantized(prefix)
        scope, group = group_of(prefix)
        return self._checkpoint.is_quantized(f"{scope}{group.members[0]}")

    def fused_groups(self) -> list[str]:
        return self._checkpoint.fused_groups()

    def compressed_linear(self, prefix: str) -> CompressedLinear:
        if self._tp == 1:
            return self._checkpoint.compressed_linear(prefix)
        group = group_of(prefix)[1]
        whole = self._integers(prefix)
        weight = self._of_rank(whole.weight, group)
        return CompressedLinear(
            weight=codec.encode(weight.contiguous().numpy()),
            input_scale=whole.input_scale,
            input_offset=whole.input_offset,
            deq_scale=self._of_rank(whole.deq_scale, group),
            quant_bias=self._bias_of_rank(whole.quant_bias, group),
            weight_sums=row_sums(weight) if has_own_scales(self._checkpoint.activations, whole.kind) else None,
            kind=whole.kind,
        )

    def compressed_embedding(self) -> CompressedEmbedding:
        if self.shares_table:
            return CompressedEmbedding.of_head(self.compressed_linear(HEAD.name))
        whole = self._checkpoint.compressed_embedding()
        rows = self._table_rows()
        with naming_damage(self.path, EMBEDDING):
            weight = codec.gather_rows([(whole.weight, rows.start, rows.stop)])
        return CompressedEmbedding(weight, whole.weight_scale[rows])

    def float_names(self) -> list[str]:
        fused: dict[str, str] = {}
        for prefix in fused_groups(self._checkpoint.shape):
            scope, group = group_of(prefix)
            fused |= {f"{scope}{member}": prefix for member in group.members}
        names = [name.rpartition(".") for name in self._checkpoint.float_names()]
        return list(dict.fromkeys(f"{fused.get(owner, owner)}.{leaf}" for owner, _, leaf in names))

    def float_tensor(self, name: str) -> Tensor:
        if name == f"{EMBEDDING}.weight":
            return self._checkpoint.float_tensor(name)[self._table_rows()]
        prefix, _, leaf = name.rpartition(".")
        try:
            scope, group = group_of(prefix)
        except KeyError:
            return self._checkpoint.float_tensor(name)
        stored = [self._checkpoint.float_tensor(f"{scope}{member}.{leaf}") for member in group.members]
        whole = stored[0] if len(stored) == 1 else torch.cat(stored)
        if leaf == "bias":
            return self._bias_of_rank(whole, group)
        return self._of_rank(whole, group)

    def _integers(self, prefix: str) -> QuantizedLinear:
        """The whole fused linear with a plain weight int8 [n, k]."""
        if isinstance(self._checkpoint, W8A8SCCheckpoint):
            fused = self._checkpoint.compressed_linear(prefix)
            with naming_damage(self.path, prefix):
                weight = torch.from_numpy(codec.decode(fused.weight))
            return QuantizedLinear(
                weight, fused.input_scale, fused.input_offset, fused.deq_scale, fused.quant_bias, fused.kind
            )
        scope, group = group_of(prefix)
        members = [self._checkpoint.linear(f"{scope}{member}") for member in group.members]
        if len(members) == 1:
            return members[0]
        return replace(
            members[0],
            weight=torch.cat([member.weight for member in members]),
            deq_scale=torch.cat([member.deq_scale for member in members]),
            quant_bias=torch.cat([member.quant_bias for member in members]),
        )

    def _of_rank(self, tensor: Tensor, group: FusedGroup) -> Tensor:
        """The rank's rows or columns of a fused tensor [n, k]; its rows, or where columns are split all, of one [n]."""
        if self._tp == 1:
            return tensor
        if group.axis == "columns":
            start, stop = columns(self._checkpoint.shape, group, self._tp, self._rank)
            return tensor[:, start:stop] if tensor.dim() == 2 else tensor
        shares, above = [], 0
        for member in group.members:
            start, stop = member_rows(self._checkpoint.shape, member, self._tp, self._rank)
            shares.append(tensor[above + start : above + stop])
            above += self._checkpoint.shape.linear(member)[0]
        return shares[0] if len(shares) == 1 else torch.cat(shares)

    def _bias_of_rank(self, bias: Tensor, group: FusedGroup) -> Tensor:
        """The same for a bias, which of a split by columns only rank 0 carries: the ranks' results are added up."""
        if group.axis == "columns" and self._rank > 0:
            return torch.zeros_like(bias)
        return self._of_rank(bias, group)

    def _table_rows(self) -> slice:
        rows = self._checkpoint.shape.vocab // self._tp
        return slice(self._rank * rows, (self._rank + 1) * rows)
