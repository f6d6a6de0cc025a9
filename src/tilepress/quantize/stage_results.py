"""What one stage of the second pass makes, in the form in which it is stored."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tilepress.checkpoint import QuantizedEmbedding, QuantizedLinear
from tilepress.checkpoint.descriptions import FLOAT, W8A8S
from tilepress.checkpoint.quantized_linear import pack
from tilepress.checkpoint.stored_float import stored_float


class StageResults:
    """A Sink. tensors, types: by name; flushed: name -> count of the values that became zero in dtype.

    source: named in errors. dtype: "float16" or "bfloat16", the flavour.
    """

    def __init__(self, source: Path, dtype: str) -> None:
        self._source, self._dtype = source, dtype
        self.tensors: dict[str, Tensor] = {}
        self.types: dict[str, str] = {}
        self.flushed: dict[str, int] = {}

    def add_float(self, name: str, tensor: Tensor) -> None:
        """Raises CheckpointError as `stored_float` does."""
        self.tensors[name], flushed = stored_float(name, tensor, self._dtype, self._source)
        self.types[name] = FLOAT
        if flushed:
            self.flushed[name] = flushed

    def add_linear(self, prefix: str, linear: QuantizedLinear) -> None:
        """Raises CheckpointError as `pack` does."""
        self._add(pack(prefix, linear, self._dtype), linear.kind)

    def add_embedding(self, embedding: QuantizedEmbedding) -> None:
        self._add(embedding.tensors(), W8A8S)

    def _add(self, tensors: dict[str, Tensor], kind: str) -> None:
        self.tensors |= tensors
        self.types |= dict.fromkeys(tensors, kind)
