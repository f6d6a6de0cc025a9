"""How fast weights become what kernels read: int8 bytes a second, of matrices with rounded Gaussian entries.

    python -m benchmarks.speed.loading [--threads 2] [--json]

Entropy-coded weights are decoded and then encoded, as tiles or in the fast form. The fastest of some repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable

import numpy as np

from tilepress import codec

SHAPE, DEVIATION, REPEATS = (4096, 12288), 2.0, 5


def gigabytes_per_second(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return SHAPE[0] * SHAPE[1] / min(times) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    threads = options.threads
    entries = np.random.default_rng(0).normal(size=SHAPE) * DEVIATION
    matrix = entries.round().clip(-127, 127).astype(np.int8)
    coded = codec.encode_entropy(matrix)
    figures = {
        "entropy-coded to integers": lambda: codec.decode_entropy(coded, threads=threads),
        "integers to tiles": lambda: codec.encode(matrix, threads=threads),
        "integers to the fast form": lambda: codec.encode_resident(matrix, threads=threads),
        "entropy-coded to the fast form": lambda: codec.encode_resident(
            codec.decode_entropy(coded, threads=threads), threads=threads
        ),
    }
    result = {name: gigabytes_per_second(work) for name, work in figures.items()}
    if options.json:
        print(json.dumps({"threads": threads, "gigabytes_per_second": result}))
        return
    for name, speed in result.items():
        print(f"{name:32}{speed:6.2f} GB/s, {threads} threads")


if __name__ == "__main__":
    main()
