"""The kernel's peers: uncompressed products of the same shape, each the best of its kind here.

FBGEMM's product quantizes and scales as our operator does. The other int8 products do less: their activations come
quantized, and `_int_mm` and the dense product leave int32 sums. Left out are products slower than one of these on every
batch (Zen 4, torch 2.13, one thread; times of batch 1): `quantized.linear` through oneDNN (the same product as
`qlinear_pointwise`), `_int_mm` with [k, n] weights (2.7 ms beside 0.9), weight-only `_weight_int8pack_mm` (1.4 ms),
signed activations in `qlinear_pointwise` (368 ms).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tilepress import _native
from tilepress.bench.rounds import Contender

Int8Matrix = NDArray[np.int8]
Calls = list[Callable[[], object]]
Prepare = Callable[[Int8Matrix, int, int], Calls]

DENSE, TORCH_INT8, TORCH_FLOAT = "dense int8", "torch int8", "torch float"


@dataclass(frozen=True)
class Peer:
    """One product. kind: DENSE, TORCH_INT8 or TORCH_FLOAT.

    prepare(matrix, batch, copies) returns a call for each of `copies` copies of an int8 matrix [n, k]. A call
    multiplies its copy by `batch` tokens, on torch's number of threads. size: bytes a weight.
    """

    name: str
    kind: str
    size: int
    prepare: Prepare

    def contender(self, matrix: Int8Matrix, batch: int, ring_bytes: int) -> Contender:
        nbytes = self.size * matrix.size
        return Contender(self.name, self.prepare(matrix, batch, -(-ring_bytes // nbytes)), nbytes)


def available_peers() -> list[Peer]:
    """Return the peers that this processor and this torch have."""
    peers = []
    if _native.dense_int8_is_fast() and _native.isa().startswith("avx512"):
        peers.append(Peer("dense int8, AVX-512 VNNI", DENSE, 1, _dense_int8))
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        peers.append(Peer("oneDNN qlinear_pointwise", TORCH_INT8, 1, _onednn_linear))
        peers.append(Peer("oneDNN _int_mm", TORCH_INT8, 1, _onednn_int_mm))
    if "fbgemm" in torch.backends.quantized.supported_engines:
        peers.append(Peer("FBGEMM linear_dynamic", TORCH_INT8, 1, _fbgemm_linear))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        peers.append(Peer(f"torch {name}", TORCH_FLOAT, dtype.itemsize, _float_linear(dtype)))
    return peers


def _dense_int8(matrix: Int8Matrix, batch: int, copies: int) -> Calls:
    n, k = matrix.shape
    x = np.random.default_rng(0).integers(-128, 128, (batch, k)).astype(np.int8)
    packed = torch.from_numpy(_native.pack_dense_int8(matrix))
    rings = [packed.clone().numpy() for _ in range(copies)]
    return [lambda weights=weights: _native.dense_int8(x, weights, n, torch.get_num_threads()) for weights in rings]  # type: ignore[misc]


def _onednn_linear(matrix: Int8Matrix, batch: int, copies: int) -> Calls:
    n, k = matrix.shape
    x = torch.randint(0, 256, (batch, k), dtype=torch.uint8)
    scales, zero_points = torch.full((n,), 1e-3), torch.zeros(n, dtype=torch.int64)
    operators = torch.ops.onednn

    def call(weights: Tensor) -> Callable[[], object]:
        arguments: tuple[Any, ...] = (
            x,
            0.05,
            128,
            weights,
            scales,
            zero_points,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        return lambda: operators.qlinear_pointwise(*arguments)

    return [call(operators.qlinear_prepack(weights, [batch, k])) for weights in _copies(matrix, copies)]


def _onednn_int_mm(matrix: Int8Matrix, batch: int, copies: int) -> Calls:
    x = torch.randint(-128, 128, (batch, matrix.shape[1]), dtype=torch.int8)
    return [lambda weights=weights: torch._int_mm(x, weights.T) for weights in _copies(matrix, copies)]  # type: ignore[misc]


def _fbgemm_linear(matrix: Int8Matrix, batch: int, copies: int) -> Calls:
    n, k = matrix.shape
    x = torch.randn(batch, k)
    scales, zero_points = torch.full((n,), 1e-3, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates quantized tensors, the only way to this library
        quantized = torch._make_per_channel_quantized_tensor(torch.from_numpy(matrix), scales, zero_points, 0)
        packed = [torch.ops.quantized.linear_prepack(quantized, None) for _ in range(copies)]
    torch.backends.quantized.engine = before
    return [lambda weights=weights: torch.ops.quantized.linear_dynamic(x, weights) for weights in packed]  # type: ignore[misc]


def _float_linear(dtype: torch.dtype) -> Prepare:
    def prepare(matrix: Int8Matrix, batch: int, copies: int) -> Calls:
        x = torch.randn(batch, matrix.shape[1], dtype=dtype)
        weights = torch.from_numpy(matrix).to(dtype)
        rings = [weights.clone() for _ in range(copies)]
        return [lambda weights=weights: torch.nn.functional.linear(x, weights) for weights in rings]  # type: ignore[misc]

    return prepare


def _copies(matrix: Int8Matrix, count: int) -> Sequence[Tensor]:
    weights = torch.from_numpy(matrix)
    return [weights.clone() for _ in range(count)]
