"""Torch operators, with one implementation a device.

Multiplying by compressed weights, looking tokens up in them, and one token's attention. The CPU's is native code, that
of CUDA devices is in `tilepress.kernels.triton`.
"""

from tilepress.kernels.attention import attend
from tilepress.kernels.cuda import check_device
from tilepress.kernels.embedding import embed
from tilepress.kernels.op import linear

__all__ = ["attend", "check_device", "embed", "linear"]
