"""What running a compressed model on the CPU needs of this machine."""

from __future__ import annotations

from tilepress.checkpoint import ModelShape
from tilepress.free_memory import available_bytes
from tilepress.needs import Memory, Needs

# Resident on Linux with Python 3.11, torch 2.13 and transformers 5.19, before any tensor.
PROCESS = 500_000_000
FLOAT = 4
# Tokens of the cache that are counted: a long question and its answer.
TOKENS = 4096


def plan_run(shape: ModelShape, weight_file: int, *, head: bool, embeddings: bool) -> Needs:
    """Peak memory of `run` on a W8A8SC directory of one part with weights of `weight_file` bytes.

    They are mapped; float tables are there once more in float32, with keys and values of TOKENS tokens. head,
    embeddings: whether these are integers; a tied head that is not is the embedding.
    """
    tables = (not embeddings) + (not head and not shape.tied)
    cache = 2 * FLOAT * TOKENS * shape.layers * shape.kv_heads * shape.head_dim
    needed = PROCESS + weight_file + FLOAT * tables * shape.vocab * shape.hidden + cache
    remedy = "quantize to fewer --bits, with --head --embeddings, or run it on a machine with more memory"
    return Needs("run", Memory(needed, available_bytes(), remedy), disks=(), seconds=None, output=0)
