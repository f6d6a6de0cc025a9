"""Torch operators, with one implementation a device.

Multiplying by compressed weights, looking tokens up in them, and one token's attention.
"""

from tilepress.kernels.attention import attend
from tilepress.kernels.embedding import embed
from tilepress.kernels.op import linear

__all__ = ["attend", "embed", "linear"]
