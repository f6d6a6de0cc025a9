"""A compressed model in a W8A8SC directory: its parts, joined back to whole tensors."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tilepress import codec
from tilepress.checkpoint.architecture import (
    GROUPS,
    HEAD,
    FusedGroup,
    ModelShape,
    architecture_of,
    fused_groups,
    group_of,
)
from tilepress.checkpoint.auxiliary import auxiliary_files
from tilepress.checkpoint.compressed_linear import CompressedLinear, naming_damage
from tilepress.checkpoint.config_file import flavour
from tilepress.checkpoint.embedding import EMBEDDING, CompressedEmbedding
from tilepress.checkpoint.json_files import read_object
from tilepress.checkpoint.part import Part
from tilepress.checkpoint.split import check_tp, pieces
from tilepress.checkpoint.tensor_files import Stored
from tilepress.errors import CheckpointError

_PART = re.compile(r"part(0|[1-9]\d{0,5})-of-([1-9]\d{0,5})")


class W8A8SCCheckpoint:
    """config.json and the directories part0-of-N ... Weights are mapped, and read when they are used.

    Made for `tp` ranks, but read as one model: whole tiles of the parts are put together without being decoded where
    the split lies on tile borders. shares_table: the embedding is the head's integers. Raises CheckpointError, and
    BitstreamError for the closed bitstream of the vendor.
    """

    kind: Literal["w8a8sc"] = "w8a8sc"

    def __init__(self, path: Path) -> None:
        self.path = path
        config = path / "config.json"
        self.config: dict[str, Any] = read_object(config)
        self.architecture = architecture_of(self.config, config)
        shape = ModelShape.from_config(self.config, config)
        directories = part_directories(path)
        if not directories:
            raise CheckpointError(f"{path}: no part0-of-1, part0-of-2 ... directories; get the checkpoint again")
        self.tp = len(directories)
        check_tp(shape, self.tp, path)
        self.parts = [Part(directory, self.architecture, shape, self.tp) for directory in directories]
        self.shape = replace(shape, tied=self.parts[0].tied)
        self.shares_table = self.parts[0].shares_table
        self.description = self.parts[0].description
        self.activations = self.parts[0].activations
        first = self.parts[0].types
        for part in self.parts[1:]:
            if part.activations != self.activations:
                raise CheckpointError(
                    f"{part.path}: activations is {part.activations!r}, but {self.activations!r} in "
                    f"{self.parts[0].path.name}; compress the model again"
                )
            odd = sorted(first.items() ^ part.types.items())
            if odd:
                raise CheckpointError(
                    f"{part.path}: {odd[0][0]} is not stored as in {self.parts[0].path.name}; compress the model again"
                )

    @property
    def dtype(self) -> str:
        """ "float16" or "bfloat16": the flavour."""
        return flavour(self.config, self.inventory())

    def is_quantized(self, prefix: str) -> bool:
        """Whether a linear, such as "model.layers.0.mlp.up_proj" or "lm_head", or an own embedding is compressed."""
        if prefix == EMBEDDING:
            return self.parts[0].is_quantized(prefix)
        scope, group, _ = _member_of(prefix)
        return self.parts[0].is_quantized(f"{scope}{group.name}")

    def fused_groups(self) -> list[str]:
        """Prefixes of the compressed linears, such as "model.layers.0.self_attn.query_key_value"."""
        return [prefix for prefix in fused_groups(self.shape) if self.parts[0].is_quantized(prefix)]

    def compressed_linear(self, prefix: str) -> CompressedLinear:
        """The whole fused linear; views of the mapped file where there is one part."""
        _, group = group_of(prefix)
        shares = [part.compressed_linear(prefix) for part in self.parts]
        self._check_scales(prefix, group, shares)
        if self.tp == 1:
            return shares[0]
        if group.axis == "columns":
            with naming_damage(self.path, prefix):
                weight = codec.gather_columns([(share.weight, 0, share.weight.k) for share in shares]).weight
            return replace(shares[0], weight=weight, weight_sums=_added(shares))
        spans = [piece for member in group.members for piece in pieces(self.shape, group, member, self.tp)]
        with naming_damage(self.path, prefix):
            weight = codec.gather_rows([(shares[rank].weight, start, stop) for rank, start, stop in spans]).weight
        return replace(
            shares[0],
            weight=weight,
            deq_scale=torch.cat([shares[rank].deq_scale[start:stop] for rank, start, stop in spans]),
            quant_bias=torch.cat([shares[rank].quant_bias[start:stop] for rank, start, stop in spans]),
            weight_sums=_gathered(shares, spans),
        )

    def compressed_embedding(self) -> CompressedEmbedding:
        """The whole embedding; views of the mapped file where there is one part."""
        if self.shares_table:
            return CompressedEmbedding.of_head(self.compressed_linear(HEAD.name))
        shares = [part.compressed_embedding() for part in self.parts]
        if self.tp == 1:
            return shares[0]
        with naming_damage(self.path, EMBEDDING):
            weight = codec.gather_rows([(share.weight, 0, share.weight.n) for share in shares]).weight
        return CompressedEmbedding(weight, torch.cat([share.weight_scale for share in shares]))

    def float_names(self) -> list[str]:
        """Hugging Face names of all float tensors, with those of linears left float un-fused."""
        names: list[str] = []
        for name in self.parts[0].types:
            if self.parts[0].types[name] != "FLOAT":
                continue
            prefix, _, leaf = name.rpartition(".")
            try:
                scope, group = group_of(prefix)
            except KeyError:
                names.append(name)
            else:
                names += [f"{scope}{member}.{leaf}" for member in group.members]
        return names

    def float_tensor(self, name: str) -> Tensor:
        """The whole float tensor in its stored dtype; a view of the mapped file where there is one part."""
        if name == f"{EMBEDDING}.weight":
            return _joined([part.float_tensor(name) for part in self.parts], 0)
        prefix, _, leaf = name.rpartition(".")
        try:
            scope, group, member = _member_of(prefix)
        except KeyError:
            return self.parts[0].float_tensor(name)
        shares = [part.float_tensor(f"{scope}{group.name}.{leaf}") for part in self.parts]
        if group.axis == "columns":
            return _joined(shares, 1) if leaf == "weight" else shares[0]
        spans = pieces(self.shape, group, member, self.tp)
        return _joined([shares[rank][start:stop] for rank, start, stop in spans], 0)

    def inventory(self) -> list[tuple[str, Stored]]:
        """Type and header of each tensor of each part."""
        return [entry for part in self.parts for entry in part.inventory()]

    def files(self) -> list[Path]:
        """The weight files of all parts."""
        return [file for part in self.parts for file in part.files()]

    def auxiliary_files(self) -> list[Path]:
        return auxiliary_files(self.path)

    def _check_scales(self, prefix: str, group: FusedGroup, shares: list[CompressedLinear]) -> None:
        """What the ranks have in common has to agree, and of a column split only rank 0 may carry a bias."""
        first = shares[0]
        for part, share in zip(self.parts[1:], shares[1:], strict=True):
            odd = None
            if (share.input_scale, share.input_offset) != (first.input_scale, first.input_offset):
                odd = f"input_scale or input_offset differs from {self.parts[0].path.name}"
            elif group.axis == "columns" and not torch.equal(share.deq_scale, first.deq_scale):
                odd = f"deq_scale differs from {self.parts[0].path.name}"
            elif group.axis == "columns" and bool(share.quant_bias.any()):
                odd = f"quant_bias is not 0, but {self.parts[0].path.name} carries it"
            if odd:
                raise CheckpointError(f"{part.path}: {prefix}: {odd}; compress the model again")


def part_directories(path: Path) -> list[Path]:
    """part0-of-N, part1-of-N ... in order; empty where there is none. Raises CheckpointError where one is missing."""
    found = {entry.name: match for entry in path.iterdir() if (match := _PART.fullmatch(entry.name)) and entry.is_dir()}
    counts = sorted({int(match[2]) for match in found.values()})
    if len(counts) > 1:
        raise CheckpointError(f"{path}: holds parts of {counts[0]} and of {counts[1]}; keep those of one compression")
    names = [f"part{rank}-of-{count}" for count in counts for rank in range(min(count, len(found) + 1))]
    for name in names:
        if name not in found:
            raise CheckpointError(f"{path / name}: missing; get it, or compress the model again")
    if counts and len(found) > counts[0]:
        raise CheckpointError(f"{path}: holds more parts than {counts[0]}; compress the model again")
    return [path / name for name in names]


def _member_of(prefix: str) -> tuple[str, FusedGroup, str]:
    """Scope, group and name behind the scope of a linear. KeyError for any other name."""
    for group in (*GROUPS, HEAD):
        for member in group.members:
            if prefix == member or prefix.endswith(f".{member}"):
                scope, _ = group_of(f"{prefix.removesuffix(member)}{group.name}")
                return scope, group, member
    raise KeyError(prefix)


def _joined(tensors: list[Tensor], dimension: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dimension)


def _added(shares: list[CompressedLinear]) -> Tensor | None:
    """The sums over whole rows from those over each part's columns."""
    sums = [share.weight_sums for share in shares if share.weight_sums is not None]
    return torch.stack(sums).sum(dim=0, dtype=torch.int32) if sums else None


def _gathered(shares: list[CompressedLinear], spans: list[tuple[int, int, int]]) -> Tensor | None:
    """The sums over the rows that `spans` take from the parts."""
    sums = [share.weight_sums for share in shares if share.weight_sums is not None]
    return torch.cat([sums[rank][start:stop] for rank, start, stop in spans]) if sums else None
