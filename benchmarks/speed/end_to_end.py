"""Whole models: tilepress, transformers, llama.cpp, ik_llama.cpp and vLLM, each measurement in a process of its own.

    python -m benchmarks.speed.end_to_end [--json] [--cache .bench] [--rounds 3] [--models wide smollm2] [--only NAME]
        [--prompt N] [--new N] [--streams N] [--threads N]
        [--isa avx2]

Makes what is missing under the cache: SmolLM2-135M-Instruct and its W8A8SC directory at 3.5 bits, a random model of
Qwen3-8B's width, llama.cpp and its GGUF files (in all some 25 minutes on two cores, 25 GB of disk). Then all take turns
in every round; medians of the rounds are printed. Nothing else should run on the machine.

With --isa avx2 all contenders keep to AVX2 (llama.cpp is built anew for it; ik_llama.cpp's package has AVX2 alone).
With --streams so many answers are generated at once, by tilepress, llama.cpp and ik_llama.cpp alone.

vLLM is measured where its environment is: vllm-venv in the cache, which vllm_w8a8.py tells how to make.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.peers import ik_llama_cpp, llama_cpp
from benchmarks.scale.measured_process import run_measured
from demo.smollm2 import fetch_smollm2
from rich.console import Console
from rich.table import Table

from tilepress.bench.machine import ENVIRONMENTS

BITS = "3.5"
DTYPES = ("float32", "bfloat16")
FIGURES = (
    "decode_tokens_per_second",
    "prefill_tokens_per_second",
    "first_token_seconds",
    "weight_bytes",
    "peak_memory_bytes",
)


@dataclass(frozen=True)
class Model:
    """directory: float, in the cache; compressed: the same model as W8A8SC. prompt, new: tokens; streams: answers.

    isa: instruction set that contenders keep to; None: the processor's.
    """

    title: str
    directory: str
    compressed: str
    prompt: int
    new: int = 64
    streams: int = 1
    isa: str | None = None


MODELS = {
    "wide": Model("Qwen3-8B's width, 8 layers, random", "wide-qwen3", "wide-qwen3-w8a8sc", 128),
    "smollm2": Model(
        "SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct", f"SmolLM2-135M-Instruct-w8a8sc-{BITS}-head", 512
    ),
}
Measure = Callable[[], dict[str, Any]]
Figures = dict[str, float]


def prepare(cache: Path, models: Sequence[str]) -> None:
    """Make the directories that are missing."""
    smollm2 = fetch_smollm2(cache)
    if "wide" in models:
        llama_cpp.run(sys.executable, "-m", "benchmarks.models.wide_qwen3", cache, smollm2)
    compressed = cache / MODELS["smollm2"].compressed
    if "smollm2" in models and not compressed.exists():
        quantized = cache / f"SmolLM2-135M-Instruct-w8a8s-{BITS}-head"
        tilepress = (sys.executable, "-m", "tilepress")
        if not quantized.exists():
            untrained = ("--distill-steps", "0")  # training makes no difference to speed
            llama_cpp.run(*tilepress, "quant", "-m", smollm2, "-o", quantized, "--bits", BITS, "--head", *untrained)
        llama_cpp.run(*tilepress, "compress", "-m", quantized, "-o", compressed)
    for model in (MODELS[name] for name in models):
        if vllm_python(cache).exists() and not vllm_directory(cache, model).exists():
            program = (sys.executable, "-m", "benchmarks.peers.vllm_checkpoint")
            llama_cpp.run(*program, cache / model.directory, vllm_directory(cache, model))


def vllm_python(cache: Path) -> Path:
    """The interpreter of vLLM's own environment, if somebody has made it."""
    return cache / "vllm-venv" / "bin" / "python"


def vllm_directory(cache: Path, model: Model) -> Path:
    """The model in the format of vLLM's W8A8."""
    return cache / f"{model.directory}-compressed-tensors"


def contenders(cache: Path, model: Model, threads: int) -> dict[str, Measure | None]:
    """By name, what measures a contender once; None: it is not installed."""
    source = cache / model.directory
    sizes = ["--prompt", model.prompt, "--new", model.new, "--threads", threads, "--repeats", 2]
    environment = ENVIRONMENTS[model.isa]
    plain = [sys.executable, "-m", "benchmarks.peers.plain_transformers", source, *sizes, "--dtype"]
    ours = [sys.executable, "-m", "tilepress", "bench", "model", "--json", "-m", cache / model.compressed, *sizes]
    ours += ["--streams", model.streams]
    vllm = [vllm_python(cache), "-m", "benchmarks.peers.vllm_w8a8", vllm_directory(cache, model), *sizes]
    of_llama: Any = {
        "prompt": model.prompt,
        "new": model.new,
        "threads": threads,
        "repeats": 2,
        "streams": model.streams,
    }
    llama = partial(llama_cpp.speed, cache, source, isa=model.isa, **of_llama)

    def ik_llama(kind: str) -> dict[str, Any]:
        return ik_llama_cpp.speed(cache, llama_cpp.quantized(cache, source, kind), **of_llama)

    def of_vllm() -> dict[str, Any]:
        return _result(vllm, environment)

    return {
        f"tilepress W8A8SC {BITS}": lambda: _result(ours, environment)["model"],
        **(
            {}
            if model.streams > 1
            else {f"transformers {t}": partial(_result, [*plain, t], environment) for t in DTYPES}
        ),
        **{f"llama.cpp {kind}": partial(llama, kind=kind) for kind in llama_cpp.KINDS},
        **{f"ik_llama.cpp {kind}": partial(ik_llama, kind) for kind in llama_cpp.KINDS},
        **({} if model.streams > 1 else {"vLLM W8A8": of_vllm if vllm_python(cache).exists() else None}),
    }


def _result(command: Sequence[object], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    output, _ = run_measured([str(word) for word in command], environment=environment)
    result: dict[str, Any] = json.loads(output)
    return result


def measure(cache: Path, model: Model, threads: int, rounds: int, only: Sequence[str]) -> dict[str, Figures | None]:
    """Contender -> its figures, medians of the rounds; None: not measured."""
    chosen = {
        name: run
        for name, run in contenders(cache, model, threads).items()
        if not only or any(part in name for part in only)
    }
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for number in range(rounds):
        for name, run in chosen.items():
            if run is None:
                continue
            print(f"{model.title}, round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            results[name].append(run())
    return {name: medians(rounds_) if rounds_ else None for name, rounds_ in results.items()}


def medians(results: Sequence[dict[str, Any]]) -> Figures:
    return {figure: statistics.median(result[figure] for result in results) for figure in FIGURES}


def describe_machine(threads: int) -> dict[str, Any]:
    """In a process of its own, as it imports torch and takes a gigabyte, which would be counted as the contenders'."""
    program = (
        "import json; from tilepress.bench.machine import describe_machine; "
        f"print(json.dumps(describe_machine([{threads}]).as_dict()))"
    )
    return _result([sys.executable, "-c", program])


def heading(model: Model) -> str:
    several = "" if model.streams == 1 else f", {model.streams} answers at once"
    restricted = "" if model.isa is None else f", {model.isa}"
    return f"{model.title}, {model.prompt} tokens of prompt{several}{restricted}"


def table(title: str, figures: dict[str, Figures | None], streams: int, bandwidth: float) -> Table:
    """bandwidth: bytes a second that the machine reads."""
    shown = Table(title=title, box=None, padding=(0, 1, 0, 0))
    columns = ("", "decode/s", "prefill/s", "first token", "weights GB", "GB/s", "of memory", "peak GB")
    for column in columns:
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, of in figures.items():
        if of is None:
            shown.add_row(f"{name}: not measured")
            continue
        rate = of["weight_bytes"] * of["decode_tokens_per_second"] / streams
        shown.add_row(
            name,
            f"{of['decode_tokens_per_second']:.1f}",
            f"{of['prefill_tokens_per_second']:.0f}",
            f"{of['first_token_seconds']:.3f} s",
            f"{of['weight_bytes'] / 1e9:.3f}",
            f"{rate / 1e9:.1f}",
            f"{rate / bandwidth:.0%}",
            f"{of['peak_memory_bytes'] / 1e9:.2f}",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path(".bench"), help="where models and llama.cpp are kept")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="contenders whose names hold one of these"
    )
    parser.add_argument("--prompt", type=int, help="tokens of the prompt (default: each model's own)")
    parser.add_argument("--new", type=int, default=64, help="tokens of the answer")
    parser.add_argument("--isa", choices=[name for name in ENVIRONMENTS if name], help="keep to this instruction set")
    parser.add_argument("--streams", type=int, default=1, help="answers that are generated at once")
    options = parser.parse_args()
    prepare(options.cache, options.models)
    machine = describe_machine(options.threads)
    models = {
        name: replace(
            MODELS[name],
            prompt=options.prompt or MODELS[name].prompt,
            new=options.new,
            streams=options.streams,
            isa=options.isa,
        )
        for name in options.models
    }
    results = {
        name: measure(options.cache, model, options.threads, options.rounds, options.only)
        for name, model in models.items()
    }
    if options.json:
        print(json.dumps({"machine": machine, "models": results}, indent=1))
        return
    (bandwidth,) = machine["bandwidth"].values()
    console = Console()
    console.print(f"{machine['processor']}, {options.threads} threads, memory is read at {bandwidth / 1e9:.1f} GB/s")
    for name, figures in results.items():
        console.print(table(heading(models[name]), figures, models[name].streams, bandwidth))


if __name__ == "__main__":
    main()
