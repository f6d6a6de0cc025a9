"""Making one part of a W8A8SC directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from tilepress import codec
from tilepress.checkpoint.activations import has_own_scales, row_sums
from tilepress.checkpoint.architecture import FusedGroup, fused_groups, group_of
from tilepress.checkpoint.compressed_linear import CompressedLinear
from tilepress.checkpoint.descriptions import FLOAT, W8A8S, W8A8SC, write_description
from tilepress.checkpoint.embedding import EMBEDDING
from tilepress.checkpoint.quantized_linear import pack_scales
from tilepress.checkpoint.split import columns, member_rows
from tilepress.checkpoint.staging import save_tensors, writing
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint

WEIGHTS = "quant_model_weight_w8a8sc.safetensors"


def write_part(
    source: W8A8SCheckpoint,
    out: Path,
    *,
    tp: int,
    rank: int,
    threads: int | None = None,
    step: Callable[[], None] | None = None,
) -> None:
    """Write `part{rank}-of-{tp}` into the directory `out`; `step` is called after each compressed linear.

    Memory: the compressed tensors of the part; what is read is mapped. Raises CheckpointError.
    """
    tensors: dict[str, Tensor] = {}
    types: dict[str, str] = {}
    for prefix in source.fused_groups():
        linear = _compress(source, prefix, tp, rank, threads)
        compressed = _compressed_tensors(prefix, linear.weight)
        scales = pack_scales(prefix, linear, source.dtype, wide_scale=True)
        if linear.weight_sums is not None:
            scales[f"{prefix}.weight_sums"] = linear.weight_sums
        tensors |= compressed | scales
        types |= dict.fromkeys(compressed, W8A8SC) | dict.fromkeys(scales, linear.kind)
        if step is not None:
            step()
    if source.is_quantized(EMBEDDING):
        rows = _embedding_rows(source, tp, rank)
        embedding = source.embedding()
        compressed = _compressed_tensors(EMBEDDING, codec.encode(embedding.weight[rows].numpy(), threads=threads))
        scales = {f"{EMBEDDING}.weight_scale": embedding.weight_scale[rows].contiguous()}
        tensors |= compressed | scales
        types |= dict.fromkeys(compressed, W8A8SC) | dict.fromkeys(scales, W8A8S)
    for name, tensor in _floats(source, tp, rank):
        tensors[name] = tensor.contiguous()
        types[name] = FLOAT
    part = out / f"part{rank}-of-{tp}"
    with writing(out, sum(tensor.nbytes for tensor in tensors.values())):
        part.mkdir()
        save_tensors(tensors, part / WEIGHTS)
        write_description(part, W8A8SC, types, source.description.extra)


def _compressed_tensors(prefix: str, compressed: codec.Compressed) -> dict[str, Tensor]:
    return {
        f"{prefix}.weight": torch.from_numpy(compressed.weight),
        f"{prefix}.index": torch.from_numpy(compressed.index),
        f"{prefix}.info": torch.from_numpy(compressed.info),
    }


def _embedding_rows(source: W8A8SCheckpoint, tp: int, rank: int) -> slice:
    rows = source.shape.vocab // tp
    return slice(rank * rows, (rank + 1) * rows)


def _compress(source: W8A8SCheckpoint, prefix: str, tp: int, rank: int, threads: int | None) -> CompressedLinear:
    scope, group = group_of(prefix)
    linears = [source.linear(f"{scope}{member}") for member in group.members]
    deq_scale = _rows([linear.deq_scale for linear in linears], source, group, tp, rank)
    quant_bias = _rows([linear.quant_bias for linear in linears], source, group, tp, rank)
    if group.axis == "columns" and rank > 0:  # the ranks' results are added up
        quant_bias = torch.zeros_like(quant_bias)
    weight = _share([linear.weight for linear in linears], source, group, tp, rank)
    return CompressedLinear(
        weight=codec.encode(weight.contiguous().numpy(), threads=threads),
        input_scale=linears[0].input_scale,
        input_offset=linears[0].input_offset,
        deq_scale=deq_scale,
        quant_bias=quant_bias,
        weight_sums=row_sums(weight) if has_own_scales(source.activations, linears[0].kind) else None,
        kind=linears[0].kind,
    )


def _floats(source: W8A8SCheckpoint, tp: int, rank: int) -> Iterator[tuple[str, Tensor]]:
    """The rank's share of each float tensor under its fused name."""
    names = source.float_names()
    fused: set[str] = set()
    for prefix in fused_groups(source.shape):
        scope, group = group_of(prefix)
        for leaf in ("weight", "bias"):
            members = [f"{scope}{member}.{leaf}" for member in group.members]
            if members[0] not in names:
                continue
            fused.update(members)
            stored = [source.float_tensor(member) for member in members]
            if leaf == "weight":
                share = _share(stored, source, group, tp, rank)
            else:
                share = _rows(stored, source, group, tp, rank)
                if group.axis == "columns" and rank > 0:
                    share = torch.zeros_like(share)
            yield f"{prefix}.{leaf}", share
    for name in names:
        if name in fused:
            continue
        tensor = source.float_tensor(name)
        if name == f"{EMBEDDING}.weight":
            tensor = tensor[_embedding_rows(source, tp, rank)]
        yield name, tensor


def _share(matrices: list[Tensor], source: W8A8SCheckpoint, group: FusedGroup, tp: int, rank: int) -> Tensor:
    """The rank's rows or columns of the members' matrices [n, k], fused."""
    if group.axis == "rows":
        return _rows(matrices, source, group, tp, rank)
    start, stop = columns(source.shape, group, tp, rank)
    return matrices[0][:, start:stop]


def _rows(tensors: list[Tensor], source: W8A8SCheckpoint, group: FusedGroup, tp: int, rank: int) -> Tensor:
    """What belongs to the rank's rows, of tensors with a row for each output channel."""
    if group.axis == "columns":
        return tensors[0]
    spans = [member_rows(source.shape, member, tp, rank) for member in group.members]
    return torch.cat([tensor[start:stop] for tensor, (start, stop) in zip(tensors, spans, strict=True)])
