"""Compressing a W8A8S directory without loss into a W8A8SC directory, for other numbers of ranks, and back.

`python -m tilepress.compress` does it from the command line, one part a process under torchrun.
"""

from __future__ import annotations

from tilepress.compress.decompress import decompress_directory
from tilepress.compress.job import compress_directory
from tilepress.compress.plan import Compressible, compressible, plan_compression
from tilepress.compress.reshard import Resharding, reshard_directory
from tilepress.compress.resume import kept_progress
from tilepress.compress.torchrun import compress_under_torchrun
from tilepress.compress.verify import Verification, verify
from tilepress.registration import make_callable

__all__ = [
    "Compressible",
    "Resharding",
    "Verification",
    "compress_directory",
    "compress_under_torchrun",
    "compressible",
    "decompress_directory",
    "kept_progress",
    "plan_compression",
    "reshard_directory",
    "verify",
]

make_callable(__name__)
