"""Matrices to round with error feedback."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tilepress.quantize.rate.rounding_rule import RATE_WEIGHT
from tilepress.quantize.rate.tile_cost import strip_counts, tile_rate
from tilepress.quantize.rounding.gptq import round_weights
from tilepress.quantize.rounding.refinement import noise_of_sweeps
from tilepress.quantize.statistics.fisher import BLOCK, FisherFactor, factorize_outputs
from tilepress.quantize.statistics.hessian import HessianFactor, factorize

DAMPING = 0.01

# Parts of a vector, of a block of columns and of 128 rows; columns whose rows lie 2^n bytes apart.
SHAPES = [(1, 1), (3, 7), (16, 32), (17, 33), (130, 64), (300, 100), (40, 256)]


def correlated_inputs(tokens: int, k: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-1, 1, k)[torch.randperm(k, generator=generator)]
    return torch.randn(tokens, k, generator=generator) @ (
        torch.diag(scale) + 0.3 * torch.randn(k, k, generator=generator)
    )


def rounding_case(n: int, k: int, seed: int) -> tuple[Tensor, Tensor, HessianFactor, Tensor, Tensor]:
    """Weight, steps, factor, rate, and a table of code lengths for each 128 rows."""
    generator = torch.Generator().manual_seed(seed)
    inputs = correlated_inputs(2 * k, k, seed)
    factor = factorize(inputs.T @ inputs / len(inputs), DAMPING, "here")
    weight = torch.randn(n, k, generator=generator)
    steps = 0.02 + torch.rand(n, generator=generator)
    values = (weight / steps[:, None]).round().clamp(-127, 127)
    lengths = tile_rate(strip_counts(values))[1]
    return weight, steps, factor, RATE_WEIGHT * factor.cost.mean() / factor.cost, lengths


def correlated_outputs(n: int, seed: int) -> FisherFactor:
    """The factor of the Fisher information of n outputs whose gradients depend on each other."""
    gradients = torch.nn.functional.pad(correlated_inputs(2 * n, n, seed), (0, -n % BLOCK))
    blocks = gradients.view(2 * n, -1, BLOCK).transpose(0, 1)
    return factorize_outputs(blocks.transpose(1, 2) @ blocks, n, "here")


def refinement_arguments(case: tuple[Tensor, ...], outputs: FisherFactor | None, sweeps: int) -> dict[str, np.ndarray]:
    """Arrays for `_native.refine_weights` and `refine_plainly`, of a `rounding_case` rounded with error feedback."""
    weight, steps, factor, _, lengths = case
    hessian = factor.damped()
    arrays = {
        "weight": weight,
        "steps": steps,
        "order": factor.order,
        "hessian": hessian,
        "rate": RATE_WEIGHT * factor.cost.mean() / hessian.diagonal(),
        "lengths": lengths,
        "row_order": None if outputs is None else outputs.order,
        "coupling": None if outputs is None else outputs.coupling(steps),
        "row_rate": None if outputs is None else outputs.cost_apart(),
        "noise": noise_of_sweeps(sweeps),
        "integers": round_weights(weight, steps, factor, lengths, outputs),
    }
    return {name: None if array is None else array.contiguous().numpy() for name, array in arrays.items()}
