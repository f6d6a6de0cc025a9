"""Floating-point operations of calibration and distillation, and the number that a processor is given."""

from __future__ import annotations

from tilepress.checkpoint import ModelShape
from tilepress.models.layer_inputs import FEEDS, LINEARS

# Floating-point operations for each core: some four minutes at the 50 GFLOP/s that a core with AVX-512 reaches in
# float32 on these shapes. A constant instead of a measurement makes results on a machine reproducible.
WORK_A_CORE = 12e12


def forward_work(shape: ModelShape, length: int) -> float:
    """Floating-point operations per token of a forward pass over the layers, in a sequence of `length` tokens."""
    linears = [shape.linear(name) for name in LINEARS]
    # Scores and values of each query head, over the half of the sequence that a token sees on average.
    attention = 2 * length * shape.heads * shape.head_dim
    return shape.layers * (sum(2.0 * n * k for n, k in linears) + attention)


def statistics_work(shape: ModelShape, length: int) -> float:
    """Floating-point operations per token of a forward pass over the layers with its Hessians."""
    hessians = sum(2 * shape.linear(feed.consumers[0])[1] ** 2 for feed in FEEDS)
    return shape.layers * hessians + forward_work(shape, length)


def sensitivity_work(shape: ModelShape, length: int) -> float:
    """Floating-point operations per token of the first pass: forward, forward again, backward, Hessians and head."""
    return 2 * forward_work(shape, length) + statistics_work(shape, length) + 3 * _head_work(shape)


def distillation_work(shape: ModelShape, length: int) -> float:
    """Floating-point operations per token of a step of distillation.

    The layers run forward, forward again and backward; the head forward and backward; the float head forward.
    """
    return 3 * (forward_work(shape, length) + _head_work(shape))


def block_work(shape: ModelShape, length: int) -> float:
    """Floating-point operations per token of a step in all layers' integers: the layers run forward and backward."""
    return 3 * forward_work(shape, length)


def _head_work(shape: ModelShape) -> float:
    return 2.0 * shape.vocab * shape.hidden
