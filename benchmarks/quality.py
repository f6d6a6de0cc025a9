"""What is lost at which size: ours, round to nearest, GPTQ, SparseGPT and llama.cpp, on one text, in one run.

    python benchmarks/quality.py [--cache .bench] [--tokens 100000] [--rows REGEX] [--llama] [--json FILE] [--plot FILE]

Makes what is missing under the cache: SmolLM2-135M-Instruct, the evaluation text, quantized directories and, with
--llama, llama.cpp (some 15 minutes on two cores) and its GGUF files. Rows that the cache has results of are not
measured again: an interrupted run goes on where it was, and --again starts anew. All of it takes about 75 minutes on
two cores.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

import llama_cpp
import quality_peers
import tilepress
from quality_plot import plot
from quality_text import evaluation_text
from tilepress.checkpoint import open_checkpoint
from tilepress.evaluate.divergence import divergence_on_windows
from tilepress.evaluate.windows import final_states, token_windows
from tilepress.quantize.calibration import token_sequences
from tilepress.quantize.calibration_text import default_documents
from tilepress.quantize.decoder import LayerwiseDecoder

HERE = Path(__file__).parent
SAMPLES, LENGTH = 64, 512
WINDOW = 512
LLAMA_KINDS = ("Q8_0", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q4_0", "Q2_K")
# Below 0.8 times the bytes of llama.cpp's Q5_K_M, Q4_K_M, Q3_K_M and Q2_K.
SIZES = ("89.6MB", "84.3MB", "74.7MB", "70.5MB")


@dataclass(frozen=True)
class Result:
    """kl in nats; ratio: of the perplexities; same_top: share of equal first choices.

    bits: stored, a weight of the decoder's linears. size: bytes of the whole model's files. None: not measured.
    """

    kl: float
    ratio: float | None
    same_top: float | None
    tokens: int
    bits: float | None
    size: int | None


class Bench:
    """The float model, what is made of it under `cache`, and the measurement of each row."""

    def __init__(self, cache: Path, model: Path, text: str, tokens: int) -> None:
        self.cache, self.model, self.text, self.tokens = cache, model, text, tokens
        self._float, self._tokenizer = tilepress.load(model)
        self._windows = token_windows(self._float, self._tokenizer, text, WINDOW, -(-tokens // (WINDOW - 1)))
        self.rows: dict[str, Callable[[], Result]] = {
            "weights: nearest, int8": self._peer(quality_peers.nearest_int8),
            "weights: SparseGPT 50 % + int8": self._peer(quality_peers.sparsegpt_int8),
            "weights: GPTQ int4, groups of 128": self._peer(quality_peers.gptq_int4),
            "weights: tilepress, 7.0 bits": partial(self._weights, "--bits", "7.0"),
        }
        for bits in (4.0, 3.5, 3.0):
            self.rows |= {
                f"weights: nearest, {bits} bits": self._peer(partial(quality_peers.nearest, bits=bits)),
                f"weights: GPTQ, {bits} bits": self._peer(partial(quality_peers.gptq, bits=bits)),
                f"weights: tilepress, {bits} bits": partial(self._weights, "--bits", str(bits)),
            }
        for mode in ("overflow", "static", "per-token"):
            options = ("--bits", "3.5", "--activations", mode)
            self.rows[f"both: tilepress, 3.5 bits, {mode}"] = partial(self._engine, *options)
        for mode in ("overflow", "static"):
            options = ("--bits", "7.0", "--activations", mode)
            self.rows[f"activations: {mode} (weights at 7 bits)"] = partial(self._engine, *options)
        for size in SIZES:
            options = ("--size", size, "--head", "--embeddings")
            self.rows[f"whole: tilepress, {size}"] = partial(self._engine, *options)
        for kind in LLAMA_KINDS:
            self.rows[f"whole: llama.cpp {kind}"] = partial(self._llama, kind)

    def _peer(self, method: Callable[[list[quality_peers.Matrix]], quality_peers.Quantized]) -> Callable[[], Result]:
        def measure() -> Result:
            quantized = method(self._matrices)
            return self._result(self._float_with(quantized.weights), quantized.bits, None)

        return measure

    @cached_property
    def _matrices(self) -> list[quality_peers.Matrix]:
        source = open_checkpoint(self.model)
        tokens = token_sequences(
            self._tokenizer, default_documents(0), samples=SAMPLES, length=LENGTH, vocabulary=source.shape.vocab
        )
        return quality_peers.matrices(LayerwiseDecoder(source, torch.device("cpu")), tokens, sequences=4)

    def _directories(self, *options: str) -> tuple[Path, Path]:
        """W8A8S and W8A8SC of the float model with these options of `tilepress quant`."""
        name = "_".join(option.strip("-") for option in options)
        quantized, compressed = (self.cache / f"{self.model.name}-{kind}-{name}" for kind in ("w8a8s", "w8a8sc"))
        program = (sys.executable, "-m", "tilepress")
        calibration = ("--samples", str(SAMPLES), "--sequence-length", str(LENGTH))
        if not quantized.exists():
            llama_cpp.run(*program, "quant", "-m", self.model, "-o", quantized, *calibration, *options)
        if not compressed.exists():
            llama_cpp.run(*program, "compress", "-m", quantized, "-o", compressed)
        return quantized, compressed

    def _weights(self, *options: str) -> Result:
        """Our weights in the float model, with its float activations."""
        quantized, compressed = self._directories(*options)
        checkpoint = open_checkpoint(quantized)
        tensors = {name: checkpoint.float_tensor(name).float() for name in checkpoint.float_names()}
        for prefix in checkpoint.quantized_linears():
            linear = checkpoint.linear(prefix)
            tensors[f"{prefix}.weight"] = linear.weight * linear.weight_scale()[:, None]
            sums = linear.weight.sum(dim=1, dtype=torch.int32)  # zero points are in the bias as it is stored
            tensors[f"{prefix}.bias"] = (linear.quant_bias + linear.input_offset * sums) * linear.deq_scale
        return self._result(self._float_with(tensors), *_size(compressed))

    def _engine(self, *options: str) -> Result:
        _, compressed = self._directories(*options)
        return self._result(tilepress.load(compressed)[0], *_size(compressed))

    def _llama(self, kind: str) -> Result:
        kl, tokens = llama_cpp.divergence(self.cache, self.model, kind, self.text, self.tokens)
        size = llama_cpp.quantized(self.cache, self.model, kind).stat().st_size
        return Result(kl, None, None, tokens, None, size)

    def _float_with(self, tensors: dict[str, torch.Tensor]) -> PreTrainedModel:
        model = tilepress.load(self.model)[0]
        model.load_state_dict(tensors, strict=False)
        return model

    def _result(self, model: PreTrainedModel, bits: float | None, size: int | None) -> Result:
        found = divergence_on_windows(model, self._float, self._windows, self._float_states, window=WINDOW)
        ratio = found.perplexity / found.reference_perplexity
        return Result(found.kl, ratio, found.same_top, found.tokens, bits, size)

    @cached_property
    def _float_states(self) -> list[torch.Tensor]:
        with torch.inference_mode():
            return [final_states(self._float, window) for window in self._windows]


def _size(compressed: Path) -> tuple[float, int]:
    """Bits a weight of the quantized matrices, and bytes of the weight files."""
    summary = tilepress.checkpoint.summarize(open_checkpoint(compressed))
    return summary.bits_per_weight, summary.weight_bytes


def show(results: dict[str, Result]) -> None:
    table = Table("row", "bits", "MB", "KL", "ppl ratio", "same top", "tokens")
    for row, r in results.items():
        table.add_row(
            row,
            "" if r.bits is None else f"{r.bits:.2f}",
            "" if r.size is None else f"{r.size / 1e6:.1f}",
            f"{r.kl:.4f}",
            "" if r.ratio is None else f"{r.ratio:.3f}",
            "" if r.same_top is None else f"{r.same_top:.1%}",
            f"{r.tokens:,}",
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path(".bench"))
    parser.add_argument("--model", type=Path, help="a float directory (default: SmolLM2, fetched)")
    parser.add_argument("--text", type=Path, help="evaluation text (default: Python's and Debian's documents)")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--rows", default="", help="measure rows whose name this regular expression finds")
    parser.add_argument("--llama", action="store_true", help="build llama.cpp and measure its files too")
    parser.add_argument("--again", action="store_true", help="measure rows again that the cache has results of")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="an .svg file: KL divergence against bytes of whole models")
    options = parser.parse_args()

    model = options.model or options.cache / "SmolLM2-135M-Instruct"
    if not model.exists():
        llama_cpp.run(sys.executable, HERE.parent / "demo" / "smollm2.py", options.cache)
    text = options.text.read_text() if options.text else evaluation_text(options.cache)
    bench = Bench(options.cache, model, text, options.tokens)
    kept = options.cache / f"quality-{model.name}-{options.tokens}.json"
    known = {row: Result(**found) for row, found in json.loads(kept.read_text()).items()} if kept.exists() else {}
    chosen = [row for row in bench.rows if re.search(options.rows, row) and (options.llama or "llama" not in row)]
    if not chosen:
        raise SystemExit(f"--rows {options.rows}: no such row; there are\n" + "\n".join(bench.rows))
    for row in chosen:
        if options.again or row not in known:
            known[row] = bench.rows[row]()
            kept.write_text(json.dumps({name: asdict(result) for name, result in known.items()}, indent=1))
            print(f"{row}: KL {known[row].kl:.4f}", file=sys.stderr)
    results = {row: known[row] for row in chosen}
    show(results)
    if options.json:
        options.json.write_text(
            json.dumps([{"row": row} | asdict(result) for row, result in results.items()], indent=1)
        )
    if options.plot and any(row.startswith("whole") for row in results):
        points = {row: (result.size, result.kl) for row, result in results.items() if row.startswith("whole")}
        options.plot.write_text(plot(points))


if __name__ == "__main__":
    main()
