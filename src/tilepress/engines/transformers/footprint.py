"""What running a compressed model on the CPU needs of this machine."""

from __future__ import annotations

from tilepress.checkpoint import ModelShape
from tilepress.checkpoint.architecture import linear_shapes
from tilepress.free_memory import available_bytes
from tilepress.needs import Memory, Needs

# Resident on Linux with Python 3.11, torch 2.13 and transformers 5.19, before any tensor.
PROCESS = 360_000_000
# Bytes of a value: of keys and values, and of tables as they are stored.
FLOAT, STORED = 4, 2
# Tokens of the cache that are counted: a long question and its answer.
TOKENS = 4096


def plan_run(shape: ModelShape, weight_file: int, *, head: bool, embeddings: bool) -> Needs:
    """Peak memory of `run` on a W8A8SC directory of one part with weights of `weight_file` bytes.

    They are mapped, and all are read but the embedding, of which rows are, and there are keys and values of TOKENS
    tokens. head, embeddings: whether these are integers; a tied head that is not is the embedding.
    """
    cache = 2 * FLOAT * TOKENS * shape.layers * shape.kv_heads * shape.head_dim
    needed = PROCESS + weight_file - _looked_up(shape, weight_file, head=head, embeddings=embeddings) + cache
    remedy = "quantize to fewer --bits, with --head --embeddings, or run it on a machine with more memory"
    return Needs("run", Memory(needed, available_bytes(), remedy), disks=(), seconds=None, output=0)


def _looked_up(shape: ModelShape, weight_file: int, *, head: bool, embeddings: bool) -> int:
    """Bytes of the embedding where it is not the head too."""
    table = shape.vocab * shape.hidden
    if shape.tied and head == embeddings:
        return 0
    if not embeddings:
        return STORED * table
    integers = sum(n * k for n, k in linear_shapes(shape).values()) + table * (1 + head)
    floats = 0 if head else STORED * table
    return round((weight_file - floats) * table / integers)
