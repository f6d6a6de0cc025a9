"""Rounding with error feedback (GPTQ) where each decision weighs the error against the bits it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tilepress import _native
from tilepress.codec import TILE_ROWS
from tilepress.distributed.communicator import Communicator
from tilepress.quantize.rate.rounding_rule import LARGEST, RATE_WEIGHT
from tilepress.quantize.rounding.refinement import refine_weights
from tilepress.quantize.statistics.fisher import FisherFactor
from tilepress.quantize.statistics.hessian import HessianFactor
from tilepress.quantize.transforms.activation_ranges import ActivationRange

# Columns that are rounded on the CPU at a time for a weight elsewhere.
BLOCK = 64
# Rows that `round_rows` takes at a time.
ROWS = 64 * TILE_ROWS

# Order and feedback of the rows.
Rows = tuple[Tensor, Tensor] | None


def round_weights(
    weight: Tensor, weight_scale: Tensor, factor: HessianFactor, lengths: Tensor, outputs: FisherFactor | None = None
) -> Tensor:
    """Return integers q, int8 [n, k], |q| <= 127, cheap to code and with small error on the calibration inputs.

    weight: float32 [n, k]. weight_scale: float32 [n], positive. lengths, from `tile_rate`: float32 [128] for all rows,
    or [ceil(n / 128), 128], a table for each 128 rows. All finite. outputs: of the Fisher information of the outputs;
    without it rows are independent.

    Column by column in `factor.order`, q is the candidate of least
    (w - q Δ)² c_j + η Δ² mean(c) bits(q), and the remaining error is spread over the columns not rounded yet:
    w_k -= (w_j - q_j Δ) U_jk / U_jj. Sources: optimal brain surgeon (Hassibi & Stork 1993), GPTQ (Frantar et al. 2022),
    SparseGPT (Frantar & Alistarh 2023); the rate term as in CERWU. Everything is in units of Δ, so that Δ drops out.
    Given `outputs`, errors spread over the rows after it as well: the Hessian of the loss is taken as the Kronecker
    product of F and H, and so is its factor (YAQA, Tseng et al. 2025).

    On the CPU the integers do not depend on the number of threads or the instruction set. Other devices add up the
    same errors in another order, so that near-ties may be decided otherwise.
    """
    rate = RATE_WEIGHT * factor.cost.mean() / factor.cost
    rows = None if outputs is None else (outputs.order.cpu(), outputs.feedback(weight_scale).cpu())
    if weight.device.type != "cpu":
        return round_in_blocks(weight, weight_scale, factor, rate, lengths, rows)
    return _round_natively(weight, weight_scale, factor.order, factor.feedback, rate, lengths, rows)


def _round_natively(
    weight: Tensor,
    weight_scale: Tensor,
    order: Tensor,
    feedback: Tensor,
    rate: Tensor,
    lengths: Tensor,
    rows: Rows,
    errors: Tensor | None = None,
) -> Tensor:
    """Return integers, and fill errors, float32 [n, k], with what spreads over columns behind these."""
    out = torch.empty(weight.shape, dtype=torch.int8)
    _native.round_weights(
        weight.contiguous().numpy(),
        weight_scale.contiguous().numpy(),
        order.numpy(),
        feedback.contiguous().numpy(),
        rate.numpy(),
        lengths.reshape(-1, LARGEST + 1).contiguous().numpy(),
        None if rows is None else rows[0].numpy(),
        None if rows is None else rows[1].numpy(),
        out.numpy(),
        None if errors is None else errors.numpy(),
        torch.get_num_threads(),
    )
    return out


def round_in_blocks(
    weight: Tensor, weight_scale: Tensor, factor: HessianFactor, rate: Tensor, lengths: Tensor, rows: Rows
) -> Tensor:
    """Do what `round_weights` does for a weight on any device, which gets most of the work.

    The CPU rounds some columns at a time; their errors are spread over the columns behind on the device.
    """
    remaining = (weight / weight_scale[:, None])[:, factor.order]
    integers = torch.empty(weight.shape, dtype=torch.int8)
    order, ones, tables = factor.order.cpu(), torch.ones(len(weight)), lengths.cpu()
    columns, rates, feedback = torch.arange(BLOCK), rate.cpu(), factor.feedback
    for start in range(0, len(order), BLOCK):
        block = remaining[:, start : start + BLOCK].cpu()
        some = slice(start, start + block.shape[1])
        errors = torch.empty_like(block)
        spread = feedback[some, some].cpu()
        integers[:, order[some]] = _round_natively(
            block, ones, columns[: block.shape[1]], spread, rates[some], tables, rows, errors
        )
        remaining[:, some.stop :].addmm_(errors.to(weight.device), feedback[some, some.stop :], alpha=-1.0)
    return integers


@dataclass(frozen=True)
class RoundedRows:
    """integers int8 [n, k], on the CPU.

    error: float32 [n], squared error of each row's outputs, summed over the tokens. norm: float32 [n], their squares.
    loss: float32 [n], Σ e_o (F e)_o of the errors e of all outputs; zero where F is not given.
    """

    integers: Tensor
    error: Tensor
    norm: Tensor
    loss: Tensor


def round_rows(
    weight: Callable[[slice], Tensor],
    weight_scale: Tensor,
    lengths: Tensor,
    factor: HessianFactor,
    inputs: ActivationRange,
    tokens: Tensor,
    ranks: Communicator,
    outputs: FisherFactor | None = None,
    *,
    sweeps: int,
) -> RoundedRows:
    """Round the n rows that `weight` returns, float32 [up to ROWS, k] at a time, and refine them.

    weight_scale: float32 [n]. lengths: of the codes, float32 [ceil(n / 128), 128]. tokens: float32 [m, k]; on them,
    quantized by `inputs`, the error is measured. outputs: without it rows are independent. sweeps: of the refinement, 0
    for none. Each rank rounds its share and gets all rows. On the CPU the integers are the same for any number of
    ranks.
    """
    seen = inputs.round_trip(tokens)
    integers = torch.empty(len(weight_scale), tokens.shape[1], dtype=torch.int8)
    error, norm, loss = (torch.zeros_like(weight_scale) for _ in range(3))
    mine = ranks.share(len(weight_scale), TILE_ROWS)
    parts = [slice(start, min(start + ROWS, mine.stop)) for start in range(mine.start, mine.stop, ROWS)]

    def of_part(part: slice) -> tuple[Tensor, FisherFactor | None]:
        blocks = slice(part.start // TILE_ROWS, -(-part.stop // TILE_ROWS))
        return lengths[blocks], None if outputs is None else outputs.part(blocks)

    for part in parts:
        of_rows, of_outputs = of_part(part)
        integers[part] = round_weights(weight(part), weight_scale[part], factor, of_rows, of_outputs)
    factor.forget_feedback()  # as large as the Hessian that takes its place
    hessian = factor.damped().cpu() if sweeps else None
    for part in parts:
        block, q = weight(part), integers[part]
        of_rows, of_outputs = of_part(part)
        if hessian is not None:
            refine_weights(q, block, weight_scale[part], factor, hessian, of_rows, of_outputs, sweeps)
        exact = tokens @ block.T
        difference = seen @ (q.to(block.device) * weight_scale[part, None]).T - exact
        if of_outputs is not None:
            loss[part] = of_outputs.weighted(difference)
        error[part] = difference.square().sum(dim=0)
        norm[part] = exact.square().sum(dim=0)
    return RoundedRows(ranks.filled(integers, TILE_ROWS), *map(ranks.add_up, (error, norm, loss)))
