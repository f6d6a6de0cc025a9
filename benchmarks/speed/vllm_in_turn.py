"""W8A8SC and vLLM's own static W8A8 in one vLLM process, in turn: decoding, prompts, memory of the weights.

    make vllm
    .venv-vllm/bin/python -m benchmarks.speed.vllm_in_turn OURS THEIRS --rounds 5 [--compiled] [--json]

OURS is a W8A8SC directory, THEIRS the same model as vllm_checkpoint.py makes it. Both engines are open at once, with
one setting for both, and take turns in each round, so that what else the machine does strikes both. Ratios are of
medians. vLLM compiles only with --compiled; `tilepress serve` does not on the CPU, as it takes a minute a start.

Without AVX-512 take --dtype float32: for 16-bit results oneDNN multiplies int8 by its reference implementation there,
100 times slower.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

from benchmarks.peers.vllm_w8a8 import run_in_environment

BATCHES = (1, 8)


class Engine:
    """One directory in vLLM."""

    def __init__(self, directory: Path, options: argparse.Namespace) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=str(directory),
                dtype=options.dtype,
                enforce_eager=not options.compiled,
                max_model_len=options.prompt + options.new,
                max_num_batched_tokens=max(BATCHES) * options.prompt,
                max_num_seqs=max(BATCHES),
                enable_prefix_caching=False,  # the same prompts are measured again
                seed=0,
            )
        )
        self._requests = 0

    def run(self, prompts: list[list[int]], new: int) -> tuple[float, float]:
        """Seconds until all prompts have their first token, and tokens a second of all of them after that."""
        from vllm import SamplingParams

        answer = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        start = time.perf_counter()
        for prompt in prompts:
            self._requests += 1
            self._engine.add_request(str(self._requests), {"prompt_token_ids": prompt}, answer)
        first: float | None = None
        while self._engine.has_unfinished_requests():
            outputs = self._engine.step()
            if first is None and len(outputs) == len(prompts):
                first = time.perf_counter() - start
        if first is None:
            sys.exit(f"vLLM did not answer {len(prompts)} prompts in one step; their first tokens have no one time")
        return first, (new - 1) * len(prompts) / (time.perf_counter() - start - first)


def measure(engines: dict[str, Engine], options: argparse.Namespace, vocabulary: int) -> dict[str, dict[str, float]]:
    """Name -> figures, medians of the rounds; a round before them is not counted."""
    import torch

    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, vocabulary, (max(BATCHES), options.prompt), generator=generator).tolist()
    seen: dict[str, dict[str, list[float]]] = {name: {} for name in engines}
    for number in range(options.rounds + 1):
        for batch in BATCHES:
            for name, engine in engines.items():
                first, speed = engine.run(prompts[:batch], options.new)
                if number > 0:
                    seen[name].setdefault(f"prefill_{batch}", []).append(batch * options.prompt / first)
                    seen[name].setdefault(f"decode_{batch}", []).append(speed)
        print(f"round {number} of {options.rounds}", file=sys.stderr, flush=True)
    return {
        name: {figure: statistics.median(values) for figure, values in figures.items()}
        for name, figures in seen.items()
    }


def weight_bytes(directory: Path) -> float:
    """Of the files: both engines keep weights as they are stored, theirs in oneDNN's order."""
    return float(sum(file.stat().st_size for file in directory.rglob("*.safetensors")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", type=Path)
    parser.add_argument("theirs", type=Path)
    parser.add_argument("--dtype", default="bfloat16", help="of activations")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--json", action="store_true")
    for name, default in (("prompt", 128), ("new", 64), ("threads", os.cpu_count() or 1), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    run_in_environment(options.threads, "benchmarks.speed.vllm_in_turn")
    engines = {"W8A8SC": Engine(options.ours, options), "vLLM W8A8": Engine(options.theirs, options)}
    vocabulary = json.loads((options.ours / "config.json").read_text())["vocab_size"]
    figures = measure(engines, options, vocabulary)
    ours, theirs = figures.values()
    ours["weight_bytes"], theirs["weight_bytes"] = weight_bytes(options.ours), weight_bytes(options.theirs)
    ratios = {figure: ours[figure] / theirs[figure] for figure in ours}
    if options.json:
        print(json.dumps({"figures": figures, "ratios": ratios}, indent=1))
        return
    print(f"{'':16}{'W8A8SC':>12}{'vLLM W8A8':>12}{'ratio':>8}")
    for figure, ratio in ratios.items():
        unit, digits = ("MB", 1) if figure == "weight_bytes" else ("/s", 1)
        mine, peer = (value / 1e6 if unit == "MB" else value for value in (ours[figure], theirs[figure]))
        print(f"{figure:16}{mine:10.{digits}f}{unit}{peer:10.{digits}f}{unit}{ratio:8.2f}")


if __name__ == "__main__":
    main()
