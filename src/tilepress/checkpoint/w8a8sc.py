"""A compressed model in a W8A8SC directory: its parts, joined back to whole tensors."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tilepress.checkpoint.auxiliary import auxiliary_files
from tilepress.checkpoint.description import flavour, read_config
from tilepress.checkpoint.safetensors.mapped_pages import release_pages
from tilepress.checkpoint.safetensors.reader import Stored
from tilepress.checkpoint.sharding.shard import Shard
from tilepress.checkpoint.sharding.shard_of_w8a8sc import ShardOfW8A8SC
from tilepress.checkpoint.sharding.split import check_tp, held_rows
from tilepress.checkpoint.tensors.compressed_linear import CompressedLinear
from tilepress.checkpoint.tensors.embedding import EMBEDDING, CompressedEmbedding
from tilepress.checkpoint.w8a8sc_part import Part
from tilepress.errors import CheckpointError
from tilepress.models.architecture import (
    GROUPS,
    HEAD,
    FusedLinears,
    ModelShape,
    architecture_of,
    fused_groups,
    group_of,
)

_PART = re.compile(r"part(0|[1-9]\d{0,5})-of-([1-9]\d{0,5})")


class W8A8SCCheckpoint:
    """config.json and the directories part0-of-N ... Weights are mapped, and read when they are used.

    Made for `tp` ranks, but read as one model or for any other number of ranks: whole tiles of the parts are put
    together without being decoded where the split lies on tile borders. shares_table: the embedding is the head's
    integers. Raises CheckpointError, and BitstreamError for the closed bitstream of the vendor.
    """

    kind: Literal["w8a8sc"] = "w8a8sc"

    def __init__(self, path: Path) -> None:
        self.path = path
        config = path / "config.json"
        self.config: dict[str, Any] = read_config(path)
        self.architecture = architecture_of(self.config, config)
        shape = ModelShape.from_config(self.config, config)
        directories = part_directories(path)
        if not directories:
            raise CheckpointError(f"{path}: no part0-of-1, part0-of-2 ... directories; get the checkpoint again")
        self.tp = len(directories)
        check_tp(shape, self.tp, path)
        self.parts = [
            Part(directory, self.architecture, shape, rank, self.tp) for rank, directory in enumerate(directories)
        ]
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
        """True if a linear such as "model.layers.0.mlp.up_proj" or "lm_head", or an own embedding is compressed."""
        if prefix == EMBEDDING:
            return self.parts[0].is_quantized(prefix)
        scope, group, _ = _member_of(prefix)
        return self.parts[0].is_quantized(f"{scope}{group.name}")

    def fused_groups(self) -> list[str]:
        """Prefixes of the compressed linears, such as "model.layers.0.self_attn.query_key_value"."""
        return [prefix for prefix in fused_groups(self.shape) if self.parts[0].is_quantized(prefix)]

    def shard(self, rank: int, tp: int, *, threads: int | None = None, fast: bool = False) -> Shard:
        """Return the shard that rank `rank` of `tp` loads, whatever number the directory was made for."""
        return ShardOfW8A8SC(self, rank, tp, threads, fast)

    @cached_property
    def whole(self) -> Shard:
        """The one shard of the whole model, made once; single tensors are read through it."""
        return self.shard(0, 1)

    def compressed_linear(self, prefix: str) -> CompressedLinear:
        """The whole fused linear; views of the mapped file where there is one part. Errors as of Shard."""
        return self.whole.compressed_linear(prefix)

    def compressed_embedding(self) -> CompressedEmbedding:
        """The whole embedding; views of the mapped file where there is one part."""
        return self.whole.compressed_embedding()

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
        prefix, _, leaf = name.rpartition(".")
        try:
            scope, group, member = _member_of(prefix)
        except KeyError:
            return self.whole.float_tensor(name)
        fused = f"{scope}{group.name}.{leaf}"
        if len(group.members) == 1:
            return self.whole.float_tensor(fused)
        shares = [part.float_tensor(fused) for part in self.parts]
        held = held_rows(self.shape, group, member, self.tp, (0, self.shape.linear(member)[0]))
        rows = [shares[rank][start:stop] for rank, start, stop in held]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def inventory(self) -> list[tuple[str, Stored]]:
        """Type and header of each tensor of each part."""
        return [entry for part in self.parts for entry in part.inventory()]

    def files(self) -> list[Path]:
        """The weight files of all parts."""
        return [file for part in self.parts for file in part.files()]

    def release(self) -> None:
        """Give back the memory of the pages that were read of the weight files: see `release_pages`."""
        release_pages(self.files())

    def auxiliary_files(self) -> list[Path]:
        return auxiliary_files(self.path)


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


def _member_of(prefix: str) -> tuple[str, FusedLinears, str]:
    """Return scope, group and the rest of the name of a linear. KeyError for any other name."""
    for group in (*GROUPS, HEAD):
        for member in group.members:
            if prefix == member or prefix.endswith(f".{member}"):
                scope, _ = group_of(f"{prefix.removesuffix(member)}{group.name}")
                return scope, group, member
    raise KeyError(prefix)
