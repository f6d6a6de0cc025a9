"""The way from a float checkpoint to a W8A8S directory, one float decoder layer in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from tilepress import codec
from tilepress.checkpoint import EMBEDDING, FloatCheckpoint, W8A8SWriter
from tilepress.checkpoint.activations import KEY
from tilepress.checkpoint.feeds import FINAL_NORM
from tilepress.errors import UsageError
from tilepress.quantize.budget import Budget
from tilepress.quantize.calibration import token_sequences
from tilepress.quantize.calibration_size import CalibrationSize, calibration_size
from tilepress.quantize.calibration_text import default_documents, read_documents
from tilepress.quantize.collected import CollectedModel, Sink
from tilepress.quantize.decoder import LayerwiseDecoder, TensorSource
from tilepress.quantize.distillation import distil
from tilepress.quantize.distillation_steps import distillation_steps
from tilepress.quantize.embedding import EmbeddingTable, embedding_table, quantize_embedding
from tilepress.quantize.folding import FoldedLayer, fold, mix_scales
from tilepress.quantize.head import NAME as HEAD
from tilepress.quantize.head import Head, fold_head, head_statistics, logit_sensitivity, quantize_head
from tilepress.quantize.layer import LinearGroup, activation_range, linear_groups, quantize_group
from tilepress.quantize.layer_inputs import layer_inputs
from tilepress.quantize.machine import machine_of
from tilepress.quantize.prediction import CurvePoint
from tilepress.quantize.recipe import Recipe
from tilepress.quantize.report import LinearReport, QuantizationReport
from tilepress.quantize.sensitivity import layer_sensitivities
from tilepress.quantize.statistics import InputStatistics, StatisticsCollector
from tilepress.quantize.steps import WeightSample, foretell_bits, refit_scale
from tilepress.quantize.stored_size import fixed_size, stays_float
from tilepress.quantize.targets import fit_target, loss_curve

SAMPLED_ROWS = 2048
TOKENS_A_PASS = 2048
# Share by which the head may miss its bits: rounding it again takes as long as some layers.
HEAD_TOLERANCE = 0.002


@dataclass(frozen=True)
class Progress:
    """`done` of `total`: visits to a layer, three to each, then steps of distillation. seconds_left: estimate."""

    done: int
    total: int
    seconds_left: float


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
    with W8A8SWriter(out, source, dtype=recipe.dtype, description={KEY: recipe.activations}) as writer:
        tokenizer = AutoTokenizer.from_pretrained(source.path)
        documents = default_documents(recipe.seed) if calibration is None else read_documents(calibration, tokenizer)
        context = int(source.config["max_position_embeddings"])
        size = calibration_size(recipe, source.shape, context, machine_of(torch.device(device)))
        tokens = token_sequences(
            tokenizer, documents, samples=size.samples, length=size.length, vocabulary=source.shape.vocab
        )
        report = Quantizer(source, recipe, size, tokens, torch.device(device), progress).run(writer)
        written = {FINAL_NORM.gain} if recipe.head or report.distillation is not None else set()
        for name in source.names():
            if not name.startswith("model.layers.") and stays_float(name, recipe) and name not in written:
                writer.add_float(name, source.tensor(name))
        writer.add_report(report.as_dict())
    return report


class Quantizer:
    """The two passes over the layers: where the loss is sensitive, then the quantization itself.

    source needs what TensorSource has; tokens int64 [samples, length], as many as there were of `size`.
    """

    def __init__(
        self,
        source: TensorSource,
        recipe: Recipe,
        size: CalibrationSize,
        tokens: Tensor,
        device: torch.device,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._source, self._recipe, self._size = source, recipe, size
        self._exact = recipe.loss is None
        self._tokens = tokens
        # A tied model keeps one table: the head's integers are its embedding too.
        self._shared = source.shape.tied and recipe.embeddings
        self._own_embedding = recipe.embeddings and not source.shape.tied
        self._sensitivity_tokens = tokens[: size.sensitivity_samples, : size.sensitivity_length]
        self._dtype: torch.dtype = getattr(torch, recipe.dtype)
        self._decoder = LayerwiseDecoder(source, device)
        self._heads = int(source.shape.heads)
        self._kv_heads = int(source.shape.kv_heads)
        self._generator = torch.Generator().manual_seed(recipe.seed)
        samples, length = tokens.shape
        self._distill_steps = distillation_steps(recipe, source.shape, samples, length, machine_of(device))
        self._progress = progress

    @torch.no_grad()
    def run(self, sink: Sink) -> QuantizationReport:
        """Quantize every decoder layer into `sink`: linears, norms with the folds; head and embedding if asked to.

        With distillation everything is collected first, the final norm with it, and handed on at the end.
        """
        visits = 3 * self._decoder.layers + 2 * self._recipe.head + self._own_embedding
        clock = _Clock(visits + self._distill_steps, self._progress)
        if self._distill_steps == 0:
            report, _ = self._quantize_layers(sink, clock)
        else:
            collected = CollectedModel(self._recipe.activations, self._shared)
            report, final = self._quantize_layers(collected, clock)
            if FINAL_NORM.gain not in collected.gains:
                collected.add_float(FINAL_NORM.gain, self._decoder.load(FINAL_NORM.gain).cpu())
            distilled, report.distillation = distil(
                self._decoder,
                collected,
                self._tokens,
                final,
                self._distill_steps,
                dtype=self._dtype,
                generator=self._generator,
                tick=clock.tick,
            )
            distilled.write(sink)
        report.seconds = clock.seconds()
        return report

    def _quantize_layers(self, sink: Sink, clock: _Clock) -> tuple[QuantizationReport, Tensor]:
        """The report, and the float model's hidden states [samples, length, hidden] before the final norm."""
        plan = self._allocate(clock)
        report = self._report(plan)
        hidden = self._decoder.embed(self._tokens)
        arguments = self._decoder.layer_arguments(self._tokens.shape[1])
        rows_a_pass = -(-SAMPLED_ROWS * _sequences_a_pass(hidden) // len(hidden))
        for index in range(self._decoder.layers):
            where = f"model.layers.{index}"
            with self._decoder.layer(index) as layer:
                with StatisticsCollector(layer, rows_a_pass, self._generator) as collector:
                    _run(layer, hidden, arguments[index])
                folded = self._fold(layer, collector.result(), where)
            for group in linear_groups(folded, plan.gradients[index], self._recipe.damping, where):
                report.linears += self._quantize(group, folded, plan.budget, sink, where)
            for name, tensor in folded.tensors.items():
                if "norm" in name:
                    sink.add_float(f"{where}.{name}", tensor.cpu())
            clock.tick()
        if plan.logits is not None:
            report.linears.append(self._quantize_head(self._fold_head(hidden, plan.logits), plan.budget, sink))
            clock.tick()
        if plan.table is not None:
            embedding, of_embedding = quantize_embedding(plan.table, plan.budget.bits(EMBEDDING), self._generator)
            sink.add_embedding(embedding)
            report.linears.append(of_embedding)
            clock.tick()
        return report, hidden

    def _allocate(self, clock: _Clock) -> _Plan:
        """The first pass: sensitivities, and from them the bits of every group."""
        tokens = self._sensitivity_tokens
        arguments = self._decoder.layer_arguments(tokens.shape[1])
        hidden = self._decoder.embed(tokens)
        inputs = layer_inputs(self._decoder.layers, hidden.shape, self._size.memory)
        for index in range(self._decoder.layers):
            inputs[index] = hidden.cpu()
            with self._decoder.layer(index) as layer:
                _run(layer, hidden, arguments[index])
            clock.tick()
        gradients: list[dict[str, Tensor]] = []
        logits: Tensor | None = None
        table: EmbeddingTable | None = None
        samples: dict[str, WeightSample] = {}
        if self._recipe.head:
            logits = logit_sensitivity(self._decoder, hidden)
            samples[HEAD] = self._fold_head(hidden, logits).sample(self._generator)
            clock.tick()
        for seen in layer_sensitivities(self._decoder, inputs, hidden, self._generator):
            where = f"model.layers.{seen.index}"
            folded = self._fold(seen.layer, seen.statistics, where)
            for group in linear_groups(folded, seen.gradients, self._recipe.damping, where):
                samples[f"{where}.{group.feed.name}"] = group.sample(self._generator)
            gradients.insert(0, seen.gradients)
            if seen.index == 0 and self._own_embedding:
                table = embedding_table(self._decoder, self._tokens, seen.of_input)
                samples[EMBEDDING] = table.sample(self._generator)
            clock.tick()
        fixed = fixed_size(self._source, self._recipe)
        factor = fit_target(list(samples.values()), self._recipe, fixed)
        bits = {name: foretell_bits([sample], factor) for name, sample in samples.items()}
        weights = {name: sample.weights for name, sample in samples.items()}
        budget = Budget(bits, weights, exact=self._exact)
        return _Plan(gradients, logits, table, budget, loss_curve(list(samples.values()), factor, fixed))

    def _report(self, plan: _Plan) -> QuantizationReport:
        samples, length = self._tokens.shape
        fewer = (samples, length) != (self._size.samples, self._size.length)
        return QuantizationReport(
            recipe=self._recipe,
            samples=samples,
            sequence_length=length,
            sensitivity_tokens=self._sensitivity_tokens.numel(),
            limits=("text",) if fewer else self._size.limits,
            curve=plan.curve,
        )

    def _fold(self, layer: nn.Module, statistics: dict[str, InputStatistics], where: str) -> FoldedLayer:
        heads = {"heads": self._heads, "kv_heads": self._kv_heads}
        scales = mix_scales(statistics, self._recipe.damping, where, **heads)
        return fold(layer.state_dict(), statistics, scales, self._dtype, **heads)

    def _fold_head(self, hidden: Tensor, sensitivity: Tensor) -> Head:
        rows = max(1, SAMPLED_ROWS // len(hidden))
        seen = head_statistics(self._decoder, hidden, rows, self._generator)
        return fold_head(self._decoder, seen, sensitivity, self._recipe.damping, self._dtype, shared=self._shared)

    def _quantize(
        self, group: LinearGroup, folded: FoldedLayer, budget: Budget, sink: Sink, where: str
    ) -> list[LinearReport]:
        name = f"{where}.{group.feed.name}"
        sample = group.sample(self._generator)
        aimed = budget.bits(name)
        scale = refit_scale(sample, aimed)
        inputs = activation_range(group, self._recipe.activations, self._dtype, name)
        reports, integers = [], []
        for reader, linear, report in quantize_group(
            group, sample.steps(scale), sample.rate_at(scale)[1], inputs, folded.tensors, where
        ):
            sink.add_linear(f"{where}.{reader}", linear)
            integers.append(linear.weight)
            reports.append(report)
        self._spend(budget, name, aimed, integers)
        return reports

    def _quantize_head(self, head: Head, budget: Budget, sink: Sink) -> LinearReport:
        """Twice where the first try takes more or fewer bits than it should: few groups come after it, or none."""
        sample = head.sample(self._generator)
        aimed = budget.bits(HEAD)
        linear, report = quantize_head(head, sample, aimed, self._recipe.activations, self._dtype)
        if self._exact and abs(longer := _taken([linear.weight]) / aimed - 1.0) > HEAD_TOLERANCE:
            corrected = aimed / (1.0 + longer)
            linear, report = quantize_head(head, sample, corrected, self._recipe.activations, self._dtype)
        self._spend(budget, HEAD, aimed, [linear.weight])
        sink.add_float(FINAL_NORM.gain, head.gain.cpu())
        sink.add_linear(HEAD, linear)
        return report

    def _spend(self, budget: Budget, name: str, aimed: float, integers: list[Tensor]) -> None:
        """Only bits and sizes have to come out."""
        if self._exact:
            budget.spend(name, aimed, _taken(integers))


@dataclass(frozen=True)
class _Plan:
    """gradients: G_o of every linear, by layer. logits: that of the head, table: of the embedding, if asked for."""

    gradients: list[dict[str, Tensor]]
    logits: Tensor | None
    table: EmbeddingTable | None
    budget: Budget
    curve: tuple[CurvePoint, ...]


def _taken(integers: list[Tensor]) -> float:
    """Bits a weight that the codec takes for linears that are fused."""
    matrix = torch.cat(integers)
    return 8 * codec.encode(matrix.numpy()).weight.nbytes / matrix.numel()


def _run(layer: nn.Module, hidden: Tensor, arguments: dict[str, Any]) -> None:
    """Replace hidden [samples, length, hidden] by the layer's output, some sequences at a time."""
    count = _sequences_a_pass(hidden)
    for start in range(0, len(hidden), count):
        part = slice(start, start + count)
        hidden[part] = layer(hidden[part], **arguments)


def _sequences_a_pass(hidden: Tensor) -> int:
    return max(1, TOKENS_A_PASS // hidden.shape[1])


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
