"""The operator `torch.ops.tilepress.embed`: tokens looked up in a compressed embedding table."""

from __future__ import annotations

import torch
from torch import Tensor

from tilepress import _native
from tilepress.kernels.op import require

torch.library.define(
    "tilepress::embed",
    "(Tensor ids, Tensor weight, Tensor index, Tensor info, Tensor weight_scale, int hidden) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def embed(ids: Tensor, weight: Tensor, index: Tensor, info: Tensor, weight_scale: Tensor, hidden: int) -> Tensor:
    """Return float32(W[ids]) * weight_scale[ids], where W [vocab, hidden] is a compressed int8 matrix.

    Only the strips of 16 rows that hold wanted tokens are decoded. The result has the same bits for any number of
    threads and any instruction set.

    ids: int64 [...]. weight: int8 [x], index: int8 [y], info: int64 [5], as docs/reference/bitstream.md says.
    weight_scale: float32 [vocab]. Returns float32 [..., hidden].

    Raises IndexError for an id outside 0 ... vocab - 1, BitstreamError where compressed bytes that are needed are
    damaged, with the number of the tile, and ValueError for tensors of another dtype, shape or layout. On a CUDA
    device, for which the host does not wait, the first two cases give rows of not-a-number instead. There is no
    gradient.
    """
    rows: Tensor = _OPERATOR(ids, weight, index, info, weight_scale, hidden)
    return rows


def _embed_native(
    ids: Tensor, weight: Tensor, index: Tensor, info: Tensor, weight_scale: Tensor, hidden: int
) -> Tensor:
    if ids.dtype is not torch.int64:
        raise ValueError(f"ids is {ids.dtype} {list(ids.shape)}; torch.int64 is needed")
    require("weight", weight, torch.int8, weight.numel())
    require("index", index, torch.int8, index.numel())
    require("info", info, torch.int64, 5)
    require("weight_scale", weight_scale, torch.float32, weight_scale.numel())
    rows = torch.empty((*ids.shape, hidden))
    _native.embed(
        ids.contiguous().view(-1).numpy(),
        weight.view(-1).numpy(),
        index.view(-1).numpy(),
        info.view(-1).numpy(),
        weight_scale.view(-1).numpy(),
        rows.view(ids.numel(), hidden).numpy(),
        torch.get_num_threads(),
    )
    return rows


def _embed_fake(ids: Tensor, weight: Tensor, index: Tensor, info: Tensor, weight_scale: Tensor, hidden: int) -> Tensor:
    return ids.new_empty((*ids.shape, hidden), dtype=torch.float32)


torch.library.impl("tilepress::embed", "CPU", _embed_native)
torch.library.register_fake("tilepress::embed", _embed_fake)

_OPERATOR = torch.ops.tilepress.embed.default
