"""Decoding while other processes want the cores: tokens a second by threads and by competing processes.

    python -m benchmarks.speed.busy_machine W8A8SC_DIRECTORY [--competitors 0 1 2] [--rounds 3] [--json]

A competitor computes without end. Every measurement is a process of its own, all take turns in every round, and medians
of the rounds are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROMPT, NEW_TOKENS = 32, 128


@contextmanager
def competing(processes: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def tokens_per_second(directory: Path, threads: int) -> float:
    sizes = ["--prompt", PROMPT, "--new", NEW_TOKENS, "--threads", threads, "--repeats", 3]
    command = [sys.executable, "-m", "tilepress", "bench", "model", "--json", "-m", directory, *sizes]
    output = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout
    speed: float = json.loads(output)["model"]["decode_tokens_per_second"]
    return speed


def main() -> None:
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="W8A8SC_DIRECTORY")
    parser.add_argument("--competitors", type=int, nargs="+", default=[0, 1, cores])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, cores])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[tuple[int, int], list[float]] = {
        (competitors, threads): [] for competitors in options.competitors for threads in options.threads
    }
    for _ in range(options.rounds):
        for (competitors, threads), speeds in results.items():
            with competing(competitors):
                speeds.append(tokens_per_second(options.directory, threads))
    medians = {case: statistics.median(speeds) for case, speeds in results.items()}
    if options.json:
        print(json.dumps([{"competitors": c, "threads": t, "tokens_per_second": s} for (c, t), s in medians.items()]))
        return
    for (competitors, threads), speed in medians.items():
        print(f"{competitors} competitors, {threads} threads: {speed:6.1f} tokens/s")


if __name__ == "__main__":
    main()
