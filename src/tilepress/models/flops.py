"""Floating-point operations of what calibration does to a model, and how many a processor is given."""

from __future__ import annotations

from tilepress.checkpoint import ModelShape
from tilepress.models.layer_inputs import FEEDS, LINEARS

# What a core is given: some four minutes at the 50 GFLOP/s that one of AVX-512 reaches in float32 on these shapes. A
# number and no measurement, so that a machine gives the same bytes twice.
WORK_A_CORE = 12e12


def forward_work(shape: ModelShape, length: int) -> float:
    """A token of one forward pass over the layers, in a sequence of `length`."""
    linears = [shape.linear(name) for name in LINEARS]
    # Scores and values of each query head, over the half of the sequence that a token sees on average.
    attention = 2 * length * shape.heads * shape.head_dim
    return shape.layers * (sum(2.0 * n * k for n, k in linears) + attention)


def statistics_work(shape: ModelShape, length: int) -> float:
    """A token of one forward pass over the layers with its Hessians."""
    hessians = sum(2 * shape.linear(feed.consumers[0])[1] ** 2 for feed in FEEDS)
    return shape.layers * hessians + forward_work(shape, length)


def sensitivity_work(shape: ModelShape, length: int) -> float:
    """A token of forward, the layers again, backward, Hessians and the head."""
    return 2 * forward_work(shape, length) + statistics_work(shape, length) + 3 * _head_work(shape)


def distillation_work(shape: ModelShape, length: int) -> float:
    """A token of a step: the layers forward, again, and backward; the head forward, backward, and the float one's."""
    return 3 * (forward_work(shape, length) + _head_work(shape))


def _head_work(shape: ModelShape) -> float:
    return 2.0 * shape.vocab * shape.hidden
