"""An embedding that keeps its table compressed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tilepress.engines.operands import embedding_operands
from tilepress.kernels import embed

if TYPE_CHECKING:
    from tilepress.checkpoint import CompressedEmbedding as StoredEmbedding


class CompressedEmbedding(nn.Module):
    """Ids [...] give weight_scale[ids] * weight[ids], computed in float32, as [..., hidden] in dtype.

    Buffers: weight int8 [bytes], index int8 [8 * tiles], info int64 [5], weight_scale float32 [vocabulary].
    """

    weight: Tensor
    index: Tensor
    info: Tensor
    weight_scale: Tensor

    def __init__(self, stored: StoredEmbedding, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = stored.weight.shape
        for name, tensor in embedding_operands(stored).items():
            self.register_buffer(name, tensor)
        self._dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        rows = embed(ids, self.weight, self.index, self.info, self.weight_scale, self.embedding_dim)
        return rows.to(self._dtype)

    @property
    def bits(self) -> float:
        """Stored bits a weight: tiles, index and info."""
        stored = self.weight.nbytes + self.index.nbytes + self.info.nbytes
        return 8 * stored / (self.num_embeddings * self.embedding_dim)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, bits={self.bits:.2f}"
