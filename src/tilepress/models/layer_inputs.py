"""Who feeds whom: the inputs of a decoder layer's linears, what produces each, and which linears read it.

The same for Llama, Qwen2 and Qwen3; which biases and head norms there are is what `architecture` adds. Names are those
inside a decoder layer; those of the head are the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Norm:
    """An RMSNorm: column j of what it produces is its gain g_j times something."""

    name: str

    @property
    def gain(self) -> str:
        """The tensor's name; [k]."""
        return f"{self.name}.weight"


@dataclass(frozen=True)
class Projection:
    """A linear such that column j of the input is linear in its row j, bias included.

    by_kv_head: rows are those of the kv heads, and the columns [heads · head_dim] of the query heads that read one kv
    head all come from its rows (grouped-query attention).
    """

    name: str
    by_kv_head: bool = False


@dataclass(frozen=True)
class Feed:
    """One input and the linears that read it: they share its statistics, its range and a matrix, in this order.

    source: what produces it. massive: a few tokens, the first one above all, carry values far larger than all others,
    and the model breaks where these are clipped (Yang et al., "Mitigating Quantization Errors Due to Activation Spikes
    in GLU-Based LLMs", 2024).
    """

    name: str
    consumers: tuple[str, ...]
    source: Norm | Projection
    massive: bool = False

    @property
    def axis(self) -> Literal["rows", "columns"]:
        """What tensor parallelism splits of the consumers.

        What a norm gives is whole on every rank, so their rows; of what a projection gives a rank has its own columns.
        """
        return "rows" if isinstance(self.source, Norm) else "columns"


QKV = Feed("qkv", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), Norm("input_layernorm"))
O_PROJ = Feed("o", ("self_attn.o_proj",), Projection("self_attn.v_proj", by_kv_head=True))
GATE_UP = Feed("gate_up", ("mlp.gate_proj", "mlp.up_proj"), Norm("post_attention_layernorm"))
DOWN = Feed("down", ("mlp.down_proj",), Projection("mlp.up_proj"), massive=True)

# In the order in which a layer computes them.
FEEDS = (QKV, O_PROJ, GATE_UP, DOWN)
LINEARS = tuple(consumer for feed in FEEDS for consumer in feed.consumers)
LAYER_NORMS = tuple(feed.source for feed in FEEDS if isinstance(feed.source, Norm))

# Where an architecture has them, they stand between q_proj or k_proj and the rotation, over each head's channels. No
# column scale can be folded through them (docs/explanation/algorithm.md, "Norms of q and k").
HEAD_NORMS = (Norm("self_attn.q_norm"), Norm("self_attn.k_norm"))

FINAL_NORM = Norm("model.norm")
HEAD = Feed("lm_head", ("lm_head",), FINAL_NORM)
