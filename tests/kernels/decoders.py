"""Random decoders of floats, native and as the plain formulas in float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilepress import _native

Array = NDArray[Any]
EPSILON = 1e-6


@dataclass(frozen=True)
class Shape:
    """window: 0 for none. normed: norms of queries and keys."""

    hidden: int = 48
    queries: int = 4
    heads: int = 2
    head_size: int = 16
    intermediate: int = 40
    vocabulary: int = 70
    layers: int = 2
    window: int = 0
    normed: bool = False


@dataclass
class Layer:
    attention_norm: Array
    attention_bias: Array
    query_key_value: Array
    query_key_value_bias: Array
    query_norm: Array
    key_norm: Array
    output: Array
    mlp_norm: Array
    gate_up: Array
    down: Array


@dataclass
class RandomDecoder:
    """weights: "float32", "float16" or "bfloat16", the type of the head."""

    shape: Shape
    head_type: str = "float32"
    seed: int = 0
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape, rng = self.shape, np.random.default_rng(self.seed)

        def matrix(n: int, k: int) -> Array:
            return (rng.standard_normal((n, k)) / np.sqrt(k)).astype(np.float32)

        def gains(n: int) -> Array:
            return rng.uniform(0.5, 2, n).astype(np.float32)

        attended = shape.queries * shape.head_size
        rows = attended + 2 * shape.heads * shape.head_size
        for _ in range(shape.layers):
            self.layers.append(
                Layer(
                    attention_norm=gains(shape.hidden),
                    attention_bias=matrix(shape.hidden, 1)[:, 0],
                    query_key_value=3 * matrix(rows, shape.hidden),
                    query_key_value_bias=matrix(rows, 1)[:, 0],
                    query_norm=gains(shape.head_size),
                    key_norm=gains(shape.head_size),
                    output=matrix(shape.hidden, attended),
                    mlp_norm=gains(shape.hidden),
                    gate_up=matrix(2 * shape.intermediate, shape.hidden),
                    down=matrix(shape.hidden, shape.intermediate),
                )
            )
        self.norm, head = gains(shape.hidden), matrix(shape.vocabulary, shape.hidden)
        # As stored: the upper 16 bits of bfloat16.
        self.stored_head = {
            "float32": lambda: head,
            "float16": lambda: head.astype(np.float16).view(np.int16),
            "bfloat16": lambda: (head.view(np.uint32) >> 16).astype(np.uint16).view(np.int16),
        }[self.head_type]()
        self.head = {
            "float32": lambda: head,
            "float16": lambda: head.astype(np.float16).astype(np.float32),
            "bfloat16": lambda: (head.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
        }[self.head_type]()

    def native(self) -> Any:
        shape = self.shape
        decoder = _native.Decoder(shape.hidden, shape.queries, shape.heads, shape.head_size, shape.window)

        def linear(weight: Array, bias: Array | None = None) -> list[Any]:
            return [_native.Projection.of_32_bits(weight, bias)]

        def norm(gain: Array, bias: Array | None = None) -> Any:
            return _native.Norm.of(gain, bias, EPSILON)

        for layer in self.layers:
            decoder.add_layer(
                attention_norm=norm(layer.attention_norm, layer.attention_bias),
                query_key_value=linear(layer.query_key_value, layer.query_key_value_bias),
                query_norm=norm(layer.query_norm) if shape.normed else None,
                key_norm=norm(layer.key_norm) if shape.normed else None,
                output=linear(layer.output),
                mlp_norm=norm(layer.mlp_norm),
                gate_up=linear(layer.gate_up),
                down=linear(layer.down),
            )
        head = (
            linear(self.head)
            if self.head_type == "float32"
            else [_native.Projection.of_16_bits(self.stored_head, self.head_type == "bfloat16", None)]
        )
        decoder.finish(norm(self.norm), head)
        return decoder

    def caches(self, room: int, seed: int = 1) -> list[Array]:
        rng, shape = np.random.default_rng(seed), self.shape
        size = (2, shape.heads, room, shape.head_size)
        return [rng.standard_normal(size).astype(np.float32) for _ in self.layers]


def kept_rows(rows: Array, kept: str) -> Array:
    """Return float rows [..., size] as the type `kept` has them: int8 integers, then the bytes of the scale."""
    if kept != "int8":
        return rows.astype(kept)
    scale = np.abs(rows).max(axis=-1, keepdims=True) / np.float32(127)
    integers = np.rint(rows / scale).astype(np.int8)
    return np.concatenate([integers, scale.astype(np.float32).view(np.int8)], axis=-1)


def restored_rows(rows: Array, kept: str) -> Array:
    """Return `kept_rows` as float32 [..., size]."""
    if kept != "int8":
        return rows.astype(np.float32)
    return rows[..., :-4] * np.ascontiguousarray(rows[..., -4:]).view(np.float32)


@dataclass
class Inputs:
    """x [tokens, hidden]; cos, sin [tokens, head size]."""

    x: Array
    cos: Array
    sin: Array

    def addresses(self) -> tuple[int, int, int]:
        return self.x.ctypes.data, self.cos.ctypes.data, self.sin.ctypes.data


def random_inputs(shape: Shape, tokens: int, seed: int = 2) -> Inputs:
    rng = np.random.default_rng(seed)
    angles = rng.uniform(0, 6, (tokens, shape.head_size // 2))
    twice = np.concatenate([angles, angles], axis=1)
    x = rng.standard_normal((tokens, shape.hidden))
    return Inputs(x.astype(np.float32), np.cos(twice).astype(np.float32), np.sin(twice).astype(np.float32))


def native_sequence(caches: list[Array], past: int, tokens: int, asked: int, kept: str = "float32") -> Any:
    """Tokens of a sequence behind the first `past` of its caches. kept: name of the type of the caches' rows."""
    addresses = [cache.ctypes.data for cache in caches]
    return _native.Sequence.of(tokens, past, asked, _native.CacheType[kept], addresses, caches[0].shape[2])


def native_step(
    decoder: RandomDecoder,
    native: Any,
    inputs: Inputs,
    caches: list[Array],
    past: int,
    threads: int = 2,
    asked: int | None = None,
    kept: str = "float32",
) -> Array:
    """Return logits [asked, vocabulary], of all tokens by default; the caches get the tokens' keys and values.

    kept: name of the type of the caches' rows.
    """
    asked = len(inputs.x) if asked is None else asked
    logits = np.empty((asked, decoder.shape.vocabulary), np.float32)
    sequence = native_sequence(caches, past, len(inputs.x), asked, kept)
    native.step(*inputs.addresses(), [sequence], logits.ctypes.data, threads)
    return logits


def plain_step(decoder: RandomDecoder, inputs: Inputs, caches: list[Array], past: int, kept: str = "float32") -> Array:
    """As `native_step`, in float64, a token and a query at a time; caches are float32 whatever `kept` is."""
    shape, size = decoder.shape, decoder.shape.head_size
    logits = []
    for t, (x, cos, sin) in enumerate(zip(*(a.astype(np.float64) for a in vars(inputs).values()), strict=True)):
        for layer, cache in zip(decoder.layers, caches, strict=True):
            normed = _norm(x, layer.attention_norm) + layer.attention_bias
            rows = (layer.query_key_value @ normed + layer.query_key_value_bias).reshape(-1, size)
            queries, keys, values = np.split(rows, [shape.queries, shape.queries + shape.heads])
            if shape.normed:
                queries = np.stack([_norm(query, layer.query_norm) for query in queries])
                keys = np.stack([_norm(key, layer.key_norm) for key in keys])
            for rows, new in zip(cache, (_turn(keys, cos, sin), values), strict=True):
                rows[:, past + t] = restored_rows(kept_rows(new.astype(np.float32), kept), kept)
            first = max(0, past + t + 1 - shape.window) if shape.window else 0
            attended = []
            for number, query in enumerate(_turn(queries, cos, sin)):
                head = number // (shape.queries // shape.heads)
                scores = cache[0, head, first : past + t + 1].astype(np.float64) @ query / np.sqrt(size)
                weights = np.exp(scores - scores.max())
                attended.append(weights / weights.sum() @ cache[1, head, first : past + t + 1].astype(np.float64))
            x = x + layer.output @ np.concatenate(attended)
            gates, ups = np.split(layer.gate_up @ _norm(x, layer.mlp_norm), 2)
            x = x + layer.down @ (gates / (1 + np.exp(-gates)) * ups)
        logits.append(decoder.head @ _norm(x, decoder.norm))
    return np.stack(logits)


def _norm(x: Array, gain: Array) -> Array:
    normed: Array = x / np.sqrt(np.mean(x * x) + EPSILON) * gain
    return normed


def _turn(x: Array, cos: Array, sin: Array) -> Array:
    first, second = np.split(x, 2, axis=1)
    turned: Array = x * cos + np.concatenate([-second, first], axis=1) * sin
    return turned
