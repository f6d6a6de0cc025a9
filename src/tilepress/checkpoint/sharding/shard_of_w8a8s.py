"""A rank's tensors from a W8A8S directory: split, fused and compressed now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tilepress import codec
from tilepress.checkpoint.sharding.shard import Shard
from tilepress.checkpoint.sharding.split import columns, member_rows
from tilepress.checkpoint.tensors.activation_mode import is_dynamic, row_sums
from tilepress.checkpoint.tensors.compressed_linear import CompressedLinear
from tilepress.checkpoint.tensors.embedding import EMBEDDING, CompressedEmbedding
from tilepress.models.architecture import HEAD, FusedLinears, group_of

if TYPE_CHECKING:
    from tilepress.checkpoint.w8a8s import W8A8SCheckpoint


class ShardOfW8A8S(Shard):
    """See Shard; every tile is encoded."""

    def __init__(self, source: W8A8SCheckpoint, rank: int, tp: int, threads: int | None, fast: bool) -> None:
        super().__init__(source, rank, tp, threads, fast)
        self._plain = source
        self._float_names = set(source.float_names())

    def compressed_linear(self, prefix: str) -> CompressedLinear:
        scope, group = group_of(prefix)
        linears = [self._plain.linear(f"{scope}{member}") for member in group.members]
        weight = self._share([linear.weight for linear in linears], group)
        first = linears[0]
        return CompressedLinear(
            weight=self._encode(weight, fast=self.fast),
            input_scale=first.input_scale,
            input_offset=first.input_offset,
            deq_scale=self._rows([linear.deq_scale for linear in linears], group),
            quant_bias=self._bias([linear.quant_bias for linear in linears], group),
            weight_sums=row_sums(weight) if is_dynamic(self._plain.activations, first.kind) else None,
            kind=first.kind,
        )

    def float_tensor(self, name: str) -> Tensor:
        prefix, _, leaf = name.rpartition(".")
        try:
            scope, group = group_of(prefix)
        except KeyError:
            tensor = self._plain.float_tensor(name)
            return self._rows([tensor], HEAD) if prefix == EMBEDDING else tensor
        stored = [self._plain.float_tensor(f"{scope}{member}.{leaf}") for member in group.members]
        return self._share(stored, group) if leaf == "weight" else self._bias(stored, group)

    def _own_embedding(self) -> CompressedEmbedding:
        plain = self._plain.embedding()
        weight_scale = self._rows([plain.weight_scale], HEAD)
        return CompressedEmbedding(self._encode(self._rows([plain.weight], HEAD)), weight_scale)

    def _holds_float(self, name: str) -> bool:
        prefix, _, leaf = name.rpartition(".")
        try:
            scope, group = group_of(prefix)
        except KeyError:
            return name in self._float_names
        return f"{scope}{group.members[0]}.{leaf}" in self._float_names

    def _encode(self, weight: Tensor, *, fast: bool = False) -> codec.Compressed:
        encode = codec.encode_resident if fast else codec.encode
        compressed = encode(np.ascontiguousarray(weight.numpy()), threads=self.threads)
        tiles = compressed.n_index * compressed.k_index
        self.tiles += tiles
        self.encoded += tiles
        return compressed

    def _share(self, matrices: list[Tensor], group: FusedLinears) -> Tensor:
        """Return the rank's rows or columns of the members' matrices [n, k], fused."""
        if group.axis == "rows":
            return self._rows(matrices, group)
        start, stop = columns(self._plain.shape, group, self.tp, self.rank)
        return matrices[0][:, start:stop]

    def _rows(self, tensors: list[Tensor], group: FusedLinears) -> Tensor:
        """Return the rank's rows of tensors with a row for each output channel; all rows in a column split."""
        if group.axis == "columns":
            return tensors[0]
        spans = [member_rows(self._plain.shape, member, self.tp, self.rank) for member in group.members]
        shares = [tensor[start:stop] for tensor, (start, stop) in zip(tensors, spans, strict=True)]
        return shares[0] if len(shares) == 1 else torch.cat(shares)

    def _bias(self, tensors: list[Tensor], group: FusedLinears) -> Tensor:
        """Return the rank's part of a bias: in a column split, whose results are added up, only rank 0 carries it."""
        bias = self._rows(tensors, group)
        return torch.zeros_like(bias) if group.axis == "columns" and self.rank > 0 else bias
