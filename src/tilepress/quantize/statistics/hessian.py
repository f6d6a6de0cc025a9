"""The factor of the inverse Hessian that drives column scaling and rounding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tilepress.errors import QuantizationError
from tilepress.finite import is_finite
from tilepress.quantize.statistics.triangular import inverse_of_upper

DAMPING_ATTEMPTS = 5
# The factor's diagonal where the Hessian is zero: the cost of an error is 1e-12 of that at an input of variance 1.
DEAD = 1e-6
# Rows, and values, that are processed at a time: a whole matrix of 25600 columns takes 2.6 GB.
ROWS = 1024
VALUES = 1 << 24


@dataclass(frozen=True)
class HessianFactor:
    """R, upper triangular, with H + damping = R Rᵀ in the order of the columns `order`.

    order: int64 [k], columns by descending diagonal of H. upper: float32 [k, k]. hessian: H, float32 [k, k], columns as
    they are stored. added: the damping. U = R⁻¹ is the factor of the inverse that GPTQ works with:
    inverse(H + damping) = Uᵀ U. (GPTQ inverts H and factors the result, which squares the condition number.)
    """

    order: Tensor
    upper: Tensor
    hessian: Tensor
    added: float

    @property
    def cost(self) -> Tensor:
        """c_j = 1 / U_jj², float32 [k], in `order`.

        c_j is the squared output error per squared error of column j, when all later columns compensate.
        """
        return self.upper.diagonal().square()

    def cost_by_column(self) -> Tensor:
        """`cost` in the original order of the columns, float32 [k]."""
        by_column = torch.empty_like(self.cost)
        by_column[self.order] = self.cost
        return by_column

    @cached_property
    def feedback(self) -> Tensor:
        """U_jk / U_jj, float32 [k, k]: the share of column j's error that is fed to column k after it."""
        return inverse_of_upper(self.upper).mul_(self.upper.diagonal()[:, None])

    def forget_feedback(self) -> None:
        """Free the memory of `feedback`, which is computed anew where it is asked for again."""
        self.__dict__.pop("feedback", None)

    def damped(self) -> Tensor:
        """H + damping in `order`, float32 [k, k]: a new matrix."""
        return _damped(self.hessian, self.order, self.added)


def factorize(hessian: Tensor, damping: float, where: str) -> HessianFactor:
    """Factor `hessian` [k, k] (symmetric, E[x xᵀ]) after damping.

    Damping adds `damping` times the mean diagonal; where the matrix is still not positive definite, ten times more, up
    to 5 attempts. Raises QuantizationError naming `where` if none succeeds, or if `hessian` is not finite. Apart from
    the result hardly any memory is needed.

    Where inputs are always zero, as in pruned layers, the Hessian is zero: all columns then cost the same, next to
    nothing.
    """
    diagonal = hessian.diagonal()
    mean = float(diagonal.mean())
    if not is_finite(hessian):
        raise QuantizationError(
            f"{where}: the float model's activations on the calibration text are not finite; the model overflows "
            "float32 there, or its config.json is of another model"
        )
    if mean <= 0.0:
        upper = DEAD * torch.eye(len(diagonal)).to(hessian)
        return HessianFactor(torch.arange(len(diagonal), device=hessian.device), upper, hessian, DEAD**2)
    order = torch.argsort(diagonal, descending=True, stable=True)
    failed = torch.empty((), dtype=torch.int32, device=hessian.device)
    for attempt in range(DAMPING_ATTEMPTS):
        share = damping * 10.0**attempt
        damped = _damped(hessian, order.flip(0), share * mean)
        # LAPACK stores matrices by columns; the rows of a symmetric one are its columns.
        torch.linalg.cholesky_ex(damped.T, out=(damped.T, failed))
        if not failed:
            # The Cholesky factor of the matrix with rows and columns reversed, reversed again, is upper triangular.
            _reverse(damped.view(-1))
            return HessianFactor(order, damped.T, hessian, share * mean)
    raise QuantizationError(
        f"{where}: the Hessian is not positive definite even with damping {share:g}; "
        "use more calibration text, or check the model for broken layers"
    )


def _damped(hessian: Tensor, order: Tensor, added: float) -> Tensor:
    """Return `hessian` [k, k] with its rows and columns in `order` and `added` on the diagonal."""
    damped = torch.empty_like(hessian, memory_format=torch.contiguous_format)
    for rows, to in zip(torch.split(order, ROWS), torch.split(damped, ROWS), strict=True):
        torch.index_select(hessian[rows], 1, order, out=to)
    damped.diagonal().add_(added)
    return damped


def _reverse(values: Tensor) -> None:
    """Reverse a vector in place."""
    for start in range(0, len(values) // 2, VALUES):
        stop = min(start + VALUES, len(values) // 2)
        front, back = slice(start, stop), slice(len(values) - stop, len(values) - start)
        turned = values[front].flip(0)
        values[front] = values[back].flip(0)
        values[back] = turned
