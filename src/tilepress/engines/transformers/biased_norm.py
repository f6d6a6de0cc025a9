"""Norms with a bias, as one vendor's outlier smoothing leaves them."""

from __future__ import annotations

from torch import Tensor, nn


class BiasedNorm(nn.Module):
    """norm(x) + bias. msModelSlim's smoothing shifts activations there and back in the next linears."""

    def __init__(self, norm: nn.Module, bias: Tensor) -> None:
        super().__init__()
        self.norm = norm
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y + self.bias
