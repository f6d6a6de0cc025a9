"""Bits a weight against the order-0 entropy, and the codec's speed on one core.

    python benchmarks/codec_size.py

The weights are rounded Gaussians of standard deviation s, 0.5 % of them eight times as wide.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from tilepress import codec

SHAPE = (4096, 4096)


def fastest(action: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of processor time."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        seconds.append(time.process_time() - start)
    return min(seconds)


def main() -> None:
    rng = np.random.default_rng(0)
    print("   s  entropy  bits  ratio  encode MB/s  decode MB/s")
    for s in range(1, 9):
        scale = np.where(rng.random(SHAPE) < 0.005, 8.0 * s, s)
        matrix = np.clip(np.rint(rng.normal(0, scale)), -128, 127).astype(np.int8)
        compressed = codec.encode(matrix)
        bits, entropy = 8 * compressed.nbytes / matrix.size, codec.entropy(matrix)
        encode = matrix.size / 1e6 / fastest(partial(codec.encode, matrix, threads=1))
        decode = matrix.size / 1e6 / fastest(partial(codec.decode, compressed, threads=1))
        print(f"{s:4}  {entropy:7.3f}  {bits:.3f}  {bits / entropy:.3f}  {encode:11.0f}  {decode:11.0f}")


if __name__ == "__main__":
    main()
