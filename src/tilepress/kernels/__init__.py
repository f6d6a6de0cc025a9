"""Torch operators, with one implementation a device.

They multiply by compressed weights, look tokens up in them, and compute one token's attention. The CPU's are native
code, those of CUDA devices are in `tilepress.kernels.cuda`.
"""

from tilepress.kernels.cuda import check_device
from tilepress.kernels.embedding import embed
from tilepress.kernels.op import linear

__all__ = ["check_device", "embed", "linear"]
