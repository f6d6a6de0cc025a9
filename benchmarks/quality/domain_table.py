"""Divergence from the float model on six kinds of text, beside llama.cpp's files.

    python -m benchmarks.quality.domain_table FOLDER [QUANTIZED ...] [--model DIR] [--cache .bench] [--chunks 6]
        [--llama KIND ...] [--json FILE]

Writes a text file of each kind to FOLDER (`tilepress eval --text` takes them). Prints bytes of the weight files and KL
in nats of each quantized directory, and of llama.cpp's quantization to each KIND, such as Q4_K_M; "+imatrix" behind a
kind, such as IQ3_M+imatrix, weighs it by an importance matrix of our calibration text. Both are measured on the first
chunks of 512 tokens of each text, by the last 255 predictions of each chunk, as llama-perplexity does: llama.cpp by its
own program, ours in our engine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from benchmarks.peers import llama_cpp
from benchmarks.quality.domains import domain_texts

import tilepress
from tilepress.checkpoint import open_checkpoint, summarize
from tilepress.evaluate.divergence import divergence_on_windows
from tilepress.evaluate.windows import final_states, token_windows
from tilepress.quantize.calibration.documents import default_documents
from tilepress.text import load_tokenizer

ROOT = Path(__file__).parents[2]
WEIGHTED = "+imatrix"
CALIBRATION = 100_000  # characters, some 60 chunks
FIRST_SCORED = llama_cpp.CHUNK - 1 - llama_cpp.SCORED

Row = tuple[str, float, list[float]]  # name, megabytes, KL of each text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("quantized", type=Path, nargs="*", help="W8A8S or W8A8SC directories to measure")
    parser.add_argument("--chunks", type=int, default=6, help="of 512 tokens of each text")
    parser.add_argument("--llama", nargs="*", default=[], metavar="KIND", help="builds llama.cpp in the cache")
    parser.add_argument(
        "--model", type=Path, help="whose chat template renders the dialogues (default: SmolLM2, fetched)"
    )
    parser.add_argument("--cache", type=Path, default=Path(".bench"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = options.model or options.cache / "SmolLM2-135M-Instruct"
    if not model.exists():
        llama_cpp.run(sys.executable, ROOT / "demo" / "smollm2.py", options.cache)
    options.folder.mkdir(parents=True, exist_ok=True)
    texts = domain_texts(options.cache, load_tokenizer(model))
    for name, text in texts.items():
        (options.folder / f"{name}.txt").write_text(text, encoding="utf-8")
    rows = [*_ours(model, options.quantized, texts, options.chunks)] if options.quantized else []
    rows += [_of_llama(options.cache, model, kind, texts, options.chunks) for kind in options.llama]
    for text in texts.values() if options.llama else ():  # gigabytes, soon made again
        llama_cpp.logits_file(options.cache, model, text, _tokens(options.chunks)).unlink(missing_ok=True)
    print("| | MB | " + " | ".join([*texts, "mean", "worst"]) + " |")
    for name, megabytes, found in rows:
        values = " | ".join(f"{kl:.4f}" for kl in (*found, sum(found) / len(found), max(found)))
        print(f"| {name} | {megabytes:.1f} | {values} |")
    if options.json:
        options.json.write_text(
            json.dumps(
                [
                    {"row": name, "megabytes": megabytes, "kl": dict(zip(texts, found, strict=True))}
                    for name, megabytes, found in rows
                ],
                indent=1,
            )
        )


@torch.inference_mode()
def _ours(model: Path, directories: Sequence[Path], texts: Mapping[str, str], chunks: int) -> Iterator[Row]:
    reference, tokenizer = tilepress.load(model)
    windows = [token_windows(reference, tokenizer, text, llama_cpp.CHUNK, chunks) for text in texts.values()]
    states = [[final_states(reference, ids) for ids in of_text] for of_text in windows]
    for directory in directories:
        quantized = tilepress.load(directory)[0]
        found = [
            divergence_on_windows(quantized, reference, of_text, kept, window=llama_cpp.CHUNK, unscored=FIRST_SCORED).kl
            for of_text, kept in zip(windows, states, strict=True)
        ]
        yield directory.name, summarize(open_checkpoint(directory)).weight_bytes / 1e6, found


def _of_llama(cache: Path, model: Path, kind: str, texts: Mapping[str, str], chunks: int) -> Row:
    calibration = None
    if kind.endswith(WEIGHTED):
        documents = default_documents(0, load_tokenizer(model))
        calibration = "\n\n".join(islice(documents, 5000))[:CALIBRATION]
    bare = kind.removesuffix(WEIGHTED)
    count = _tokens(chunks)
    found = [llama_cpp.divergence(cache, model, bare, text, count, calibration)[0] for text in texts.values()]
    return f"llama.cpp {kind}", llama_cpp.quantized(cache, model, bare, calibration).stat().st_size / 1e6, found


def _tokens(chunks: int) -> int:
    """Of so many chunks, as `llama_cpp.divergence` counts them."""
    return chunks * (llama_cpp.CHUNK - 1)


if __name__ == "__main__":
    main()
