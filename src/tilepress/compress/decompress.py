"""Decompression: a W8A8SC directory becomes the W8A8S directory that it was made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from tilepress import codec
from tilepress.checkpoint.description import FLOAT
from tilepress.checkpoint.open import open_checkpoint
from tilepress.checkpoint.tensors.activation_mode import row_sums
from tilepress.checkpoint.tensors.compressed_linear import naming_damage
from tilepress.checkpoint.tensors.embedding import EMBEDDING, QuantizedEmbedding
from tilepress.checkpoint.tensors.quantized_linear import QuantizedLinear, pack
from tilepress.checkpoint.w8a8s_writer import W8A8SWriter
from tilepress.checkpoint.w8a8sc import W8A8SCCheckpoint
from tilepress.errors import CheckpointError
from tilepress.models.architecture import group_of


def decompress_directory(
    source: str | Path,
    out: Path,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Join and decode the parts of `source` into the W8A8S directory `out`, bit for bit what was compressed.

    threads: threads of the decoder, all cores if None. progress: called with the number of fused linears done and of
    all. Raises CheckpointError where `source` is no W8A8SC directory or `out` exists, BitstreamError where it is
    damaged.
    """
    checkpoint = open_checkpoint(source)
    if not isinstance(checkpoint, W8A8SCCheckpoint):
        raise CheckpointError(f"{source}: is not compressed; give a W8A8SC directory")
    extra = checkpoint.description.extra
    with W8A8SWriter(out, checkpoint, dtype=checkpoint.dtype, description=extra) as writer:
        for name in checkpoint.float_names():
            writer.add_stored({name: checkpoint.float_tensor(name)}, FLOAT)
        if checkpoint.is_quantized(EMBEDDING):
            writer.add_embedding(decompressed_embedding(checkpoint, threads=threads))
        prefixes = checkpoint.fused_groups()
        for done, prefix in enumerate(prefixes, 1):
            for name, linear in decompressed_linears(checkpoint, prefix, threads=threads).items():
                writer.add_stored(pack(name, linear, checkpoint.dtype, wide_scale=True), linear.kind)
            checkpoint.release()
            if progress is not None:
                progress(done, len(prefixes))


def decompressed_linears(
    checkpoint: W8A8SCCheckpoint, prefix: str, *, threads: int | None = None
) -> dict[str, QuantizedLinear]:
    """Return the linears of a fused group by full name.

    Raises BitstreamError where the compressed bytes are damaged, CheckpointError where weight_sums are wrong.
    """
    scope, group = group_of(prefix)
    fused = checkpoint.compressed_linear(prefix)
    with naming_damage(checkpoint.path, prefix):
        weight = torch.from_numpy(codec.decode(fused.weight, threads=threads))
    if fused.weight_sums is not None and not torch.equal(fused.weight_sums, row_sums(weight)):
        raise CheckpointError(
            f"{checkpoint.path}: {prefix}.weight_sums are not the sums over the rows of {prefix}.weight; "
            "compress the model again"
        )
    rows = [checkpoint.shape.linear(member)[0] for member in group.members]
    fields = (torch.split(tensor, rows) for tensor in (weight, fused.deq_scale, fused.quant_bias))
    shares = zip(group.members, *fields, strict=True)
    return {
        f"{scope}{member}": QuantizedLinear(
            weight=matrix,
            input_scale=fused.input_scale,
            input_offset=fused.input_offset,
            deq_scale=deq_scale,
            quant_bias=quant_bias,
            kind=fused.kind,
        )
        for member, matrix, deq_scale, quant_bias in shares
    }


def decompressed_embedding(checkpoint: W8A8SCCheckpoint, *, threads: int | None = None) -> QuantizedEmbedding:
    """Return the quantized embedding. Raises BitstreamError where the compressed bytes are damaged."""
    embedding = checkpoint.compressed_embedding()
    with naming_damage(checkpoint.path, EMBEDDING):
        weight = torch.from_numpy(codec.decode(embedding.weight, threads=threads))
    return QuantizedEmbedding(weight, embedding.weight_scale)
