"""Our weights with one ingredient left out at a time, at the same compressed size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from benchmarks.quality.layers import Layer
from benchmarks.quality.rounding_peers import Matrix, Quantized, fit
from torch import Tensor

from tilepress.codec import ENTROPY
from tilepress.quantize import Recipe
from tilepress.quantize.rate.rounding_rule import LARGEST
from tilepress.quantize.rate.weight_scales import WeightSample, fit_step_factor
from tilepress.quantize.rounding.gptq import round_weights
from tilepress.quantize.rounding.layer import FusedWeight
from tilepress.quantize.rounding.refinement import refine_weights
from tilepress.quantize.statistics.fisher import FisherFactor
from tilepress.quantize.statistics.hessian import HessianFactor


@dataclass(frozen=True)
class Ingredients:
    """scaling: columns of the inputs are scaled. fisher: steps follow the loss, else the rows' standard deviation.

    rate: a decision counts the bits it costs, else the nearest integer is taken. feedback: an error is spread over the
    columns that follow. rows: it is spread over the rows that follow. refinement: the integers are refined.
    """

    scaling: bool = True
    fisher: bool = True
    rate: bool = True
    feedback: bool = True
    rows: bool = True
    refinement: bool = True


VARIANTS = {
    "all of it": Ingredients(),
    "without column scaling": Ingredients(scaling=False),
    "without Fisher steps": Ingredients(fisher=False),
    "without the rate term": Ingredients(rate=False),
    "without error feedback": Ingredients(feedback=False, rows=False, refinement=False),
    "without refinement": Ingredients(refinement=False),
    "without error feedback over rows": Ingredients(rows=False),
}


@dataclass(frozen=True)
class _Sampled(Matrix):
    """A matrix of a folded layer, and the columns that the lengths of the codec's codes are foretold from."""

    sample: WeightSample
    outputs: FisherFactor


@torch.no_grad()
def quantized(layers: Sequence[Layer], ingredients: Ingredients, bits: float) -> Quantized:
    """All tensors of the layers, the linears rounded to `bits` bits a weight. layers: scaled or not, as ingredients."""
    generator = torch.Generator().manual_seed(0)
    all_of = [_sampled(layer, group, ingredients, generator) for layer in layers for group in layer.groups]

    def rounded(matrix: _Sampled, steps: Tensor) -> Tensor:
        lengths = torch.zeros(LARGEST + 1)
        if ingredients.rate:
            lengths = replace(matrix.sample, relative=steps).rate_at(1.0)[1]
        integers = round_weights(matrix.weight, steps, matrix.factor, lengths, matrix.outputs)
        if ingredients.refinement:
            hessian, sweeps = matrix.factor.damped(), Recipe().sweeps(matrix.weight.shape[1])
            refine_weights(integers, matrix.weight, steps, matrix.factor, hessian, lengths, matrix.outputs, sweeps)
        return integers

    first = fit_step_factor([matrix.sample for matrix in all_of], bits)
    made = fit(all_of, bits, lambda matrix: matrix.sample.relative, rounded, first)
    tensors = {name: tensor for layer in layers for name, tensor in layer.tensors().items()}
    return Quantized(tensors | made.weights, made.bits)


def _sampled(layer: Layer, group: FusedWeight, ingredients: Ingredients, generator: torch.Generator) -> _Sampled:
    outputs = group.outputs if ingredients.rows else _apart(group.outputs)
    sample = replace(group, outputs=outputs).sample(generator, ENTROPY)
    if not ingredients.fisher:
        sample = replace(sample, relative=group.weight.std(dim=1))
    if not ingredients.rate:
        sample = replace(sample, rate=torch.zeros_like(sample.rate))
    factor = group.factor if ingredients.feedback else _without_feedback(group.factor)
    names = tuple(layer.name(f"{reader}.weight") for reader in group.feed.consumers)
    return _Sampled(names, group.rows, group.weight, factor, sample, outputs)


def _apart(outputs: FisherFactor) -> FisherFactor:
    """The same outputs with their own sensitivities, but none depends on another."""
    whole = outputs.upper @ outputs.upper.transpose(1, 2)
    return FisherFactor(outputs.fisher, outputs.order, torch.diag_embed(whole.diagonal(dim1=1, dim2=2).sqrt()))


def _without_feedback(factor: HessianFactor) -> HessianFactor:
    """The same costs of the columns, but none depends on another."""
    cost = factor.cost_by_column()
    return HessianFactor(factor.order, factor.cost.sqrt().diag(), cost.diag(), 0.0)
