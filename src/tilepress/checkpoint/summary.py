"""What a checkpoint holds, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tilepress import codec
from tilepress.checkpoint.float_checkpoint import FloatCheckpoint
from tilepress.checkpoint.open import Checkpoint
from tilepress.checkpoint.tensors.compressed_linear import naming_damage
from tilepress.checkpoint.tensors.embedding import EMBEDDING
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint
from tilepress.checkpoint.w8a8sc import W8A8SCCheckpoint
from tilepress.checkpoint.w8a8sc_part import Part
from tilepress.jobs.json_files import read_object
from tilepress.models.architecture import HEAD, linear_shapes


@dataclass(frozen=True)
class TensorCount:
    tensors: int
    nbytes: int


@dataclass(frozen=True)
class Summary:
    """kind: "float", "w8a8s" or "w8a8sc"; tp: parts of a W8A8SC directory, else 1.

    activations: "overflow", "static" or "per-token", what a quantized directory was made for; None of a float one.
    types: by type (FLOAT, W8A8S, W8A8S_DYNAMIC, W8A8SC), as stored, over all parts. linear_weights: weights of all
    decoder linears, and of head and embedding where they are quantized; quantized_weights: those of them that are
    integers. Of these: bits_per_weight, file bits of weight, index and info for each, copies of kv heads included;
    zeros, the share that is 0; entropy, order-0 in bits a weight, of each stored matrix by itself. None where no linear
    is quantized. estimated_loss: what quantization adds to the loss, nats a token, by the directory's report; None
    without one.
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


def summarize(checkpoint: Checkpoint, *, progress: Callable[[int, int], None] | None = None) -> Summary:
    """Reads every quantized weight once and holds one at a time.

    Raises CheckpointError and BitstreamError for damaged ones.
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
    """For each stored integer matrix, what reads it and gives it with its size in the file."""
    if isinstance(checkpoint, W8A8SCheckpoint):
        for prefix in checkpoint.quantized_linears():
            yield partial(_stored_matrix, checkpoint, prefix)
        if checkpoint.is_quantized(EMBEDDING):
            yield partial(_stored_matrix, checkpoint, EMBEDDING)
    elif isinstance(checkpoint, W8A8SCCheckpoint):
        for part in checkpoint.parts:
            for prefix in checkpoint.fused_groups():
                yield partial(_compressed_matrix, part, prefix)
            if checkpoint.is_quantized(EMBEDDING):
                yield partial(_compressed_matrix, part, EMBEDDING)


def _stored_matrix(checkpoint: W8A8SCheckpoint, prefix: str) -> tuple[NDArray[np.int8], int]:
    weight = (checkpoint.embedding() if prefix == EMBEDDING else checkpoint.linear(prefix)).weight
    return weight.numpy(), weight.nbytes


def _compressed_matrix(part: Part, prefix: str) -> tuple[NDArray[np.int8], int]:
    weight = (part.compressed_embedding() if prefix == EMBEDDING else part.compressed_linear(prefix)).weight
    with naming_damage(part.path, prefix):
        return codec.decode(weight), weight.nbytes


REPORT = "quantization_report.json"


def estimated_loss(directory: Path) -> float | None:
    """What the directory's report says quantization adds to the loss, nats a token; None where nothing says so.

    Raises CheckpointError for a report that is no JSON object.
    """
    return _number(directory, "loss")


def stored_bits(directory: Path) -> float | None:
    """Bits a weight that the codec takes for the directory's integers, by its report. None and errors as above."""
    return _number(directory, "bits")


def _number(directory: Path, key: str) -> float | None:
    if not (directory / REPORT).is_file():
        return None
    value = read_object(directory / REPORT).get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
