"""A quantized model in memory, before it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from tilepress.checkpoint import QuantizedEmbedding, QuantizedLinear
from tilepress.checkpoint.description import FLOAT, W8A8S
from tilepress.checkpoint.tensors.quantized_linear import pack
from tilepress.checkpoint.tensors.stored_float import stored_float


class Sink(Protocol):
    """A receiver of quantized tensors as they are made, such as W8A8SWriter and CollectedModel."""

    def add_float(self, name: str, tensor: Tensor) -> None: ...
    def add_linear(self, prefix: str, linear: QuantizedLinear) -> None: ...
    def add_embedding(self, embedding: QuantizedEmbedding) -> None: ...


@dataclass
class CollectedModel:
    """A Sink that keeps everything. gains: of the norms, float32, by tensor name. linears: by prefix.

    floats: weights and biases of linears that stay float, as stored, by tensor name.

    Weights are int8, a byte each. activations: as in Recipe. shared: the head's integers are the embedding too.
    flushed: name -> count of the values that became zero in the stored dtype already.
    """

    activations: str
    shared: bool
    gains: dict[str, Tensor] = field(default_factory=dict)
    linears: dict[str, QuantizedLinear] = field(default_factory=dict)
    floats: dict[str, Tensor] = field(default_factory=dict)
    embedding: QuantizedEmbedding | None = None
    flushed: dict[str, int] = field(default_factory=dict)

    def add_float(self, name: str, tensor: Tensor) -> None:
        if "norm" in name:
            self.gains[name] = tensor.float()
        else:
            self.floats[name] = tensor

    def add_linear(self, prefix: str, linear: QuantizedLinear) -> None:
        self.linears[prefix] = linear

    def add_embedding(self, embedding: QuantizedEmbedding) -> None:
        self.embedding = embedding

    def float_linears(self) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Prefix -> weight and bias of the linears that stay float."""
        prefixes = [name.removesuffix(".weight") for name in self.floats if name.endswith(".weight")]
        return {prefix: (self.floats[f"{prefix}.weight"], self.floats.get(f"{prefix}.bias")) for prefix in prefixes}

    def write(self, sink: Sink) -> None:
        """Hand everything on to `sink`."""
        for name, tensor in {**self.gains, **self.floats}.items():
            sink.add_float(name, tensor)
        for prefix, linear in self.linears.items():
            sink.add_linear(prefix, linear)
        if self.embedding is not None:
            sink.add_embedding(self.embedding)


class StageResults:
    """A Sink for the stored tensors of one stage. tensors, types: by name.

    flushed: name -> count of the values that became zero in dtype. source: named in errors. dtype: "float16" or
    "bfloat16".
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
