"""Coordinate descent with annealing over integers that are rounded already."""

from __future__ import annotations

import torch
from torch import Tensor

from tilepress import _native
from tilepress.quantize.rate.rounding_rule import LARGEST, RATE_WEIGHT
from tilepress.quantize.statistics.fisher import FisherFactor
from tilepress.quantize.statistics.hessian import HessianFactor

# The noise of the first sweep, in bits: a decision between two integers of which the better one costs up to so many
# bits less may fall either way.
NOISE = 4.0
# The last sweeps have no noise.
COLD = 3


def noise_of_sweeps(sweeps: int) -> Tensor:
    """The width of each sweep's noise, float32 [sweeps]: it falls linearly from NOISE to 0."""
    warm = max(sweeps - COLD, 0)
    return torch.cat([torch.linspace(NOISE, 0.0, warm + 1)[:warm], torch.zeros(sweeps - warm)])


def refine_weights(
    integers: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    factor: HessianFactor,
    hessian: Tensor,
    lengths: Tensor,
    outputs: FisherFactor | None,
    sweeps: int,
) -> None:
    """Change `integers`, int8 [n, k] on the CPU, in place to ones of less error at the same bits.

    integers, and all else but the following, as in and from `round_weights`. hessian: `factor.damped()` on the CPU.

    A sweep visits each weight once and gives it the best integer q for what all others are: the minimum of
    ½ tr(F E H Eᵀ) + λ bits, of which only one weight is free. With E = (q - w) Δ it is the q around
    v = q - (F E H)_oj / (F_oo H_jj) of least (v - q)² F_oo H_jj Δ_o² + η d_o mean(c) Δ_o² bits(q); λ is that of the
    rounding. Noise on the decisions, less from sweep to sweep, gets out of local minima (simulated annealing,
    Kirkpatrick et al. 1983; coordinate descent: QuantEase, Behdin et al. 2023).
    """
    rate = RATE_WEIGHT * factor.cost.mean() / (factor.hessian.diagonal()[factor.order] + factor.added)
    _native.refine_weights(
        weight.cpu().contiguous().numpy(),
        weight_scale.cpu().contiguous().numpy(),
        factor.order.cpu().numpy(),
        hessian.numpy(),
        rate.cpu().numpy(),
        lengths.cpu().reshape(-1, LARGEST + 1).contiguous().numpy(),
        None if outputs is None else outputs.order.cpu().numpy(),
        None if outputs is None else outputs.coupling(weight_scale).cpu().numpy(),
        None if outputs is None else outputs.cost_apart().cpu().numpy(),
        noise_of_sweeps(sweeps).numpy(),
        integers.numpy(),
        torch.get_num_threads(),
    )
