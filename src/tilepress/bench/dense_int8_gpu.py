"""A dense int8 product for a few tokens in Triton: the peer of the compressed one where torch has none."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS = 16
ROWS = 16  # few, so that a matrix of 4096 rows still occupies all multiprocessors
COLUMNS = 512


@triton.jit
def _multiply(matrix, x, sums, n, k, TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.arange(0, TOKENS)
    column = tl.arange(0, COLUMNS)
    weights = matrix + row.to(tl.int64)[:, None] * k + column[None, :]
    values = x + token[None, :] * k + column[:, None]
    products = tl.zeros([ROWS, TOKENS], tl.int32)
    for _ in range(0, k, COLUMNS):
        products = tl.dot(tl.load(weights), tl.load(values), products, out_dtype=tl.int32)
        weights += COLUMNS
        values += COLUMNS
    tl.store(sums + token[None, :] * n + row[:, None], products)


def multiply(x: Tensor, matrix: Tensor) -> Tensor:
    """Return x @ matrix.T, int32 [16, n], of x int8 [16, k] and matrix int8 [n, k]; n is a multiple of 16, k of 512."""
    n, k = matrix.shape
    sums = torch.empty((TOKENS, n), dtype=torch.int32, device=x.device)
    _multiply[(n // ROWS,)](matrix, x, sums, n, k, TOKENS=TOKENS, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=4, num_stages=4)
    return sums
