"""The form in which compressed weights stay in memory: as they are stored, or one that is read faster."""

from __future__ import annotations

import os

from tilepress import _native
from tilepress.errors import UsageError

AUTO, STORED, FAST = "auto", "stored", "fast"
CHOICES = (AUTO, STORED, FAST)
VARIABLE = "TILEPRESS_RESIDENT"
# Instruction sets on which placing escapes is hidden behind memory. 4096 x 4096 at a deviation of 2, one token, one
# thread, G weights/s as stored and in the fast form: AVX-512 with VBMI2 29 and 39, where two threads are bound by
# memory and the stored form has fewer bits; AVX-512 without it 15 and 26; AVX2 15 and 37.
ESCAPES_ARE_FREE = frozenset({"avx512"})


def takes_fast_form(choice: str | None, device: str = "cpu") -> bool:
    """Return True if weights should be brought to the fast form on a device of type "cpu" or "cuda".

    choice: one of CHOICES; None: what the environment variable TILEPRESS_RESIDENT says, else "auto", which goes by the
    instruction set. On a CUDA device it is the fast form: 5 instructions a weight there, 23 for the stored
    one (docs/reference/gpu.md). Raises UsageError for another word.
    """
    word = choice or os.environ.get(VARIABLE) or AUTO
    if word not in CHOICES:
        source = f"--resident {word}" if choice else f"{VARIABLE} is {word!r}"
        raise UsageError(f"{source}: use one of {', '.join(CHOICES)}")
    pays = device == "cuda" or _native.isa() not in ESCAPES_ARE_FREE
    return word == FAST or (word == AUTO and pays)
