"""Linears and inputs that between them lead through every path of a kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from int8_matrices import DISTRIBUTIONS, make_matrix, matrices_of_every_width
from kernels.linears import Linear, make_linear, tokens
from tilepress import _native
from tilepress.codec import RESIDENT_FORM, reference
from tilepress.codec.compressed import make_info

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def in_resident_form(linear: Linear) -> Linear:
    """The same linear with tiles of the same geometry in the resident form."""
    tiling_k, tiling_n, k, n = linear.info[:4].tolist()
    weight, index = _native.encode_resident(linear.matrix.numpy(), tiling_n, tiling_k, 2)
    info = make_info(n, k, tiling_n, tiling_k, RESIDENT_FORM)
    return replace(linear, weight=torch.from_numpy(weight), index=torch.from_numpy(index), info=torch.from_numpy(info))


def every_case() -> Iterator[tuple[Linear, list[Tensor]]]:
    yield from _kinds_of_weight()
    yield from _tilings()
    yield from _extremes()
    matrix = make_matrix("gaussian", 130, 300)
    yield make_linear(matrix, reference.encode(matrix)), [tokens((batch, 300), seed=batch) for batch in range(1, 34)]
    for matrix in matrices_of_every_width():
        yield make_linear(matrix, reference.encode(matrix)), [tokens((3, matrix.shape[1]))]


def _kinds_of_weight() -> Iterator[tuple[Linear, list[Tensor]]]:
    for kind in sorted(DISTRIBUTIONS):
        for shape in ((1, 1), (33, 70), (270, 530)):
            matrix = make_matrix(kind, *shape)
            compressed = reference.encode(matrix)
            for batch, scale, dtype in zip((1, 2, 7), (0.01, 0.2, 0.05), DTYPES, strict=True):
                yield make_linear(matrix, compressed, scale=scale), [tokens((batch, shape[1]), dtype)]


def _tilings() -> Iterator[tuple[Linear, list[Tensor]]]:
    matrix = make_matrix("gaussian with outliers", 300, 530)
    for tiling in ((1, 1), (64, 1), (1, 64), (3, 5)):
        yield make_linear(matrix, reference.encode(matrix, *tiling)), [tokens((6, 530))]


def _extremes() -> Iterator[tuple[Linear, list[Tensor]]]:
    """The largest weights and activations there are, in every position, and sums that wrap."""
    for low, high in ((-128, 127), (-128, -128), (127, 127), (0, 127), (-127, 0), (-64, 63)):
        matrix = np.where(np.random.default_rng(0).random((128, 256)) < 0.5, low, high).astype(np.int8)
        linear = make_linear(matrix, reference.encode(matrix))
        linear.quant_bias[::2] = 2**31 - 1
        x = torch.full((5, 256), -1e9)
        x[1], x[2, ::2], x[3, ::3], x[4, ::5] = 1e9, 1e9, 0, torch.nan
        yield linear, [x]
