"""Size of the entropy-coded form beside tiles, and how fast it is made and read.

The matrices are rounded Gaussians whose rows and columns have different deviations, so wide that tiles take 3, 3.5 and
4 bits a weight; and with a W8A8SC directory, all its compressed linears together. With one thread, time is processor
time, which other work on the machine changes little; with more, it is elapsed time. The fastest of several calls.
Usage: python -m benchmarks.speed.entropy_coding [W8A8SC_DIRECTORY] [--threads 1 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tilepress import _native, codec
from tilepress.bench.codec import TILE_COLUMNS, TILE_ROWS
from tilepress.checkpoint import W8A8SCCheckpoint, open_checkpoint

SHAPES = ((576, 576), (1536, 576), (4096, 4096))
BITS = (3.0, 3.5, 4.0)
# Standard deviations, in octaves, of the rows' and the columns' deviations.
ROW_SPREAD, COLUMN_SPREAD = 0.35, 0.3


@dataclass
class Row:
    """Bits a weight of both forms, and of a perfect code for each tile's values; speeds in weights a second."""

    name: str
    tiles: float
    coded: float
    entropy: float
    encode: float = 0.0
    decode: dict[int, float] = field(default_factory=dict)


def gaussian_weights(n: int, k: int, deviation: float, seed: int = 0) -> NDArray[np.int8]:
    """int8 [n, k]."""
    random = np.random.default_rng(seed)
    rows = np.exp2(random.normal(0, ROW_SPREAD, (n, 1))).astype(np.float32)
    columns = np.exp2(random.normal(0, COLUMN_SPREAD, (1, k))).astype(np.float32)
    values = random.standard_normal((n, k), np.float32) * (deviation * rows * columns)
    return np.clip(np.rint(values), -128, 127).astype(np.int8)


def weights_of_bits(n: int, k: int, bits: float) -> NDArray[np.int8]:
    """Weights of which tiles take `bits` bits each."""
    low, high = 0.3, 16.0
    for _ in range(12):
        middle = (low * high) ** 0.5
        size = 8 * codec.encode(gaussian_weights(n, k, middle)).nbytes / (n * k)
        low, high = (middle, high) if size < bits else (low, middle)
    return gaussian_weights(n, k, low)


def entropy_of_tiles(matrix: NDArray[np.int8]) -> float:
    """Bits of the whole matrix."""
    n, k = matrix.shape
    tiles = (
        matrix[i : i + TILE_ROWS, j : j + TILE_COLUMNS]
        for i in range(0, n, TILE_ROWS)
        for j in range(0, k, TILE_COLUMNS)
    )
    return sum(tile.size * codec.entropy(tile) for tile in tiles)


def fastest(call: Callable[[], object], threads: int, calls: int) -> float:
    """Seconds."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    seconds = []
    for _ in range(calls + 1):
        started = clock()
        call()
        seconds.append(clock() - started)
    return min(seconds[1:])


def measure(matrix: NDArray[np.int8], name: str, threads: list[int], calls: int = 9) -> Row:
    coded, tiles = codec.encode_entropy(matrix), codec.encode(matrix)
    row = Row(name, *(8 * form.nbytes / matrix.size for form in (tiles, coded)), entropy_of_tiles(matrix) / matrix.size)
    row.encode = matrix.size / fastest(lambda: codec.encode_entropy(matrix, threads=1), 1, 3)
    out = codec.decode_entropy(coded)
    for count in threads:
        seconds = fastest(partial(codec.decode_entropy, coded, out, count), count, calls)
        row.decode[count] = matrix.size / seconds
    return row


def measure_checkpoint(path: str) -> Row:
    """Sizes alone."""
    checkpoint = open_checkpoint(path)
    if not isinstance(checkpoint, W8A8SCCheckpoint):
        raise SystemExit(f"{path} is no W8A8SC directory")
    sums = np.zeros(4)
    for prefix in checkpoint.fused_groups():
        for part in checkpoint.parts:
            tiles = part.compressed_linear(prefix).weight
            matrix = codec.decode(tiles)
            sums += matrix.size, 8 * tiles.nbytes, 8 * codec.encode_entropy(matrix).nbytes, entropy_of_tiles(matrix)
    return Row(path, *(sums[1:] / sums[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [measure(weights_of_bits(n, k, bits), f"{n} x {k}", arguments.threads) for n, k in SHAPES for bits in BITS]
    if arguments.directory:
        rows.append(measure_checkpoint(arguments.directory))
    if arguments.json:
        print(json.dumps({"isa": _native.isa(), "rows": [asdict(row) for row in rows]}))
        return
    decoded = " | ".join(f"decode, {count} thread{'s' if count > 1 else ''}" for count in arguments.threads)
    print(f"{_native.isa()}: bits a weight, and 10^9 weights a second")
    print(f"| matrix | tiles | entropy of tiles | coded | less | encode, 1 thread | {decoded} |")
    print("|---|" + "---|" * (5 + len(arguments.threads)))
    for row in rows:
        speeds = " | ".join(f"{speed / 1e9:.2f}" if speed else "" for speed in (row.encode, *row.decode.values()))
        sizes = f"{row.tiles:.3f} | {row.entropy:.3f} | {row.coded:.3f} | {100 * (1 - row.coded / row.tiles):.1f} %"
        print(f"| {row.name} | {sizes} | {speeds} |")


if __name__ == "__main__":
    main()
