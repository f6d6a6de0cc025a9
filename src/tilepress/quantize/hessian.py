"""The factor of the inverse Hessian that drives column scaling and rounding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilepress.errors import QuantizationError

DAMPING_ATTEMPTS = 5


@dataclass(frozen=True)
class HessianFactor:
    """R, upper triangular, with H + damping = R Rᵀ in the order of the columns `order`.

    order: int64 [k], columns by descending diagonal of H. upper: float32 [k, k]. U = R⁻¹ is the factor of the inverse
    that GPTQ works with: inverse(H + damping) = Uᵀ U. (GPTQ inverts H and factors the result, which squares the
    condition number.)
    """

    order: Tensor
    upper: Tensor

    @property
    def cost(self) -> Tensor:
        """c_j = 1 / U_jj², float32 [k], in `order`.

        The increase of the squared output error per squared error of the column, when all later columns compensate.
        """
        return self.upper.diagonal().square()

    def cost_by_column(self) -> Tensor:
        """`cost` in the original order of the columns, float32 [k]."""
        by_column = torch.empty_like(self.cost)
        by_column[self.order] = self.cost
        return by_column

    def feedback(self) -> Tensor:
        """U_jk / U_jj, float32 [k, k]: how the error of column j is spread over the columns that come after it."""
        identity = torch.eye(len(self.order), dtype=self.upper.dtype, device=self.upper.device)
        inverse: Tensor = torch.linalg.solve_triangular(self.upper, identity, upper=True)
        return inverse * self.upper.diagonal()[:, None]


def factorize(hessian: Tensor, damping: float, where: str) -> HessianFactor:
    """Factor `hessian` [k, k] (symmetric, E[x xᵀ]) after damping.

    Damping adds `damping` times the mean diagonal; where the matrix is still not positive definite, ten
    times more, up to 5 attempts. QuantizationError naming `where` if none succeeds.
    """
    diagonal = hessian.diagonal()
    mean = float(diagonal.mean())
    if not hessian.isfinite().all() or mean <= 0.0:
        raise QuantizationError(
            f"{where}: the calibration inputs are not finite or all zero; "
            "check the float model's output on the calibration text"
        )
    order = torch.argsort(diagonal, descending=True, stable=True)
    # The Cholesky factor of the matrix with rows and columns reversed, reversed again, is upper triangular.
    backwards = order.flip(0)
    damped = hessian[backwards][:, backwards]
    share, added = damping, 0.0
    for _ in range(DAMPING_ATTEMPTS):
        damped.diagonal().add_((share - added) * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return HessianFactor(order, lower.flip(0, 1))
        share, added = share * 10.0, share
    raise QuantizationError(
        f"{where}: the Hessian is not positive definite even with damping {added:g}; "
        "use more calibration text, or check the model for broken layers"
    )
