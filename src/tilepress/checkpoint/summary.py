"""A checkpoint in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilepress import codec
from tilepress.checkpoint.float_checkpoint import FloatCheckpoint
from tilepress.checkpoint.open import Checkpoint
from tilepress.checkpoint.tensors.embedding import EMBEDDING
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint
from tilepress.checkpoint.w8a8sc import W8A8SCCheckpoint
from tilepress.jobs.json_files import read_object
from tilepress.models.architecture import HEAD, linear_shapes


@dataclass(frozen=True)
class TensorCount:
    tensors: int
    nbytes: int


@dataclass(frozen=True)
class Summary:
    """kind: "float", "w8a8s" or "w8a8sc"; tp: parts of a W8A8SC directory, else 1.

    activations: the mode of a quantized directory, one of MODES of `activation_mode`; None for a float one.
    types: tensors and bytes by type (FLOAT, W8A8S, W8A8S_DYNAMIC, W8A8SC), as stored, over all parts.
    linear_weights: weights of all decoder linears, and of head and embedding where they are quantized.
    quantized_weights: those of them that are integers. The next three describe these, and are None where there are
    none. bits_per_weight: bits of weight, index and info in the files, copies of kv heads included. zeros: the share of
    weights that are 0. entropy: order-0 entropy in bits a weight, each stored matrix by itself.
    estimated_loss: increase of the loss by quantization, nats a token, by the directory's report; None without one.
    weight_bytes: size of the weight files; total_bytes: of all files.
    """

    kind: str
    architecture: str
    layers: int
    tp: int
    activations: str | None
    types: dict[str, TensorCount]
    linear_weights: int
    quantized_weights: int
    bits_per_weight: float | None
    zeros: float | None
    entropy: float | None
    estimated_loss: float | None
    weight_bytes: int
    total_bytes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        bits = (
            ""
            if self.bits_per_weight is None
            else f", {self.bits_per_weight:.3f} bits a weight, {self.zeros:.1%} zeros"
        )
        return f"{self.kind}, {self.architecture}, {self.layers} layers{bits}, {self.total_bytes / 1e6:.1f} MB"


def summarize(checkpoint: Checkpoint, *, progress: Callable[[int, int], None] | None = None) -> Summary:
    """Return the summary of a checkpoint. Reads every quantized weight once, one at a time.

    progress: called with the number of matrices read and of all. Raises CheckpointError and BitstreamError for damage.
    """
    types: dict[str, TensorCount] = {}
    for kind, stored in checkpoint.inventory():
        before = types.get(kind, TensorCount(0, 0))
        types[kind] = TensorCount(before.tensors + 1, before.nbytes + stored.nbytes)
    seen = zeros = nbytes = 0
    bits = 0.0
    matrices = list(_matrices(checkpoint))
    for done, read in enumerate(matrices, 1):
        matrix, size = read()
        seen += matrix.size
        zeros += matrix.size - int(np.count_nonzero(matrix))
        bits += codec.entropy(matrix) * matrix.size
        nbytes += size
        checkpoint.release()
        if progress is not None:
            progress(done, len(matrices))
    linears = {prefix: n * k for prefix, (n, k) in linear_shapes(checkpoint.shape).items()}
    quantized = 0
    if not isinstance(checkpoint, FloatCheckpoint):
        for table in (HEAD.name, EMBEDDING):
            if checkpoint.is_quantized(table):
                linears[table] = checkpoint.shape.vocab * checkpoint.shape.hidden
        quantized = sum(weights for prefix, weights in linears.items() if checkpoint.is_quantized(prefix))
    return Summary(
        kind=checkpoint.kind,
        architecture=checkpoint.architecture.name,
        layers=checkpoint.shape.layers,
        tp=checkpoint.tp if isinstance(checkpoint, W8A8SCCheckpoint) else 1,
        activations=None if isinstance(checkpoint, FloatCheckpoint) else checkpoint.activations,
        types=types,
        linear_weights=sum(linears.values()),
        quantized_weights=quantized,
        bits_per_weight=8 * nbytes / quantized if quantized else None,
        zeros=zeros / seen if seen else None,
        entropy=bits / seen if seen else None,
        estimated_loss=estimated_loss(checkpoint.path),
        weight_bytes=sum(file.stat().st_size for file in checkpoint.files()),
        total_bytes=sum(file.stat().st_size for file in checkpoint.path.rglob("*") if file.is_file()),
    )


def _matrices(checkpoint: Checkpoint) -> Iterator[Callable[[], tuple[NDArray[np.int8], int]]]:
    """Yield, for each stored integer matrix, a function that returns it and its bytes in the file."""
    if isinstance(checkpoint, W8A8SCheckpoint):
        for prefix in checkpoint.quantized_linears():
            yield partial(_stored_matrix, checkpoint, prefix)
        if checkpoint.is_quantized(EMBEDDING):
            yield partial(_stored_matrix, checkpoint, EMBEDDING)
    elif isinstance(checkpoint, W8A8SCCheckpoint):
        for part in checkpoint.parts:
            for prefix in checkpoint.fused_groups():
                yield partial(part.matrix, prefix)
            if checkpoint.is_quantized(EMBEDDING):
                yield partial(part.matrix, EMBEDDING)


def _stored_matrix(checkpoint: W8A8SCheckpoint, prefix: str) -> tuple[NDArray[np.int8], int]:
    weight = (checkpoint.embedding() if prefix == EMBEDDING else checkpoint.linear(prefix)).weight
    return weight.numpy(), weight.nbytes


REPORT = "quantization_report.json"


def estimated_loss(directory: Path) -> float | None:
    """Return the increase of the loss by quantization, nats a token, by the directory's report; None without one.

    Raises CheckpointError for a report that is no JSON object.
    """
    return _number(directory, "loss")


def stored_bits(directory: Path) -> float | None:
    """Return the codec's bits a weight for the directory's integers, by its report. Else as `estimated_loss`."""
    return _number(directory, "bits")


def _number(directory: Path, key: str) -> float | None:
    if not (directory / REPORT).is_file():
        return None
    value = read_object(directory / REPORT).get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
