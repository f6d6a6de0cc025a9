"""The Fisher information of a linear's outputs, and the factor of it by which errors spread over rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tilepress.codec import TILE_ROWS
from tilepress.errors import QuantizationError
from tilepress.finite import is_finite

# Rows whose outputs' products are kept, and whose errors reach each other: those of a row of tiles. On SmolLM2 at 4.0
# bits blocks of 128 are within 3 % of whole matrices in KL divergence, which take up to a hundred times the memory.
BLOCK = TILE_ROWS
# This share of the mean of the diagonal is added to it, for outputs that hardly affect the loss. From .005 to .05 makes
# no difference that six kinds of text would show.
DAMPING = 0.02


@dataclass(frozen=True)
class FisherFactor:
    """F of n outputs in blocks of 128, and R, upper triangular, with F + damping = R Rᵀ in the order `order` of rows.

    fisher, upper: float32 [ceil(n / 128), 128, 128]. order: int64 [n], the rows of each block by descending diagonal
    of F.
    """

    fisher: Tensor
    order: Tensor
    upper: Tensor

    def part(self, blocks: slice) -> FisherFactor:
        """Return the factor of some blocks."""
        first = blocks.start * BLOCK
        return FisherFactor(self.fisher[blocks], self.order[first : blocks.stop * BLOCK] - first, self.upper[blocks])

    @property
    def sensitivity(self) -> Tensor:
        """G_o = E[(dloss/dy_o)²], float32 [n], by row."""
        return self.fisher.diagonal(dim1=1, dim2=2).flatten()[: len(self.order)]

    @cached_property
    def cost(self) -> Tensor:
        """d_o, float32 [n], by row: what an error costs when all later rows of the block compensate."""
        cost = torch.empty(len(self.order), device=self.upper.device)
        cost[self.order] = self.upper.diagonal(dim1=1, dim2=2).square().flatten()[: len(self.order)]
        return cost

    @cached_property
    def _inverse(self) -> Tensor:
        """R⁻¹ with each row divided by its diagonal: how much of an error goes to the rows after it."""
        identity = torch.eye(BLOCK, device=self.upper.device).expand_as(self.upper)
        inverse: Tensor = torch.linalg.solve_triangular(self.upper, identity, upper=True)
        return inverse * self.upper.diagonal(dim1=1, dim2=2)[:, :, None]

    def feedback(self, weight_scale: Tensor) -> Tensor:
        """Return how much of the error of each row of a block goes to row r of `order`, float32 [n, 128].

        In units of the weight scales, float32 [n].
        """
        scales = _in_blocks(weight_scale[self.order])
        spread = self._inverse * (scales[:, :, None] / scales[:, None, :])
        return spread.transpose(1, 2).reshape(-1, BLOCK)[: len(self.order)].contiguous()

    def coupling(self, weight_scale: Tensor) -> Tensor:
        """Return how much of the error of row i of `order` row r of its block makes up for best: float32 [n, 128].

        F_ir / F_rr, damped, in units of the weight scales, float32 [n].
        """
        damped = self.upper @ self.upper.transpose(1, 2)
        scales = _in_blocks(weight_scale[self.order])
        shares = damped / damped.diagonal(dim1=1, dim2=2)[:, None, :] * (scales[:, :, None] / scales[:, None, :])
        return shares.reshape(-1, BLOCK)[: len(self.order)].contiguous()

    def cost_apart(self) -> Tensor:
        """d_o / F_oo, float32 [n], in `order`: `cost` as a share of what an error costs that nothing compensates."""
        diagonal = self.upper.diagonal(dim1=1, dim2=2).square() / self.upper.square().sum(dim=2)
        return diagonal.flatten()[: len(self.order)].contiguous()

    def weighted(self, errors: Tensor) -> Tensor:
        """Return Σ_t e_to (F e_t)_o of each output o, float32 [n], for errors e float32 [tokens, n]."""
        padded = torch.nn.functional.pad(errors, (0, len(self.fisher) * BLOCK - errors.shape[1]))
        blocks = padded.view(len(errors), -1, BLOCK).transpose(0, 1)
        return (blocks @ self.fisher).mul_(blocks).sum(dim=1).flatten()[: errors.shape[1]]


def factorize_outputs(fisher: Tensor, rows: int, where: str) -> FisherFactor:
    """Factor the blocks `fisher`, float32 [ceil(rows / 128), 128, 128], after damping; `rows` of them are real.

    Raises QuantizationError, naming `where`, if they are not finite. Where no output reaches the loss all rows are
    alike.
    """
    if not is_finite(fisher):
        raise QuantizationError(
            f"{where}: gradients of the float model's loss on the calibration text are not finite; the model overflows "
            "float32 there, or its config.json is of another model"
        )
    diagonal = fisher.diagonal(dim1=1, dim2=2).clone()
    added = DAMPING * float(diagonal.sum()) / rows or 1.0
    diagonal.view(-1)[rows:] = -1.0  # rows behind the last come last
    order = torch.argsort(diagonal, dim=1, descending=True, stable=True)
    turned = order.flip(1)  # the Cholesky factor of the reversed matrix, reversed again, is upper triangular
    damped = fisher.gather(1, turned[:, :, None].expand_as(fisher)).gather(2, turned[:, None, :].expand_as(fisher))
    damped.diagonal(dim1=1, dim2=2).add_(added)
    upper = torch.linalg.cholesky(damped).flip(1, 2).contiguous()
    first = torch.arange(0, len(fisher) * BLOCK, BLOCK, device=fisher.device)
    return FisherFactor(fisher, (order + first[:, None]).flatten()[:rows].contiguous(), upper)


def scaled_outputs(fisher: Tensor, scales: Tensor) -> Tensor:
    """Return the blocks for outputs that were divided by scales, float32 [n]: their gradients are so much larger."""
    by_block = _in_blocks(scales)
    return fisher * by_block[:, :, None] * by_block[:, None, :]


def _in_blocks(scales: Tensor) -> Tensor:
    """Return scales, float32 [n], as [ceil(n / 128), 128], with ones behind the last."""
    return torch.nn.functional.pad(scales, (0, -len(scales) % BLOCK), value=1.0).view(-1, BLOCK)
