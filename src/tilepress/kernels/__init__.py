"""Multiplying by compressed weights, and one token's attention: torch operators, with one implementation a device."""

from tilepress.kernels.attention import attend
from tilepress.kernels.op import linear

__all__ = ["attend", "linear"]
