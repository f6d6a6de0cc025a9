"""A quantized model in memory, before it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from tilepress.checkpoint import QuantizedEmbedding, QuantizedLinear


class Sink(Protocol):
    """What takes the results in as they come; W8A8SWriter and CollectedModel are two."""

    def add_float(self, name: str, tensor: Tensor) -> None: ...
    def add_linear(self, prefix: str, linear: QuantizedLinear) -> None: ...
    def add_embedding(self, embedding: QuantizedEmbedding) -> None: ...


@dataclass
class CollectedModel:
    """gains: of the norms, float32, by tensor name. linears: by prefix. Weights are int8: a byte for each.

    activations: as in Recipe. shared: the head's integers are the embedding too.
    """

    activations: str
    shared: bool
    gains: dict[str, Tensor] = field(default_factory=dict)
    linears: dict[str, QuantizedLinear] = field(default_factory=dict)
    embedding: QuantizedEmbedding | None = None

    def add_float(self, name: str, tensor: Tensor) -> None:
        self.gains[name] = tensor

    def add_linear(self, prefix: str, linear: QuantizedLinear) -> None:
        self.linears[prefix] = linear

    def add_embedding(self, embedding: QuantizedEmbedding) -> None:
        self.embedding = embedding

    def write(self, sink: Sink) -> None:
        """Hand everything on to `sink`."""
        for name, gain in self.gains.items():
            sink.add_float(name, gain)
        for prefix, linear in self.linears.items():
            sink.add_linear(prefix, linear)
        if self.embedding is not None:
            sink.add_embedding(self.embedding)
