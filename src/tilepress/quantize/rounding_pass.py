"""The second pass over the layers: each is scaled, rounded and saved as it will be stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tilepress import codec
from tilepress.checkpoint import EMBEDDING
from tilepress.models.layer_inputs import FEEDS, FINAL_NORM
from tilepress.quantize.context import SAMPLED_ROWS, Job
from tilepress.quantize.layerwise.hidden_states import Batches, HiddenStates, room_for, write_states
from tilepress.quantize.quantized_model import Sink, StageResults
from tilepress.quantize.rate.budget import Budget
from tilepress.quantize.rate.weight_scales import refit_step_factor
from tilepress.quantize.report import LinearReport
from tilepress.quantize.rounding.embedding import EmbeddingTable, quantize_embedding
from tilepress.quantize.rounding.head import NAME as HEAD
from tilepress.quantize.rounding.head import quantize_head
from tilepress.quantize.rounding.layer import FusedWeight, activation_range, fused_weights, quantize_fused
from tilepress.quantize.sensitivity_pass import LOGITS, TABLE, sensitivity_stage
from tilepress.quantize.statistics.input_statistics import StatisticsCollector
from tilepress.quantize.transforms.folding import FoldedLayer

# The relative error of the head's bits that is accepted: rounding it again takes as long as several layers.
HEAD_TOLERANCE = 0.002

Made = tuple[StageResults, list[LinearReport]]


class RoundingPass:
    """Rounds each layer, then head and embedding where they are quantized; each is a stage. source: named in errors."""

    def __init__(self, job: Job, budget: Budget, source: Path) -> None:
        self._job, self._budget, self._source = job, budget, source

    def run(self) -> HiddenStates:
        """Return the inputs of the float model's final norm. The results are in the stages of `result_stages`."""
        job = self._job
        final = self._layers()
        if job.recipe.head and not self._is_done(HEAD):
            self._finish(HEAD, *self._head(final))
        if job.own_embedding and not self._is_done(EMBEDDING):
            self._finish(EMBEDDING, *self._embedding())
        return final

    def _layers(self) -> HiddenStates:
        job, layers = self._job, self._job.decoder.layers
        samples, length = job.tokens.shape
        batches = Batches(samples, length, job.ranks)
        tokens = job.tokens[batches.share]
        shape = (*tokens.shape, job.decoder.hidden)
        held = room_for(shape, job.states_memory)
        first = next((i for i in range(layers) if not self._is_done(layer_stage(i))), layers)
        states = HiddenStates(job.work, _states(first)) if first else job.embedded(_states(0), tokens, held)
        arguments = job.decoder.layer_arguments(length)
        for index in range(first, layers):
            folded, states = self._run(index, states, batches, arguments[index], held)
            self._finish(layer_stage(index), *self._layer(index, folded))
            del folded
            job.work.drop(_states(index))
        return states

    def _run(
        self,
        index: int,
        states: HiddenStates,
        batches: Batches,
        arguments: Mapping[str, Any],
        held: Tensor | None,
    ) -> tuple[FoldedLayer, HiddenStates]:
        """Return the folded layer and the next layer's inputs. states: this layer's inputs in the float model."""
        job = self._job
        rows = -(-SAMPLED_ROWS * batches.sequences // len(job.tokens))
        with job.decoder.layer(index) as layer:
            with StatisticsCollector(layer, rows, job.generator) as collector:
                collector.skip(batches.before)
                parts = (layer(part.to(job.decoder.device), **arguments) for part in states.parts(batches.sequences))
                following = write_states(job.work, _states(index + 1), states.shape, parts, held)
                collector.skip(batches.after)
            return job.fold(layer, collector.result(job.ranks), f"model.layers.{index}"), following

    def _layer(self, index: int, folded: FoldedLayer) -> Made:
        """Quantize a layer. `folded` is emptied, group by group, to save memory."""
        job, where = self._job, f"model.layers.{index}"
        results = self._results()
        stored = job.work.tensors(sensitivity_stage(index))
        fisher = {feed.name: stored.read(feed.name).to(job.decoder.device) for feed in FEEDS}
        reports: list[LinearReport] = []
        for group in fused_weights(folded, fisher, job.recipe.damping, where, job.rounded_feeds(where)):
            reports += self._group(group, folded, results, where)
            del group
        for name, tensor in folded.tensors.items():
            if "norm" in name or job.recipe.keeps_float(f"{where}.{name.rpartition('.')[0]}"):
                results.add_float(f"{where}.{name}", tensor)
        return results, reports

    def _group(self, group: FusedWeight, folded: FoldedLayer, sink: Sink, where: str) -> list[LinearReport]:
        job, ranks, name = self._job, self._job.ranks, f"{where}.{group.feed.name}"
        sample = group.sample(job.generator, job.recipe.coding)
        aimed = self._budget.bits(name)
        scale = ranks.first(lambda: refit_step_factor(sample, aimed))
        weight_scale, lengths = ranks.agreed(sample.weight_scales(scale)), ranks.agreed(sample.rate_at(scale)[1])
        inputs = ranks.first(lambda: activation_range(group, job.recipe.activations, job.dtype, name))
        rounded = quantize_fused(
            group,
            weight_scale,
            lengths,
            inputs,
            folded.tensors,
            where,
            ranks,
            sample.coding,
            sweeps=job.recipe.sweeps(group.weight.shape[1]),
        )
        reports, integers = [], []
        for consumer, linear, report in rounded:
            sink.add_linear(f"{where}.{consumer}", linear)
            integers.append(linear.weight)
            reports.append(report)
        self._spend(name, aimed, integers)
        return reports

    def _head(self, final: HiddenStates) -> Made:
        """Quantize the head, twice where the first result misses its bits: hardly any later group makes up for it."""
        job, ranks = self._job, self._job.ranks
        head = job.fold_head(final, self._stored(LOGITS, "sensitivity"))
        sample = head.sample(job.generator, job.recipe.coding)
        aimed = ranks.first(lambda: self._budget.bits(HEAD))
        round_head = partial(quantize_head, sweeps=job.recipe.sweeps(job.decoder.hidden))
        linear, report = round_head(head, sample, aimed, job.recipe.activations, job.dtype, ranks)
        # A head of zeros is foretold to take no bits at all.
        longer = ranks.first(lambda: _taken([linear.weight], job.recipe.coding) / aimed - 1.0 if aimed > 0 else 0.0)
        if job.exact and abs(longer) > HEAD_TOLERANCE:
            corrected = aimed / (1.0 + longer)
            linear, report = round_head(head, sample, corrected, job.recipe.activations, job.dtype, ranks)
        self._spend(HEAD, aimed, [linear.weight])
        results = self._results()
        results.add_float(FINAL_NORM.gain, head.gain)
        results.add_linear(HEAD, linear)
        return results, [report]

    def _embedding(self) -> Made:
        """Quantize the embedding, on the first rank alone: without error feedback it is soon done."""
        job = self._job
        if not job.ranks.writes:
            return self._results(), []
        table = EmbeddingTable(job.decoder, self._stored(sensitivity_stage(0), TABLE))
        embedding, report = quantize_embedding(table, self._budget.bits(EMBEDDING), job.generator, job.recipe.coding)
        results = self._results()
        results.add_embedding(embedding)
        return results, [report]

    def _stored(self, stage: str, name: str) -> Tensor:
        return self._job.work.tensors(stage).read(name).to(self._job.decoder.device)

    def _spend(self, name: str, aimed: float, integers: list[Tensor]) -> None:
        """Charge the bits taken to the budget, which the first rank keeps; a loss as target needs no correction."""
        if self._job.exact and self._job.ranks.writes:
            self._budget.spend(name, aimed, _taken(integers, self._job.recipe.coding))

    def _results(self) -> StageResults:
        return StageResults(self._source, self._job.recipe.dtype)

    def _is_done(self, stage: str) -> bool:
        record = self._job.done(stage)
        if record is not None:
            self._budget.restore(record["budget"])
        return record is not None

    def _finish(self, stage: str, results: StageResults, reports: list[LinearReport]) -> None:
        if self._job.ranks.writes:
            self._job.work.save(stage, results.tensors)
        record = {"types": results.types, "flushed": results.flushed, "reports": [asdict(r) for r in reports]}
        self._job.finish(stage, record | {"budget": self._budget.state()})


def result_stages(job: Job) -> list[str]:
    """The stages whose tensors make up the quantized model, in the order in which they are stored."""
    layers = [layer_stage(index) for index in range(job.decoder.layers)]
    return layers + [HEAD] * job.recipe.head + [EMBEDDING] * job.own_embedding


def layer_stage(index: int) -> str:
    return f"layer-{index:05}"


def _states(index: int) -> str:
    """File name of the inputs of layer `index`; past the last layer, of the final norm."""
    return f"states-{index:05}"


def _taken(integers: list[Tensor], coding: str) -> float:
    """Compressed bits per weight of linears that are fused."""
    matrix = integers[0] if len(integers) == 1 else torch.cat(integers)
    encode = codec.encode_entropy if coding == codec.ENTROPY else codec.encode
    return 8 * encode(matrix.numpy()).weight.nbytes / matrix.numel()
