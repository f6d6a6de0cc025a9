"""What is lost at which size: ours, round to nearest, GPTQ, SparseGPT and llama.cpp, on one text, in one run.

    python -m benchmarks.quality.table [--cache .bench] [--text F ...] [--tokens 100000] [--calibration docstrings]
        [--rows REGEX] [--llama] [--json F] [--plot F]

Makes what is missing under the cache: SmolLM2-135M-Instruct, the evaluation text, quantized directories and, with
--llama, llama.cpp (some 15 minutes on two cores), its GGUF files and, until all its rows are measured, the float
model's logits (5 GB for 100 thousand tokens). Results are kept by model, text and number of tokens: an interrupted run
goes on where it was, and --again measures anew. Directories are kept by model and options, not by tilepress's version:
start with an empty cache after a change of it. A row takes some 10 minutes on two cores; what the rows "weights",
"ablation" and "activations" share takes 9 GB of memory.

Rows begin with their group, "weights", "activations", "both", "whole" or "ablation": --rows "^(weights|whole)" measures
two of them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import torch
from benchmarks.peers import llama_cpp
from benchmarks.quality import ablation as quality_ablation
from benchmarks.quality import fingerprint
from benchmarks.quality import results as quality_results
from benchmarks.quality import rounding_peers as quality_peers
from benchmarks.quality.activations import quantized_inputs
from benchmarks.quality.layers import Layer, Observed
from benchmarks.quality.plot import plot
from benchmarks.quality.results import Result
from benchmarks.quality.text import evaluation_text
from demo.smollm2 import fetch_smollm2
from transformers import PreTrainedModel

import tilepress
from tilepress.checkpoint import open_checkpoint
from tilepress.evaluate.divergence import divergence_on_windows
from tilepress.evaluate.windows import final_states, token_windows
from tilepress.models.layer_inputs import LINEARS
from tilepress.quantize import Recipe
from tilepress.quantize.calibration.documents import default_documents, docstrings
from tilepress.quantize.calibration.sequences import token_sequences
from tilepress.quantize.estimate.settle import STEPS

SAMPLES, LENGTH = 64, 512
WINDOW = 512
# The calibration text that tilepress took by default before it had a mixed one; documents of it that are enough.
DOCSTRINGS, DOCUMENTS = "docstrings", 4000
LLAMA_KINDS = ("Q8_0", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q4_0", "Q2_K")
MODES = ("dynamic", "overflow", "static", "per-token")
MIDDLE_BITS = 3.5
# The former is what `tilepress quant` does unasked where the machine allows it: said, so that all machines do the same.
DISTILLED, UNDISTILLED = ("--distill-steps", str(STEPS)), ("--distill-steps", "0")
# Sensitivities of all calibration sequences; the calibration text stays as long as that of the peers.
HIGH_EFFORT = ("--effort", "high", *UNDISTILLED)
# As many steps as `tilepress quant` takes by itself for SmolLM2 on two cores.
TRAINED = (*UNDISTILLED, "--block-steps", "72")
# Below 0.8 times the bytes of llama.cpp's Q5_K_M, Q4_K_M, Q3_K_M and Q2_K.
SIZES = ("89.6MB", "84.3MB", "74.7MB", "70.5MB")


class Bench:
    """The float model, what is made of it under `cache`, and the measurement of each row."""

    def __init__(self, cache: Path, model: Path, texts: list[str], tokens: int, calibration: str) -> None:
        self.cache, self.model, self.tokens, self.calibration = cache, model, tokens, calibration
        self.text = "\n\n".join(texts)
        self._name = f"{model.name}-{fingerprint.of_directory(model)}"
        self._float, self._tokenizer = tilepress.load(model)
        count = -(-tokens // ((WINDOW - 1) * len(texts)))
        of_texts = [token_windows(self._float, self._tokenizer, text, WINDOW, count) for text in texts]
        self._windows = [window for windows in of_texts for window in windows]
        self.rows: dict[str, Callable[[], Result]] = {
            "weights: nearest, int8": self._peer(quality_peers.nearest_int8),
            "weights: SparseGPT 50 % + int8": self._peer(quality_peers.sparsegpt_int8),
            "weights: GPTQ int4, groups of 128": self._peer(quality_peers.gptq_int4),
        }
        for bits in (4.0, MIDDLE_BITS, 3.0):
            self.rows |= {
                f"weights: nearest, {bits} bits": self._peer(partial(quality_peers.nearest, bits=bits)),
                f"weights: GPTQ, {bits} bits": self._peer(partial(quality_peers.gptq, bits=bits)),
                f"weights: tilepress, {bits} bits": partial(self._weights, bits, UNDISTILLED),
                f"weights: tilepress, {bits} bits, distilled": partial(self._weights, bits, DISTILLED),
                f"weights: tilepress, {bits} bits, high effort": partial(self._weights, bits, HIGH_EFFORT),
                f"weights: tilepress, {bits} bits, trained integers": partial(self._weights, bits, TRAINED),
            }
        for name, ingredients in quality_ablation.VARIANTS.items():
            self.rows[f"ablation: tilepress, {MIDDLE_BITS} bits, {name}"] = partial(self._ablation, ingredients)
        for mode in MODES:
            self.rows[f"activations: {mode}"] = partial(self._activations, mode)
        for mode in MODES:
            options = ("--bits", str(MIDDLE_BITS), "--activations", mode)
            name = f"both: tilepress, {MIDDLE_BITS} bits, {mode}"
            self.rows[name] = partial(self._engine, *options, *DISTILLED)
            self.rows[f"{name}, undistilled"] = partial(self._engine, *options, *UNDISTILLED)
        for size in SIZES:
            options = ("--size", size, "--head", "--embeddings", *DISTILLED)
            self.rows[f"whole: tilepress, {size}"] = partial(self._engine, *options)
        for kind in LLAMA_KINDS:
            self.rows[f"whole: llama.cpp {kind}"] = partial(self._llama, kind)

    @property
    def kept(self) -> Path:
        """Where results are kept."""
        name = f"{self._name}-{fingerprint.of_text(self.text)}-{self.tokens}-{self.calibration}"
        return self.cache / f"quality-{name}.json"

    def _peer(self, method: Callable[[list[quality_peers.Matrix]], quality_peers.Quantized]) -> Callable[[], Result]:
        def measure() -> Result:
            quantized = method(self._matrices)
            return self._result(self._float_with(quantized.weights), quantized.bits)

        return measure

    @cached_property
    def _observed(self) -> Observed:
        """From the tokens that `tilepress quant` reads too."""
        source = open_checkpoint(self.model)
        documents = self._docstrings if self.calibration == DOCSTRINGS else default_documents(0, self._tokenizer)
        tokens = token_sequences(
            self._tokenizer, documents, samples=SAMPLES, length=LENGTH, vocabulary=source.shape.vocab
        )
        return Observed(source, tokens)

    @cached_property
    def _docstrings(self) -> list[str]:
        """Docstrings of Python's standard library, more than are read."""
        return list(islice(docstrings(0), DOCUMENTS))

    def _calibration_options(self) -> tuple[str, ...]:
        if self.calibration != DOCSTRINGS:
            return ()
        file = self.cache / "docstrings.json"
        file.write_text(json.dumps(self._docstrings))
        return "--calib", str(file)

    @cached_property
    def _matrices(self) -> list[quality_peers.Matrix]:
        return quality_peers.matrices(self._observed.decoder, self._observed.statistics)

    @cached_property
    def _scaled_layers(self) -> list[Layer]:
        return self._observed.layers(Recipe().activations)

    def _ablation(self, ingredients: quality_ablation.Ingredients) -> Result:
        layers = self._scaled_layers if ingredients.scaling else self._observed.layers(None)
        quantized = quality_ablation.quantized(layers, ingredients, MIDDLE_BITS)
        return self._result(self._float_with(quantized.weights), quantized.bits)

    def _activations(self, mode: str) -> Result:
        """Our activations with float weights, folded as ours are."""
        layers = self._observed.layers(mode)
        model = self._float_with({name: t for layer in layers for name, t in layer.tensors().items()})
        with quantized_inputs(model, layers, mode) as seen:
            result = self._result(model)
        return replace(result, overflowing=seen.share() if mode == "overflow" else None)

    def _directories(self, *options: str) -> tuple[Path, Path]:
        """W8A8S and W8A8SC of the float model with these options of `tilepress quant`."""
        name = "_".join([self.calibration, *(option.strip("-") for option in options)])
        quantized, compressed = (self.cache / f"{self._name}-{kind}-{name}" for kind in ("w8a8s", "w8a8sc"))
        program = (sys.executable, "-m", "tilepress")
        calibration = ("--samples", str(SAMPLES), "--sequence-length", str(LENGTH), *self._calibration_options())
        if not quantized.exists():
            llama_cpp.run(*program, "quant", "-m", self.model, "-o", quantized, *calibration, *options)
        if not compressed.exists():
            llama_cpp.run(*program, "compress", "-m", quantized, "-o", compressed)
        return quantized, compressed

    def _weights(self, bits: float, options: tuple[str, ...]) -> Result:
        """Our weights as `tilepress quant` rounds them unasked, in the float model with its float activations."""
        quantized, compressed = self._directories("--bits", str(bits), "--activations", Recipe().activations, *options)
        checkpoint = open_checkpoint(quantized)
        tensors = {name: checkpoint.float_tensor(name).float() for name in checkpoint.float_names()}
        for prefix in checkpoint.quantized_linears():
            linear = checkpoint.linear(prefix)
            tensors[f"{prefix}.weight"] = linear.weight * linear.weight_scale()[:, None]
            sums = linear.weight.sum(dim=1, dtype=torch.int32)  # zero points are in the bias as it is stored
            bias = linear.quant_bias + linear.input_offset * sums
            if bias.any() or f"{prefix}.bias" in self._float.state_dict():
                tensors[f"{prefix}.bias"] = bias * linear.deq_scale
        return self._result(self._float_with(tensors), *_size(compressed))

    def _engine(self, *options: str) -> Result:
        _, compressed = self._directories(*options)
        return self._result(tilepress.load(compressed)[0], *_size(compressed))

    def _llama(self, kind: str) -> Result:
        kl, tokens = llama_cpp.divergence(self.cache, self.model, kind, self.text, self.tokens)
        size = llama_cpp.quantized(self.cache, self.model, kind).stat().st_size
        return Result(kl, None, None, tokens, size=size)

    def drop_logits(self) -> None:
        """Those that llama.cpp's rows are compared with."""
        llama_cpp.logits_file(self.cache, self.model, self.text, self.tokens).unlink(missing_ok=True)

    def _float_with(self, tensors: dict[str, torch.Tensor]) -> PreTrainedModel:
        """The float model with these tensors in place of its own, those of all linears of the decoder among them."""
        model = tilepress.load(self.model)[0]
        missing, unexpected = model.load_state_dict(tensors, strict=False)
        kept = [name for name in missing if name.removesuffix(".weight").endswith(LINEARS)]
        assert not unexpected, f"not in the model: {unexpected}"
        assert not kept, f"not replaced: {kept}"
        return model

    def _result(self, model: PreTrainedModel, bits: float | None = None, size: int | None = None) -> Result:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path(".bench"))
    parser.add_argument("--model", type=Path, help="a float directory (default: SmolLM2, fetched)")
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        help="evaluation texts, as many tokens of each (default: Python's and Debian's documents)",
    )
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--calibration", choices=("default", DOCSTRINGS), default="default")
    parser.add_argument("--rows", default="", help="measure rows whose name this regular expression finds")
    parser.add_argument("--llama", action="store_true", help="build llama.cpp and measure its files too")
    parser.add_argument("--again", action="store_true", help="measure rows again that the cache has results of")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="an .svg file: KL divergence against bytes of whole models")
    options = parser.parse_args()

    model = options.model or fetch_smollm2(options.cache)
    texts = [file.read_text() for file in options.text] if options.text else [evaluation_text(options.cache)]
    bench = Bench(options.cache, model, texts, options.tokens, options.calibration)
    known = quality_results.read(bench.kept)
    chosen = [row for row in bench.rows if re.search(options.rows, row) and (options.llama or "llama" not in row)]
    if not chosen:
        raise SystemExit(f"--rows {options.rows}: no such row; there are\n" + "\n".join(bench.rows))
    for row in chosen:
        if options.again or row not in known:
            started = time.monotonic()
            known[row] = bench.rows[row]()
            quality_results.add(bench.kept, row, known[row])
            print(f"{row}: KL {known[row].kl:.4f}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    known = quality_results.read(bench.kept)
    if all(row in known for row in bench.rows if "llama" in row):
        bench.drop_logits()
    results = {row: known[row] for row in chosen}
    quality_results.show(results)
    if options.json:
        options.json.write_text(
            json.dumps([{"row": row} | asdict(result) for row, result in results.items()], indent=1)
        )
    if options.plot and any(row.startswith("whole") for row in results):
        points = {row: (result.size, result.kl) for row, result in results.items() if row.startswith("whole")}
        options.plot.write_text(plot(points))


if __name__ == "__main__":
    main()
