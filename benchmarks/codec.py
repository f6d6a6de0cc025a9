"""Size of compressed weights beside the entropy of their tiles, and speed of encoding and decoding.

    python benchmarks/codec.py [--threads N ...] [--repeats N] [--model W8A8SC_DIRECTORY] [--quick] [--json]

The weights are rounded Gaussians of standard deviation s, 0.5 % of them eight times as wide, 4096 x 4096, copied until
they are far larger than the cache; with --model, a directory's linears (size only). Encoding and decoding count int8
bytes, with one thread by its processor time; "decode" writes to arrays that are there, "decode, new" to new ones, whose
page faults are part of it.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from tilepress import _native
from tilepress.bench.codec import FULL, QUICK, Size, measure, measure_checkpoint
from tilepress.codec import core_count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, core_count()}))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.model is not None:
        size = measure_checkpoint(options.model)
        print(json.dumps(size.as_dict(), indent=1) if options.json else f"{'  '.join(_cells(size))}")
        return
    memory_read = read_rate()
    work = QUICK if options.quick else FULL
    rows = list(measure(**work, threads=options.threads, repeats=options.repeats))
    if options.json:
        print(json.dumps({"memory_read": memory_read, "rows": [row.as_dict() for row in rows]}, indent=1))
        return
    print(f"One thread reads memory at {memory_read / 1e9:.1f} GB/s; instruction set {_native.isa()}.\n")
    print("| s | entropy | bits | ratio | threads | encode MB/s | decode GB/s | decode, new GB/s |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        for speed in row.speeds:
            cells = [
                f"{row.deviation:g}",
                *_cells(row.size),
                str(speed.threads),
                f"{speed.encode / 1e6:.0f}",
                f"{speed.decode / 1e9:.2f}",
                f"{speed.decode_new / 1e9:.2f}",
            ]
            print(f"| {' | '.join(cells)} |")


def read_rate() -> float:
    """Bytes a second that one thread reads from memory: 2 GB, passed over three times, the fastest of them."""
    memory = np.ones(2_000_000_000 // 8, np.int64)
    seconds = []
    for _ in range(3):
        start = time.thread_time()
        np.bitwise_xor.reduce(memory)
        seconds.append(time.thread_time() - start)
    return memory.nbytes / min(seconds)


def _cells(size: Size) -> list[str]:
    return [f"{size.entropy:.3f}", f"{size.bits_per_weight:.3f}", f"{size.ratio:.4f}"]


if __name__ == "__main__":
    main()
