"""Size of compressed weights beside their entropy, and how fast the codec makes and reads them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilepress import codec
from tilepress.checkpoint import W8A8SCCheckpoint, open_checkpoint
from tilepress.codec import TILE_COLUMNS, TILE_ROWS
from tilepress.errors import UsageError

DEVIATIONS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)
QUICK: dict[str, Any] = {"shape": (1024, 1024), "copies": 2}
FULL: dict[str, Any] = {"shape": (4096, 4096), "copies": 12}  # 200 MB of int8, six times our cache


@dataclass(frozen=True)
class Size:
    """The size of several compressed int8 matrices together.

    bits_per_weight: of weight, index and info, padding included. entropy: bits a weight of a perfect code with the
    frequencies of each 128 x 256 tile. entropy_of_tiles: the mean over tiles, in which small ones at the border count
    as much as others.
    """

    matrices: int
    weights: int
    bits_per_weight: float
    entropy: float
    entropy_of_tiles: float

    @property
    def ratio(self) -> float:
        """bits_per_weight over entropy; a perfect code has 1."""
        return self.bits_per_weight / self.entropy

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio, "ratio_to_tiles": self.bits_per_weight / self.entropy_of_tiles}


@dataclass(frozen=True)
class Speed:
    """Bytes of int8 a second, medians. decode: into existing arrays; decode_new: into new ones, with page faults.

    With one thread, seconds are processor time, which other processes hardly change; else elapsed time.
    """

    threads: int
    encode: float
    decode: float
    decode_new: float


@dataclass(frozen=True)
class Row:
    """Results for rounded Gaussians of one deviation, 0.5 % of the weights from an eight times wider one."""

    deviation: float
    size: Size
    speeds: list[Speed]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"size": self.size.as_dict()}


def measure(
    *,
    shape: tuple[int, int],
    copies: int,
    threads: Sequence[int],
    repeats: int,
    deviations: Sequence[float] = DEVIATIONS,
) -> Iterator[Row]:
    """Yield rows as they are measured. A round visits all copies of the matrix, plain or compressed, in turn."""
    for deviation in deviations:
        matrices = [gaussian_weights(*shape, deviation)]
        matrices += [matrices[0].copy() for _ in range(copies - 1)]
        compressed = [codec.encode(matrix) for matrix in matrices]
        decoded = [codec.decode(part) for part in compressed]
        speeds = [_speed(matrices, compressed, decoded, count, repeats) for count in threads]
        yield Row(deviation, measure_size(compressed[:1]), speeds)


def measure_size(matrices: Iterable[codec.Compressed]) -> Size:
    """Return the size of all matrices together. Raises BitstreamError for a damaged one."""
    count = weights = nbytes = 0
    entropies: list[float] = []
    sizes: list[int] = []
    for compressed in matrices:
        for tile in _tiles(codec.decode(compressed)):
            entropies.append(codec.entropy(tile))
            sizes.append(tile.size)
        count += 1
        weights += compressed.n * compressed.k
        nbytes += compressed.nbytes
    return Size(
        matrices=count,
        weights=weights,
        bits_per_weight=8 * nbytes / weights,
        entropy=float(np.average(entropies, weights=sizes)),
        entropy_of_tiles=statistics.fmean(entropies),
    )


def measure_checkpoint(path: str | Path) -> Size:
    """Return the size of all compressed linears of a W8A8SC directory. Raises UsageError for another directory."""
    checkpoint = open_checkpoint(path)
    if not isinstance(checkpoint, W8A8SCCheckpoint):
        raise UsageError(f"{path} is no W8A8SC directory: make one with `tilepress compress`")
    return measure_size(
        part.compressed_linear(prefix).weight for prefix in checkpoint.fused_groups() for part in checkpoint.parts
    )


def gaussian_weights(n: int, k: int, deviation: float, seed: int = 0) -> NDArray[np.int8]:
    """int8 [n, k]: a rounded Gaussian with 0.5 % of the weights from an eight times wider one."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((n, k), np.float32) * np.float32(deviation)
    values[generator.random((n, k), np.float32) < 0.005] *= 8
    rounded: NDArray[np.int8] = np.clip(np.rint(values), -128, 127).astype(np.int8)
    return rounded


def _tiles(matrix: NDArray[np.int8]) -> Iterator[NDArray[np.int8]]:
    n, k = matrix.shape
    for top in range(0, n, TILE_ROWS):
        for left in range(0, k, TILE_COLUMNS):
            yield matrix[top : top + TILE_ROWS, left : left + TILE_COLUMNS]


def _speed(
    matrices: Sequence[NDArray[np.int8]],
    compressed: Sequence[codec.Compressed],
    decoded: Sequence[NDArray[np.int8]],
    threads: int,
    repeats: int,
) -> Speed:
    def encode() -> None:
        for matrix in matrices:
            codec.encode(matrix, threads=threads)

    def decode() -> None:
        for part, out in zip(compressed, decoded, strict=True):
            codec.decode(part, out=out, threads=threads)

    def decode_new() -> None:
        for part in compressed:
            codec.decode(part, threads=threads)

    size = sum(matrix.size for matrix in matrices)
    clock = time.thread_time if threads == 1 else time.perf_counter
    seconds = [_median_seconds(clock, action, repeats) for action in (encode, decode, decode_new)]
    return Speed(threads, *(size / each for each in seconds))


def _median_seconds(clock: Callable[[], float], action: Callable[[], object], repeats: int) -> float:
    """Return the median of `repeats` calls after one that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        start = clock()
        action()
        seconds.append(clock() - start)
    return statistics.median(seconds[1:])
