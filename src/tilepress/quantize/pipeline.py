"""The way from a float checkpoint to a W8A8S directory, one decoder layer in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from tilepress.checkpoint import EMBEDDING, FloatCheckpoint, QuantizedEmbedding, QuantizedLinear, W8A8SWriter
from tilepress.errors import UsageError
from tilepress.quantize.calibration import token_sequences
from tilepress.quantize.calibration_text import default_documents, read_documents
from tilepress.quantize.decoder import LayerwiseDecoder, TensorSource
from tilepress.quantize.embedding import quantize_embedding
from tilepress.quantize.folding import FoldedLayer, fold, mix_scales
from tilepress.quantize.head import NAME as HEAD
from tilepress.quantize.head import NORM_BEFORE as NORM_BEFORE_HEAD
from tilepress.quantize.head import Head, fold_head, head_statistics, logit_sensitivity, quantize_head
from tilepress.quantize.layer import LinearGroup, activation_range, linear_groups, quantize_group, settled_lengths
from tilepress.quantize.recipe import Recipe
from tilepress.quantize.report import LinearReport, QuantizationReport
from tilepress.quantize.sensitivity import layer_sensitivities
from tilepress.quantize.statistics import InputStatistics, StatisticsCollector
from tilepress.quantize.steps import WeightSample, allocate, refit_scale

SENSITIVITY_SEQUENCES = 8
SAMPLED_ROWS = 512
SEQUENCES_A_PASS = 4


@dataclass(frozen=True)
class Progress:
    """`done` of `total` visits to a layer, three to each. seconds_left: estimate for all of them."""

    done: int
    total: int
    seconds_left: float


class Sink(Protocol):
    """What takes the results in as they come; W8A8SWriter is one."""

    def add_float(self, name: str, tensor: Tensor) -> None: ...
    def add_linear(self, prefix: str, linear: QuantizedLinear) -> None: ...
    def add_embedding(self, embedding: QuantizedEmbedding) -> None: ...


def quantize_checkpoint(
    source: FloatCheckpoint,
    out: Path,
    recipe: Recipe,
    *,
    calibration: Path | None = None,
    device: str = "cpu",
    progress: Callable[[Progress], None] | None = None,
) -> QuantizationReport:
    """Quantize a float checkpoint into the W8A8S directory `out`, which appears whole or not at all.

    calibration: a file for `read_documents`; without one, docstrings of Python's standard library. The same recipe,
    text and device give the same bytes. Raises QuantizationError, CheckpointError; UsageError where an embedding is
    to be quantized without the head that is tied to it.
    """
    if recipe.embeddings and source.shape.tied and not recipe.head:
        raise UsageError(
            f"{source.path}: the head is tied to the embedding and cannot stay float without it; quantize both, with "
            "--embeddings --head"
        )
    with W8A8SWriter(out, source, dtype=recipe.dtype) as writer:
        tokenizer = AutoTokenizer.from_pretrained(source.path)
        documents = default_documents(recipe.seed) if calibration is None else read_documents(calibration, tokenizer)
        tokens = token_sequences(
            tokenizer,
            documents,
            samples=recipe.samples,
            length=min(recipe.sequence_length, int(source.config["max_position_embeddings"])),
            vocabulary=source.shape.vocab,
        )
        report = Quantizer(source, recipe, tokens, torch.device(device), progress).run(writer)
        written = {f"{HEAD}.weight", NORM_BEFORE_HEAD} if recipe.head else set()
        if recipe.embeddings:
            written.add(f"{EMBEDDING}.weight")
        for name in source.names():
            if not name.startswith("model.layers.") and name not in written:
                writer.add_float(name, source.tensor(name))
    return report


class Quantizer:
    """The two passes over the layers: where the loss is sensitive, then the quantization itself.

    source needs `.config`, `.shape`, `tensor(name)` and `has(name)`; tokens int64 [samples, length].
    """

    def __init__(
        self,
        source: TensorSource,
        recipe: Recipe,
        tokens: Tensor,
        device: torch.device,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._recipe = recipe
        self._tokens = tokens
        self._dtype: torch.dtype = getattr(torch, recipe.dtype)
        self._decoder = LayerwiseDecoder(source, device)
        self._heads = int(source.shape.heads)
        self._kv_heads = int(source.shape.kv_heads)
        self._generator = torch.Generator().manual_seed(recipe.seed)
        self._progress = progress

    @torch.no_grad()
    def run(self, sink: Sink) -> QuantizationReport:
        """Quantize every decoder layer into `sink`: linears, norms with the folds; head and embedding if asked to."""
        clock = _Clock(3 * self._decoder.layers + 2 * self._recipe.head + self._recipe.embeddings, self._progress)
        gradients, logits, budgets = self._allocate(clock)
        report = QuantizationReport(self._tokens.numel(), self._tokens[:SENSITIVITY_SEQUENCES].numel())
        hidden = self._decoder.embed(self._tokens)
        arguments = self._decoder.layer_arguments(self._tokens.shape[1])
        rows_a_pass = max(1, SAMPLED_ROWS * SEQUENCES_A_PASS // len(self._tokens))
        for index in range(self._decoder.layers):
            where = f"model.layers.{index}"
            with self._decoder.layer(index) as layer:
                with StatisticsCollector(layer, rows_a_pass, self._generator) as collector:
                    _run(layer, hidden, arguments[index])
                folded = self._fold(layer, collector.result(), where)
            for group in linear_groups(folded, gradients[index], self._recipe.damping, where):
                report.linears += self._quantize(group, folded, budgets[f"{where}.{group.name}"], sink, where)
            for name, tensor in folded.tensors.items():
                if "norm" in name:
                    sink.add_float(f"{where}.{name}", tensor.cpu())
            clock.tick()
        if logits is not None:
            head = self._fold_head(hidden, logits)
            linear, of_head = quantize_head(head, budgets[HEAD], self._dtype, self._generator)
            sink.add_float(NORM_BEFORE_HEAD, head.gain.cpu())
            sink.add_linear(HEAD, linear)
            report.linears.append(of_head)
            clock.tick()
        if self._recipe.embeddings:
            embedding, of_embedding = quantize_embedding(self._decoder, self._recipe.bits, self._generator)
            sink.add_embedding(embedding)
            report.linears.append(of_embedding)
            clock.tick()
        report.seconds = clock.seconds()
        return report

    def _allocate(self, clock: _Clock) -> tuple[list[dict[str, Tensor]], Tensor | None, dict[str, float]]:
        """G_o of every linear by layer, that of the head if asked for, and the bits a weight of every group by name."""
        tokens = self._tokens[:SENSITIVITY_SEQUENCES]
        arguments = self._decoder.layer_arguments(tokens.shape[1])
        hidden = self._decoder.embed(tokens)
        inputs: list[Tensor] = []
        for index in range(self._decoder.layers):
            inputs.append(hidden.cpu().clone())
            with self._decoder.layer(index) as layer:
                _run(layer, hidden, arguments[index])
            clock.tick()
        gradients: list[dict[str, Tensor]] = []
        logits: Tensor | None = None
        samples: dict[str, WeightSample] = {}
        if self._recipe.head:
            logits = logit_sensitivity(self._decoder, hidden)
            samples[HEAD] = self._fold_head(hidden, logits).sample(self._generator)
            clock.tick()
        for seen in layer_sensitivities(self._decoder, inputs, hidden, self._generator):
            where = f"model.layers.{seen.index}"
            folded = self._fold(seen.layer, seen.statistics, where)
            for group in linear_groups(folded, seen.gradients, self._recipe.damping, where):
                samples[f"{where}.{group.name}"] = group.sample(self._generator)
            gradients.insert(0, seen.gradients)
            clock.tick()
        bits = allocate(list(samples.values()), self._recipe.bits)
        return gradients, logits, dict(zip(samples, bits, strict=True))

    def _fold(self, layer: nn.Module, statistics: dict[str, InputStatistics], where: str) -> FoldedLayer:
        heads = {"heads": self._heads, "kv_heads": self._kv_heads}
        scales = mix_scales(statistics, self._recipe.damping, where, **heads)
        return fold(layer.state_dict(), statistics, scales, self._dtype, **heads)

    def _fold_head(self, hidden: Tensor, sensitivity: Tensor) -> Head:
        rows = max(1, SAMPLED_ROWS // len(hidden))
        seen = head_statistics(self._decoder, hidden, rows, self._generator)
        return fold_head(self._decoder, seen, sensitivity, self._recipe.damping, self._dtype)

    def _quantize(
        self, group: LinearGroup, folded: FoldedLayer, bits: float, sink: Sink, where: str
    ) -> list[LinearReport]:
        sample = group.sample(self._generator)
        scale = refit_scale(sample, bits)
        inputs = activation_range(group, self._dtype, f"{where}.{group.name}")
        reports = []
        for reader, linear, report in quantize_group(
            group, sample.steps(scale), settled_lengths(sample, scale), inputs, folded.tensors, where
        ):
            sink.add_linear(f"{where}.{reader}", linear)
            reports.append(report)
        return reports


def _run(layer: nn.Module, hidden: Tensor, arguments: dict[str, Any]) -> None:
    """Replace hidden [samples, length, hidden] by the layer's output, a few sequences at a time."""
    for start in range(0, len(hidden), SEQUENCES_A_PASS):
        part = slice(start, start + SEQUENCES_A_PASS)
        hidden[part] = layer(hidden[part], **arguments)


class _Clock:
    """Tells the callback how far the work is and how long it will take at the pace so far."""

    def __init__(self, total: int, progress: Callable[[Progress], None] | None) -> None:
        self._total, self._progress = total, progress
        self._started, self._done = time.monotonic(), 0

    def seconds(self) -> float:
        return time.monotonic() - self._started

    def tick(self) -> None:
        self._done += 1
        if self._progress is not None:
            left = self.seconds() / self._done * (self._total - self._done)
            self._progress(Progress(self._done, self._total, left))
