"""Comparing a W8A8SC directory with a W8A8S directory, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from tilepress.checkpoint.open import open_checkpoint
from tilepress.checkpoint.tensors.embedding import EMBEDDING
from tilepress.checkpoint.tensors.quantized_linear import QuantizedLinear
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint
from tilepress.checkpoint.w8a8sc import W8A8SCCheckpoint
from tilepress.compress.decompress import decompressed_embedding, decompressed_linears
from tilepress.errors import CheckpointError


@dataclass(frozen=True)
class Verification:
    """linears, floats: how many were compared; a quantized embedding with integers of its own is one of the linears.

    differing: names of those that are not the same bit for bit.
    """

    linears: int
    floats: int
    differing: list[str]

    @property
    def same(self) -> bool:
        return not self.differing


def verify(
    quantized: str | Path, compressed: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> Verification:
    """Compare linears (integers, scales, biases), embedding and float tensors of a W8A8S directory with a W8A8SC one.

    progress: called with the fused linears done and their number. Raises CheckpointError, BitstreamError.
    """
    source, made = open_checkpoint(quantized), open_checkpoint(compressed)
    if not isinstance(source, W8A8SCheckpoint):
        raise CheckpointError(f"{quantized}: is not a W8A8S directory, but {source.kind}")
    if not isinstance(made, W8A8SCCheckpoint):
        raise CheckpointError(f"{compressed}: is not a W8A8SC directory, but {made.kind}")
    if made.activations != source.activations:
        raise CheckpointError(
            f"{compressed}: was made for {made.activations} activations, {quantized} for {source.activations}; "
            "compress again"
        )
    differing: list[str] = []
    linears = source.quantized_linears()
    prefixes = made.fused_groups()
    found: set[str] = set()
    for done, prefix in enumerate(prefixes, 1):
        for name, linear in decompressed_linears(made, prefix).items():
            found.add(name)
            if name not in linears or not _same_linear(source.linear(name), linear):
                differing.append(name)
        _release(source, made)
        if progress is not None:
            progress(done, len(prefixes))
    differing += sorted(set(linears) - found)
    embedding = source.is_quantized(EMBEDDING)
    if source.shares_table != made.shares_table or (
        embedding and made.is_quantized(EMBEDDING) and not _same_embedding(source, made)
    ):
        differing.append(EMBEDDING)
    _release(source, made)
    floats = sorted({*source.float_names(), *made.float_names()})
    both = set(source.float_names()) & set(made.float_names())
    for name in floats:
        if name not in both or not _same(source.float_tensor(name), made.float_tensor(name)):
            differing.append(name)
        _release(source, made)
    return Verification(len(linears) + embedding, len(floats), differing)


def _release(source: W8A8SCheckpoint, made: W8A8SCCheckpoint) -> None:
    source.release()
    made.release()


def _same_embedding(source: W8A8SCheckpoint, made: W8A8SCCheckpoint) -> bool:
    stored, decoded = source.embedding(), decompressed_embedding(made)
    return _same(stored.weight, decoded.weight) and _same(stored.weight_scale, decoded.weight_scale)


def _same_linear(one: QuantizedLinear, other: QuantizedLinear) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(QuantizedLinear)]
    return all(_same(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def _same(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
