"""Speed of `y = linear(x, compressed weight)` beside torch's float matrix products, in one run.

Weights are copied until they are far larger than the cache, and visited in turn. Medians of repeats; quote the
ratios, not the times: machines are noisy. Usage: python benchmarks/kernel_speed.py [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from tilepress.codec import encode
from tilepress.kernels import linear

N, K = 4096, 4096
DENSE_BYTES = 400_000_000  # of each kind of weight: 12 times this kind of machine's last-level cache
BATCHES = (1, 8, 128)
REPEATS = 5


def gaussian_weights(deviation: float, seed: int = 0) -> np.ndarray:
    """int8 [N, K]: a rounded Gaussian with 0.5 % of the weights from an eight times wider one."""
    generator = np.random.default_rng(seed)
    values = generator.normal(0, deviation, (N, K)) * np.where(generator.random((N, K)) < 0.005, 8, 1)
    return np.clip(np.rint(values), -127, 127).astype(np.int8)


def seconds_a_call(calls: Sequence[Callable[[], object]]) -> float:
    """Median over repeats of the mean time of one call, all of them in turn."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        for call in calls:
            call()
        times.append((time.perf_counter() - start) / len(calls))
    return statistics.median(times[1:])


def compressed_calls(matrix: np.ndarray, x: torch.Tensor) -> tuple[list[Callable[[], object]], float]:
    """Calls on copies of the compressed matrix, and its bytes."""
    compressed = encode(matrix)
    rest = (
        torch.tensor([0.05]),
        torch.tensor([3], dtype=torch.int32),
        torch.full((N,), 1e-3),
        torch.zeros(N, dtype=torch.int32),
    )
    info = torch.from_numpy(compressed.info)
    copies = [
        (torch.from_numpy(compressed.weight.copy()), torch.from_numpy(compressed.index.copy()))
        for _ in range(max(1, 2 * DENSE_BYTES // N // K))
    ]
    return [lambda w=w, i=i: linear(x, w, i, info, *rest) for w, i in copies], compressed.nbytes


def dense_calls(dtype: torch.dtype, x: torch.Tensor) -> list[Callable[[], object]]:
    weights = [torch.randn(N, K).to(dtype) for _ in range(max(1, DENSE_BYTES // (N * K * dtype.itemsize)))]
    x = x.to(dtype)
    return [lambda w=w: torch.nn.functional.linear(x, w) for w in weights]


def measure(deviation: float, threads: int) -> list[dict[str, float | int | str]]:
    torch.set_num_threads(threads)
    matrix = gaussian_weights(deviation)
    rows: list[dict[str, float | int | str]] = []
    for batch in BATCHES:
        x = torch.randn(batch, K)
        calls, size = compressed_calls(matrix, x)
        ours = seconds_a_call(calls)
        del calls
        peers = {
            str(dtype).removeprefix("torch."): seconds_a_call(dense_calls(dtype, x))
            for dtype in (torch.float32, torch.bfloat16)
        }
        rows.append(
            {
                "deviation": deviation,
                "threads": threads,
                "batch": batch,
                "bits": 8 * size / (N * K),
                "milliseconds": ours * 1e3,
                "gigaweights_per_second": N * K / ours / 1e9,
                "compressed_gigabytes_per_second": size / ours / 1e9,
                **{f"times_faster_than_{name}": seconds / ours for name, seconds in peers.items()},
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [row for threads in (1, torch.get_num_threads()) for row in measure(2.0, threads)]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("| std | threads | batch | bits a weight | ms | G weights/s | compressed GB/s | x float32 | x bfloat16 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
