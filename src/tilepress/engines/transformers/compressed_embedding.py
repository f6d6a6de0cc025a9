"""An embedding that keeps its table compressed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tilepress.engines.operands import embedding_operands
from tilepress.kernels import embed

if TYPE_CHECKING:
    from tilepress.checkpoint import CompressedEmbedding as StoredTable


def moved(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """Return the tensor where `fn` puts it, in the dtype that it has: scales in 16 bits would change every output."""
    put = fn(tensor)
    return put if put.dtype == tensor.dtype else tensor.to(put.device)


def changed(fn: Callable[[Tensor], Tensor], dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to which `fn` converts tensors of `dtype`."""
    return fn(torch.empty(0, dtype=dtype)).dtype


class CompressedEmbedding(nn.Module):
    """Ids [...] give weight_scale[ids] * weight[ids], computed in float32, as [..., hidden] in dtype.

    Buffers: weight int8 [bytes], index int8 [8 * tiles], info int64 [5], weight_scale float32 [vocabulary].
    """

    weight: Tensor
    index: Tensor
    info: Tensor
    weight_scale: Tensor

    def __init__(self, stored: StoredTable, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = stored.weight.shape
        for name, tensor in embedding_operands(stored).items():
            self.register_buffer(name, tensor)
        self._dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        rows = embed(ids, self.weight, self.index, self.info, self.weight_scale, self.embedding_dim)
        return rows.to(self._dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompressedEmbedding:
        """Called by `to`, `half` and the like: moves the buffers, and changes the dtype of the results alone."""
        super()._apply(partial(moved, fn), recurse)  # type: ignore[no-untyped-call]
        self._dtype = changed(fn, self._dtype)
        return self

    @property
    def bits(self) -> float:
        """Stored bits a weight: tiles, index and info."""
        stored = self.weight.nbytes + self.index.nbytes + self.info.nbytes
        return 8 * stored / (self.num_embeddings * self.embedding_dim)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, bits={self.bits:.2f}"


# Rows of the head widened at a time, which stay in cache: for 4 to 128 positions this takes 0.8 to 1.0 of the time of a
# float32 head, where multiplying in 16 bits took 2.5 times (16 positions) to 5 times (128) as much.
ROWS = 2048


class StoredEmbedding(nn.Module):
    """table: float16 or bfloat16 [vocabulary, hidden]. Ids [...] give [..., hidden] in dtype."""

    weight: Tensor

    def __init__(self, table: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", table)
        self._dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.weight).to(self._dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StoredEmbedding:
        """As of CompressedEmbedding."""
        super()._apply(partial(moved, fn), recurse)  # type: ignore[no-untyped-call]
        self._dtype = changed(fn, self._dtype)
        return self

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}, {self.weight.dtype}"


class StoredHead(nn.Module):
    """table: float16 or bfloat16 [vocabulary, hidden]. x [..., hidden] gives logits [..., vocabulary] in x's dtype.

    Several positions are multiplied in float32. A single one, as when a token is generated, is rounded to the table's
    type, and so are its logits: an error of 0.03 % (float16) or 0.2 % (bfloat16) of their spread.
    """

    weight: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", table)

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() == x.shape[-1]:
            return nn.functional.linear(x.to(self.weight.dtype), self.weight).to(x.dtype)
        blocks = torch.split(self.weight, ROWS)
        return torch.cat([nn.functional.linear(x, block.to(x.dtype)) for block in blocks], dim=-1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StoredHead:
        """As of CompressedEmbedding; the dtype of the results is that of x."""
        super()._apply(partial(moved, fn), recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        return f"in_features={self.weight.shape[1]}, out_features={self.weight.shape[0]}, {self.weight.dtype}"
