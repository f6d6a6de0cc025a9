"""y = linear(x, compressed weight), as one torch operator."""

from tilepress.kernels.op import linear

__all__ = ["linear"]
