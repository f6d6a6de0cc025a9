"""What keys and values in fewer bits cost: the divergence of a model's answers from those with float32 ones.

    python -m benchmarks.quality.cache_types W8A8SC_DIRECTORY [--reference FLOAT_DIRECTORY] [--cache .bench]
        [--window 1024] [--windows 4] [--json]

For each kind of text of `domains.py`, windows of it go through the native decoder once with each type. Printed are the
divergences (KL, nats a token) from the model's own float32 keys and values, and from the float model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from benchmarks.quality.domains import domain_texts
from demo.smollm2 import fetch_smollm2
from rich.console import Console
from rich.table import Table
from torch import Tensor

import tilepress
from tilepress.engines.transformers.generation.cache_type import CacheType
from tilepress.engines.transformers.generation.decode_step import DecodeStep
from tilepress.engines.transformers.generation.kv_cache import GrowingCache
from tilepress.evaluate.windows import token_windows

# By kind of text: type -> mean divergence from the model with float32 ones, and from the float model.
Figures = dict[str, dict[str, tuple[float, float]]]


def divergence(logits: Tensor, reference: Tensor) -> float:
    """KL of logits [n, vocabulary] from the reference's, mean over n."""
    expected = reference.log_softmax(-1)
    return float((expected.exp() * (expected - logits.log_softmax(-1))).sum(-1).mean())


@torch.inference_mode()
def measure(directory: Path, source: Path, cache: Path, *, window: int, windows: int) -> Figures:
    model, tokenizer = tilepress.load(directory)
    source_model, _ = tilepress.load(source)
    step, figures = DecodeStep(model), Figures()
    for kind, text in domain_texts(cache, tokenizer).items():
        sums = {kept.name: [0.0, 0.0] for kept in CacheType}
        chosen = token_windows(model, tokenizer, text, window, windows)
        for tokens in chosen:
            tokens = tokens.reshape(1, -1)
            reference = source_model(tokens).logits[0]
            exact = step(tokens, GrowingCache(CacheType.float32))
            for kept in CacheType:
                logits = step(tokens, GrowingCache(kept))
                for i, other in enumerate((exact, reference)):
                    sums[kept.name][i] += divergence(logits, other) / len(chosen)
        figures[kind] = {name: (own, of_float) for name, (own, of_float) in sums.items()}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="W8A8SC_DIRECTORY")
    parser.add_argument("--reference", type=Path, help="the float model (default: SmolLM2, fetched)")
    parser.add_argument("--cache", type=Path, default=Path(".bench"))
    parser.add_argument("--window", type=int, default=1024, help="tokens")
    parser.add_argument("--windows", type=int, default=4, help="of each kind of text")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    source = options.reference or fetch_smollm2(options.cache)
    figures = measure(options.directory, source, options.cache, window=options.window, windows=options.windows)
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    table = Table(box=None)
    for column in ("", *(f"{kept.name}, from {other}" for kept in CacheType for other in ("own", "float"))):
        table.add_column(column, justify="right" if column else "left")
    for kind, of in figures.items():
        table.add_row(kind, *(f"{value:.5f}" for kept in CacheType for value in of[kept.name]))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
