"""The product for many tokens: panels of rows are decoded to plain int8, and multiplied from the second-level cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilepress.kernels.triton.activations import quantize
from tilepress.kernels.triton.decode import decode_rows, scratch_memory
from tilepress.kernels.triton.fast_form import whole_rows
from tilepress.kernels.triton.fast_form.form import FastMatrix
from tilepress.kernels.triton.machine import shared_memory
from tilepress.kernels.triton.matrix import DeviceMatrix, Matrix
from tilepress.kernels.triton.operands import Operands
from tilepress.kernels.triton.output import narrow, scale_sums

# Bytes of int8 weights that exist at once. An H100 has 50 MB of second-level cache, an A100 40.
PANEL_BYTES = 32 << 20
BLOCK_ROWS = 128


@dataclass(frozen=True)
class Blocks:
    """A program multiplies `tokens` tokens by BLOCK_ROWS rows, `columns` at a step, with `stages` steps in flight."""

    tokens: int
    columns: int
    stages: int
    warps: int


def choose_blocks(tokens: int, shared_bytes: int) -> Blocks:
    """Return the blocks for `tokens` tokens on a device whose programs have up to `shared_bytes` of shared memory."""
    block = min(128, max(16, triton.next_power_of_2(tokens)))
    warps = 8 if block == 128 else 4
    for columns, stages in ((128, 4), (128, 3), (64, 3)):
        if (block + BLOCK_ROWS) * columns * stages <= shared_bytes:
            return Blocks(block, columns, stages, warps)
    return Blocks(block, 64, 2, warps)


@triton.jit
def _multiply_panel(
    panel,
    values,
    width,
    tokens,
    y,
    n,
    first_row,
    rows,
    ratio,
    offset,
    input_offset,
    deq_scale,
    quant_bias,
    weight_sums,
    damaged,
    OWN: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute y of TOKENS tokens x ROWS rows. Blocks reach beyond tokens and rows, not beyond the memory of both."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    step = tl.arange(0, COLUMNS)
    x = values + token.to(tl.int64)[:, None] * width + step[None, :]
    weights = panel + row[None, :] * width + step[:, None]
    sums = tl.zeros([TOKENS, ROWS], tl.int32)
    for _ in range(0, width, COLUMNS):
        sums = tl.dot(tl.load(x), tl.load(weights), sums, out_dtype=tl.int32)
        x += COLUMNS
        weights += COLUMNS
    row = (first_row + row)[None, :]
    token = token[:, None]
    there = (token < tokens) & (row < first_row + rows)
    result = scale_sums(
        sums, token, row, n, ratio, offset, input_offset, deq_scale, quant_bias, weight_sums, token < tokens, OWN
    )
    wrong = tl.load(damaged + row // 16, mask=row < n, other=0) != 0
    result = tl.where(wrong, float("nan"), result)
    tl.store(y + token.to(tl.int64) * n + row, narrow(result, y.dtype.element_ty), mask=there)


def _panel_decoder(matrix: DeviceMatrix) -> Callable[[Tensor, Tensor, int], None]:
    """Return a function of (out, damaged, first_row): see `decode.decode_rows`."""
    if isinstance(matrix, FastMatrix):
        return partial(whole_rows.decode_rows, matrix)
    assert isinstance(matrix, Matrix)
    scratch = scratch_memory(matrix)
    return lambda out, damaged, first_row: decode_rows(matrix, out, damaged, scratch, first_row)


def multiply(x: Tensor, operands: Operands, y: Tensor) -> None:
    """Compute y [tokens, n] from x [tokens, k]."""
    tokens, n = y.shape
    blocks = choose_blocks(tokens, shared_memory(x.device))
    damaged = torch.empty(operands.matrix.fractal_rows, dtype=torch.int32, device=x.device)
    quantized = quantize(
        x,
        operands.input_scale,
        operands.input_offset,
        dynamic=operands.dynamic,
        rows=triton.cdiv(tokens, blocks.tokens) * blocks.tokens,
        zeroed=damaged,
    )
    width = quantized.values.shape[1]
    decode_panel = _panel_decoder(operands.matrix)
    whole = triton.cdiv(n, BLOCK_ROWS) * BLOCK_ROWS
    panel_rows = min(whole, max(PANEL_BYTES // width // BLOCK_ROWS, 1) * BLOCK_ROWS)
    panel = torch.empty((panel_rows, width), dtype=torch.int8, device=x.device)
    for first_row in range(0, n, panel_rows):
        rows = min(panel_rows, n - first_row)
        decode_panel(panel[:rows], damaged, first_row)
        _multiply_panel[(triton.cdiv(tokens, blocks.tokens), triton.cdiv(rows, BLOCK_ROWS))](
            panel,
            quantized.values,
            width,
            tokens,
            y,
            n,
            first_row,
            rows,
            *operands.scaling(quantized),
            damaged,
            OWN=operands.dynamic,
            TOKENS=blocks.tokens,
            ROWS=BLOCK_ROWS,
            COLUMNS=blocks.columns,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
            enable_fp_fusion=False,
        )
