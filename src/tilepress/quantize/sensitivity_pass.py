"""The first pass over the layers: the sensitivity of the loss, and from it the bits of every group."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from tilepress.checkpoint import EMBEDDING
from tilepress.checkpoint.tensors.activation_mode import STATIC, mode_of_input
from tilepress.errors import QuantizationError
from tilepress.models.layer_inputs import FEEDS, LINEARS
from tilepress.quantize.context import Job
from tilepress.quantize.estimate.stored_size import fixed_size
from tilepress.quantize.layerwise.hidden_states import HiddenStates, room_for, sequences_a_batch, write_states
from tilepress.quantize.rate.allocation import CurvePoint, fit_target, loss_curve
from tilepress.quantize.rate.budget import Budget
from tilepress.quantize.rate.weight_scales import StoredSamples, WeightSample, foretell_bits, sample_tensors
from tilepress.quantize.recipe.recipe import Recipe
from tilepress.quantize.rounding.embedding import embedding_table, typical_tokens
from tilepress.quantize.rounding.head import NAME as HEAD
from tilepress.quantize.rounding.head import logit_sensitivity
from tilepress.quantize.rounding.layer import activation_range, fused_weights, range_loss
from tilepress.quantize.statistics.sensitivity import LayerSensitivity, gradient_of_sampled_loss, layer_sensitivity

ALLOCATION = "allocation"
LOGITS = "logits"
LOSS_GRADIENT = "loss-gradient"
TABLE = "table"
RANGE_LOSSES = "range_losses"


@dataclass(frozen=True)
class Allocation:
    """Results of the first pass for the second, beside the sensitivities that its stages hold.

    recipe: with the names of all linears that stay float.
    """

    recipe: Recipe
    budget: Budget
    curve: tuple[CurvePoint, ...]


class SensitivityPass:
    """Forward over all layers, then backward; each layer is a stage."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._layers = job.decoder.layers

    def run(self) -> Allocation:
        job = self._job
        final = self._forward()
        if job.recipe.head:
            self._logits(final)
        self._backward(final)
        record = job.done(ALLOCATION, visits=0)
        if record is None:
            record = job.ranks.first(self._allocate)
            job.finish(ALLOCATION, record, visits=0)
        budget = Budget(record["bits"], record["weights"], exact=job.exact)
        recipe = replace(job.recipe, float_linears=tuple(record["float_linears"]))
        return Allocation(recipe, budget, tuple(CurvePoint(**point) for point in record["curve"]))

    def _forward(self) -> HiddenStates | None:
        """Return the final norm's inputs; None where no later stage needs them."""
        job = self._job
        tokens = job.sensitivity_tokens[job.ranks.share(len(job.sensitivity_tokens))]
        shape = (*tokens.shape, job.decoder.hidden)
        first = next((i for i in range(self._layers) if job.done(f"forward-{i:05}") is None), self._layers)
        if job.ranks.all(job.work.record(LOSS_GRADIENT) is not None):
            return None
        held = room_for(shape, job.states_memory)
        states = HiddenStates(job.work, _inputs(first)) if first else job.embedded(_inputs(0), tokens, held)
        arguments = job.decoder.layer_arguments(tokens.shape[1])
        sequences = sequences_a_batch(len(job.sensitivity_tokens), tokens.shape[1])
        for index in range(first, self._layers):
            with job.decoder.layer(index) as layer:
                parts = (layer(part.to(job.decoder.device), **arguments[index]) for part in states.parts(sequences))
                states = write_states(job.work, _inputs(index + 1), shape, parts, held)
            job.finish(f"forward-{index:05}")
        return states

    def _logits(self, final: HiddenStates | None) -> None:
        job = self._job
        if job.done(LOGITS) is not None:
            return
        assert final is not None
        sensitivity = logit_sensitivity(job.decoder, final, job.ranks)
        sample = job.fold_head(final, sensitivity).sample(job.generator, job.recipe.coding)
        job.work.save(LOGITS, {"sensitivity": sensitivity.cpu()} | self._sampled(HEAD, sample))
        job.finish(LOGITS)

    def _backward(self, final: HiddenStates | None) -> None:
        job, last = self._job, self._layers
        if job.done(LOSS_GRADIENT, visits=0) is None:
            assert final is not None
            gradient = gradient_of_sampled_loss(job.decoder, final, final.shape[1], job.generator, job.ranks)
            job.work.save(_gradient(last), {_gradient(last): gradient.cpu()})
            job.finish(LOSS_GRADIENT, visits=0)
        job.work.drop(_inputs(last))
        first = next((i for i in reversed(range(last)) if not self._is_done(i)), None)
        if first is None:
            return
        gradient = job.work.tensors(_gradient(first + 1)).read(_gradient(first + 1)).to(job.decoder.device)
        arguments = job.decoder.layer_arguments(gradient.shape[1])
        typical = typical_tokens(job.decoder, job.sensitivity_tokens)
        mine = typical[job.ranks.share(len(typical))]
        for index in reversed(range(first + 1)):
            inputs = HiddenStates(job.work, _inputs(index))
            with layer_sensitivity(
                job.decoder, index, inputs, arguments[index], gradient, job.generator, job.ranks, mine
            ) as seen:
                tensors, losses = self._tensors(seen, typical)
            del seen  # its Hessians take as much memory as the next layer
            job.work.save(_gradient(index), {_gradient(index): gradient.cpu()})
            job.work.save(sensitivity_stage(index), tensors)
            job.finish(sensitivity_stage(index), {RANGE_LOSSES: losses})
            self._forget(index)

    def _is_done(self, index: int) -> bool:
        done = self._job.done(sensitivity_stage(index)) is not None
        if done:
            self._forget(index)
        return done

    def _forget(self, index: int) -> None:
        """Drop the files of this layer's backward pass that no other stage needs."""
        self._job.work.drop(_inputs(index))
        self._job.work.drop(_gradient(index + 1))
        if index == 0:
            self._job.work.drop(_gradient(0))

    def _tensors(self, seen: LayerSensitivity, typical: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return the Fisher information by input, and the samples from which the weight scales are fitted.

        Also what the range of each input costs, by its name, where that decides which linears stay float.

        typical: `typical_tokens` of the tokens that this pass reads.
        """
        job = self._job
        where = f"model.layers.{seen.index}"
        tensors = {name: fisher.cpu() for name, fisher in seen.fisher.items()}
        folded = job.fold(seen.layer, seen.statistics, where)
        losses = {}
        for group in fused_weights(folded, seen.fisher, job.recipe.damping, where, job.rounded_feeds(where)):
            name = f"{where}.{group.feed.name}"
            tensors |= self._sampled(name, group.sample(job.generator, job.recipe.coding))
            mode = mode_of_input(job.recipe.activations, massive=group.feed.massive)
            if job.recipe.float_above and mode == STATIC:
                inputs = activation_range(group, job.recipe.activations, job.dtype, name)
                losses[group.feed.name] = range_loss(group, inputs)
            del group
        if seen.index == 0 and job.own_embedding:
            table = embedding_table(job.decoder, job.tokens, typical, seen.of_input)
            sample = table.sample(job.generator, job.recipe.coding)
            tensors |= {TABLE: table.sensitivity.cpu().clone()} | self._sampled(EMBEDDING, sample)
        return tensors, losses

    def _sampled(self, name: str, sample: WeightSample) -> dict[str, Tensor]:
        """Return the tensors of a sample, on the first rank only, which alone reads them again."""
        return sample_tensors(name, sample) if self._job.ranks.writes else {}

    def _allocate(self) -> dict[str, Any]:
        job = self._job
        samples = StoredSamples(job.recipe.coding)
        if job.recipe.head:
            samples.add(HEAD, job.work.tensors(LOGITS))
        recipe = replace(job.recipe, float_linears=self._float_linears())
        for index in reversed(range(self._layers)):
            stored = job.work.tensors(sensitivity_stage(index))
            for feed in FEEDS:
                if not recipe.keeps_float(f"model.layers.{index}.{feed.consumers[0]}"):
                    samples.add(f"model.layers.{index}.{feed.name}", stored)
        if job.own_embedding:
            samples.add(EMBEDDING, job.work.tensors(sensitivity_stage(0)))
        fixed = fixed_size(job.source, recipe)
        factor = fit_target(samples, recipe, fixed)
        named = zip(samples.names, samples, strict=True)
        groups = {name: (foretell_bits([sample], factor), sample.weights) for name, sample in named}
        return {
            "bits": {name: bits for name, (bits, _) in groups.items()},
            "weights": {name: weights for name, (_, weights) in groups.items()},
            "float_linears": recipe.float_linears,
            "curve": [asdict(point) for point in loss_curve(samples, factor, fixed)],
        }

    def _float_linears(self) -> tuple[str, ...]:
        """Return the names of the linears that stay float: those that the recipe names, and where ranges cost most."""
        job, names = self._job, []
        for index in range(self._layers):
            losses = (job.work.record(sensitivity_stage(index)) or {})[RANGE_LOSSES]
            for feed in FEEDS:
                linears = [f"model.layers.{index}.{consumer}" for consumer in feed.consumers]
                if job.recipe.keeps_float(linears[0]) or losses.get(feed.name, 0.0) > job.recipe.float_above:
                    names += linears
        if len(names) == self._layers * len(LINEARS):
            raise QuantizationError(
                f"float_above is {job.recipe.float_above:g} nats: the range of every linear's input is predicted to "
                "cost more, so that nothing is left to quantize; choose more"
            )
        return tuple(names)


def sensitivity_stage(index: int) -> str:
    """The stage whose tensors hold a layer's `LayerSensitivity.fisher`, by the names of FEEDS."""
    return f"sensitivity-{index:05}"


def _inputs(index: int) -> str:
    """File name of the inputs of layer `index`; past the last layer, of the final norm."""
    return f"inputs-{index:05}"


def _gradient(index: int) -> str:
    """File name of the loss' gradient at `_inputs(index)`."""
    return f"gradient-{index:05}"
