"""Throughput of this machine for the main operations of a quantization, measured in about a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tilepress.quantize.rate.rounding_rule import LARGEST
from tilepress.quantize.rounding.gptq import round_weights
from tilepress.quantize.statistics.hessian import HessianFactor
from tilepress.quantize.statistics.triangular import inverse_of_upper

# Wide enough to run at about the speed of the widths of real models, small enough for half a second.
COLUMNS, ROWS = 1024, 1024
REPEATS = 2
# What spreading errors over the rows of a block costs a weight, in columns that they are spread over: on two cores of a
# Zen 4, 4096 x 4096 take .54 s without it and .72 s with it.
ROW_FEEDBACK = 1700
# What the refinement costs a weight, in such columns: first a share of all columns, then in each sweep a number of
# them and a share. On the same machine 24 sweeps over 4096 x 4096 and 4096 x 12288 take 6.3 s and 45 s.
REFINEMENT = (2.3, 400, 0.3)


@dataclass(frozen=True)
class Throughput:
    """Floating-point operations per second.

    product: of a product of float32 matrices. factor: of a Cholesky factor and its inverse. rounding: of rounding with
    error feedback over columns, which takes n · k² for a weight [n, k].
    """

    product: float
    factor: float
    rounding: float


def measure_throughput(device: torch.device) -> Throughput:
    """Measure the throughput of `device` now; other programs on the machine make it less."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2 * COLUMNS, COLUMNS, generator=generator).to(device)
    hessian = inputs.T @ inputs / len(inputs)
    weight = torch.randn(ROWS, COLUMNS, generator=generator).to(device)
    upper = torch.linalg.cholesky(hessian).T.contiguous()
    factor = HessianFactor(torch.arange(COLUMNS, device=device), upper, hessian, 0.0)
    steps = torch.full((ROWS,), 0.5, device=device)
    lengths = torch.full((LARGEST + 1,), 4.0, device=device)
    product = _fastest(lambda: inputs.T @ inputs)
    factoring = _fastest(lambda: inverse_of_upper(torch.linalg.cholesky(hessian).T))
    rounding = _fastest(lambda: round_weights(weight, steps, factor, lengths))  # the first run computes the feedback
    return Throughput(
        product=2.0 * len(inputs) * COLUMNS**2 / product,
        factor=(cholesky_work(COLUMNS) + inverse_work(COLUMNS)) / factoring,
        rounding=rounding_work(ROWS, COLUMNS) / rounding,
    )


def cholesky_work(columns: int) -> float:
    """Floating-point operations of a Cholesky factor."""
    return columns**3 / 3


def inverse_work(columns: int) -> float:
    """Floating-point operations of the inverse of a triangular matrix."""
    return columns**3 / 3


def rounding_work(rows: int, columns: int, row_feedback: bool = False) -> float:
    """Floating-point operations of spreading the error of each column over the columns after it, and over rows."""
    return float(rows) * columns * (columns + row_feedback * ROW_FEEDBACK)


def refinement_work(rows: int, columns: int, sweeps: int) -> float:
    """Floating-point operations of rounding that take as long as the refinement."""
    start, visit, change = REFINEMENT
    return float(rows) * columns * (start * columns + sweeps * (visit + change * columns))


def _fastest(work: Callable[[], Tensor]) -> float:
    """Seconds of the fastest of some repeats."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        result = work()
        result.flatten()[0].item()  # waits for a device
        times.append(time.perf_counter() - started)
    return min(times)
