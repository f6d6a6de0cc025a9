"""The memory for keys and values, and the longest context that fits into it."""

from __future__ import annotations

from dataclasses import dataclass

from tilepress.checkpoint import Checkpoint, ModelShape, W8A8SCCheckpoint
from tilepress.checkpoint.description import CODING, FLOAT
from tilepress.codec import resident
from tilepress.engines.residency import takes_fast_form
from tilepress.errors import UsageError

# Tokens of a block of keys and values. vLLM's own on the CPU is 128; prefixes are shared by whole blocks, and the CPU
# wants multiples of 32.
BLOCK = 32
# Resident on vLLM 0.32, the model left out: .66 GB the server, .64 GB the scheduler, .73 GB each rank.
_SERVER, _RANK = 1_300_000_000, 750_000_000
_USABLE = 0.9
_CONTEXTS = 16


@dataclass(frozen=True)
class KeyValueMemory:
    """per_token: bytes of one token's keys and values in all ranks; room: bytes available for them."""

    per_token: int
    room: int

    @property
    def longest(self) -> int:
        """The longest context that fits, in whole blocks; vLLM keeps one block for itself."""
        return max(self.room // (self.per_token * BLOCK) - 1, 0) * BLOCK

    def cache(self, context: int) -> int:
        """Bytes to reserve for contexts of so many tokens: 16 of them, or all the room."""
        blocks = _CONTEXTS * -(-context // BLOCK) + 1
        return min(blocks * BLOCK * self.per_token, self.room)


def key_value_bytes(shape: ModelShape, tp: int, dtype: str | None) -> int:
    """Return the bytes of one token in all of `tp` ranks; each has a head or more. Two bytes a number, float32 four."""
    heads = max(shape.kv_heads, tp)
    return 2 * shape.layers * heads * shape.head_dim * (4 if dtype == "float32" else 2)


def room(checkpoint: Checkpoint, tp: int, dtype: str | None, available: int) -> int:
    """Return the bytes left for keys and values: 0.9 of `available`, less weights and vLLM's processes."""
    return max(int(_USABLE * available) - weight_bytes(checkpoint, dtype) - _SERVER - tp * _RANK, 0)


def weight_bytes(checkpoint: Checkpoint, dtype: str | None) -> int:
    """Memory of the weights: integers as an engine holds them, float tensors in the type they are computed in."""
    size = 4 if dtype == "float32" else 2
    # The coding of a W8A8S directory is that of the compression to come.
    coding, fast = None, False
    if isinstance(checkpoint, W8A8SCCheckpoint):
        coding, fast = checkpoint.description.extra.get(CODING), takes_fast_form(None)
    return sum(
        stored.nbytes // stored.dtype.itemsize * size if kind == FLOAT else resident(stored.nbytes, coding, fast=fast)
        for kind, stored in checkpoint.inventory()
    )


def choose_context(memory: KeyValueMemory, *, asked: int | None, given: int) -> int:
    """Return the tokens of the longest context: `asked`, else the model's, `given`, or fewer where no more fit.

    Raises UsageError, with the number that fits, where `asked` does not fit.
    """
    context = given if asked is None else asked
    if context <= memory.longest:
        return context
    if memory.longest == 0:
        raise UsageError(
            f"there are {memory.room / 1e9:.2f} GB of memory for keys and values, and a block of {BLOCK} tokens takes "
            f"{BLOCK * memory.per_token / 1e9:.3f} GB; free memory, or serve a smaller model"
        )
    if asked is not None:
        raise UsageError(
            f"--max-model-len {asked}: keys and values of so many tokens take {asked * memory.per_token / 1e9:.2f} GB "
            f"and there is memory for {memory.room / 1e9:.2f} GB; give at most {memory.longest}"
        )
    return memory.longest
