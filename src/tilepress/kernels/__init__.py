"""Multiplying by compressed weights: one torch operator, with one implementation for each device."""

from tilepress.kernels.op import linear

__all__ = ["linear"]
