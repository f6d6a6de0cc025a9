"""The requirements of compressing a model on this machine, from the sizes of its tensors alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tilepress import codec
from tilepress.checkpoint import EMBEDDING, ModelShape
from tilepress.checkpoint.description import FLOAT
from tilepress.checkpoint.summary import stored_bits
from tilepress.checkpoint.tensors.activation_mode import is_dynamic
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint
from tilepress.compress.resume import written_bytes
from tilepress.machine.memory import available_bytes
from tilepress.machine.requirements import DISK_SPEED, Memory, Requirements, disk
from tilepress.models.architecture import HEAD, fused_groups

# Bytes resident on Linux with Python 3.11 and torch 2.13, before any tensor.
PROCESS = 400_000_000
SAMPLE = (2048, 4096)
# Bits of an int8 weight where no report gives them: it is taken for incompressible.
MOST_BITS = 8.0


@dataclass(frozen=True)
class Compressible:
    """A W8A8S model. head, embeddings: True where these are integers. output: bytes of the W8A8SC weight files."""

    shape: ModelShape
    head: bool
    embeddings: bool
    output: int


def compressible(checkpoint: W8A8SCheckpoint) -> Compressible:
    """Describe a W8A8S directory; its output follows from the bits in its report, or else from MOST_BITS."""
    bits = stored_bits(checkpoint.path) or MOST_BITS
    own_embedding = checkpoint.is_quantized(EMBEDDING) and not checkpoint.shares_table
    output = 0.0
    for kind, stored in checkpoint.inventory():
        is_integers = kind != FLOAT and len(stored.shape) == 2
        output += stored.nbytes * bits / 8 if is_integers else stored.nbytes
        if stored.dtype == torch.int32 and is_dynamic(checkpoint.activations, kind):
            output += stored.nbytes  # of a quant_bias, beside which a part has weight_sums
    return Compressible(checkpoint.shape, checkpoint.is_quantized(HEAD.name), own_embedding, round(output))


def plan_compression(model: Compressible, out: Path) -> Requirements:
    """Return peak memory, disk space, time and size of compressing `model` into `out`."""
    integers = {prefix: n * k for prefix, (n, k) in fused_groups(model.shape).items() if prefix != HEAD.name}
    table = model.shape.vocab * model.shape.hidden
    if model.head:
        integers[HEAD.name] = table
    if model.embeddings:
        integers[EMBEDDING] = table
    left = max(0, model.output - written_bytes(out))
    return Requirements(
        work="compress",
        memory=Memory(_peak(integers, model), available_bytes(), "free memory: a linear at a time is the least"),
        disks=(disk("the W8A8SC directory", out.absolute().parent, left, "write to another disk with -o"),),
        seconds=sum(integers.values()) / encoding_speed() + (sum(integers.values()) + model.output) / DISK_SPEED,
        output=model.output,
    )


def encoding_speed() -> float:
    """Measure the weights a second that all cores encode."""
    weights = np.random.default_rng(0).normal(0.0, 2.6, SAMPLE).round().clip(-127, 127).astype(np.int8)
    started = time.perf_counter()
    codec.encode(weights)
    return weights.size / (time.perf_counter() - started)


def _peak(integers: dict[str, int], model: Compressible) -> int:
    """Return the peak: a linear mapped, fused and encoded; or a table, not fused; or a float table, copied."""
    tables = {HEAD.name, EMBEDDING}
    floats = 2 * model.shape.vocab * model.shape.hidden if len(integers.keys() & tables) < 2 else 0
    encoded = max(0, model.output - floats) / sum(integers.values())
    largest = max(round(count * ((prefix not in tables) + 1 + encoded)) for prefix, count in integers.items())
    return PROCESS + max(largest, floats)
