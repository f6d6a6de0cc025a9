"""Norms with a bias, as one vendor's outlier smoothing leaves them."""

from __future__ import annotations

from torch import Tensor, nn


class BiasedNorm(nn.Module):
    """norm(x) + bias, with vLLM's other form: given a residual, (norm(x + residual) + bias, x + residual)."""

    def __init__(self, norm: nn.Module, bias: Tensor) -> None:
        super().__init__()
        self.norm = norm
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        if residual is None:
            y: Tensor = self.norm(x)
            return y + self.bias
        y, residual = self.norm(x, residual)
        return y + self.bias, residual
