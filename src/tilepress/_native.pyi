"""The native module: csrc/python/bind_*.cpp."""

import enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

def encode(
    matrix: NDArray[np.int8], tiling_n: int, tiling_k: int, threads: int
) -> tuple[NDArray[np.int8], NDArray[np.int8]]: ...
def check_index(weight: NDArray[np.int8], index: NDArray[np.int8], info: NDArray[np.int64]) -> None: ...
def validate(weight: NDArray[np.int8], index: NDArray[np.int8], info: NDArray[np.int64]) -> None: ...
def decode(
    weight: NDArray[np.int8], index: NDArray[np.int8], info: NDArray[np.int64], out: NDArray[np.int8], threads: int
) -> None: ...
def encode_resident(
    matrix: NDArray[np.int8], tiling_n: int, tiling_k: int, threads: int
) -> tuple[NDArray[np.int8], NDArray[np.int8]]: ...
def encode_entropy(matrix: NDArray[np.int8], threads: int) -> tuple[NDArray[np.int8], NDArray[np.int8], int]: ...
def check_entropy(weight: NDArray[np.int8], index: NDArray[np.int8], info: NDArray[np.int64]) -> None: ...
def decode_entropy(
    weight: NDArray[np.int8], index: NDArray[np.int8], info: NDArray[np.int64], out: NDArray[np.int8], threads: int
) -> None: ...
def embed(
    ids: NDArray[np.int64],
    weight: NDArray[np.int8],
    index: NDArray[np.int8],
    info: NDArray[np.int64],
    weight_scale: NDArray[np.float32],
    out: NDArray[np.float32],
    threads: int,
) -> None: ...

class Projection:
    @staticmethod
    def compressed(
        weight: NDArray[np.int8],
        index: NDArray[np.int8],
        info: NDArray[np.int64],
        input_scale: float,
        input_offset: int,
        deq_scale: NDArray[np.float32],
        quant_bias: NDArray[np.int32],
        weight_sums: NDArray[np.int32] | None,
    ) -> Projection: ...
    @staticmethod
    def of_16_bits(weight: NDArray[np.int16], bfloat: bool, bias: NDArray[np.float32] | None) -> Projection: ...
    @staticmethod
    def of_32_bits(weight: NDArray[np.float32], bias: NDArray[np.float32] | None) -> Projection: ...

class Norm:
    @staticmethod
    def of(gain: NDArray[np.float32], bias: NDArray[np.float32] | None, epsilon: float) -> Norm: ...

class CacheType(enum.Enum):
    float32 = ...
    float16 = ...
    int8 = ...

class Sequence:
    @staticmethod
    def of(tokens: int, past: int, asked: int, cache_type: CacheType, caches: list[int], room: int) -> Sequence: ...

class Decoder:
    def __init__(self, hidden: int, queries: int, heads: int, head_size: int, window: int) -> None: ...
    def add_layer(
        self,
        attention_norm: Norm,
        query_key_value: list[Projection],
        query_norm: Norm | None,
        key_norm: Norm | None,
        output: list[Projection],
        mlp_norm: Norm,
        gate_up: list[Projection],
        down: list[Projection],
    ) -> None: ...
    def finish(self, norm: Norm, head: list[Projection]) -> None: ...
    def step(self, x: int, cos: int, sin: int, sequences: list[Sequence], logits: int, threads: int) -> None: ...

def isa() -> str: ...
def isas() -> list[str]: ...
def linear(*arguments: Any) -> None: ...
def register_torch_operators(library: str) -> bool: ...
def round_weights(
    weight: NDArray[np.float32],
    steps: NDArray[np.float32],
    order: NDArray[np.int64],
    feedback: NDArray[np.float32],
    rate: NDArray[np.float32],
    lengths: NDArray[np.float32],
    row_order: NDArray[np.int64] | None,
    row_feedback: NDArray[np.float32] | None,
    out: NDArray[np.int8],
    errors: NDArray[np.float32] | None,
    threads: int,
) -> None: ...
def refine_weights(
    weight: NDArray[np.float32],
    steps: NDArray[np.float32],
    order: NDArray[np.int64],
    hessian: NDArray[np.float32],
    rate: NDArray[np.float32],
    lengths: NDArray[np.float32],
    row_order: NDArray[np.int64] | None,
    coupling: NDArray[np.float32] | None,
    row_rate: NDArray[np.float32] | None,
    noise: NDArray[np.float32],
    integers: NDArray[np.int8],
    threads: int,
) -> None: ...
def read_memory(data: NDArray[np.uint8], threads: int) -> int: ...
def dense_int8_is_fast() -> bool: ...
def pack_dense_int8(matrix: NDArray[np.int8]) -> NDArray[np.uint8]: ...
def dense_int8(x: NDArray[np.int8], packed: NDArray[np.uint8], n: int, threads: int) -> NDArray[np.int32]: ...
