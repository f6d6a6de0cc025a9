"""The inputs of a decoder layer's linears, the module that produces each, and the linears that read it.

They are the same for Llama, Mistral, Qwen2 and Qwen3; `architecture` adds biases and head norms. Names are those
inside a decoder layer; those of the head are the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Norm:
    """An RMSNorm: column j of its output is proportional to its gain g_j."""

    name: str

    @property
    def gain(self) -> str:
        """The name of the gain, a tensor [k]."""
        return f"{self.name}.weight"


@dataclass(frozen=True)
class Projection:
    """A linear whose row j, bias included, produces column j of the input, which is linear in it.

    by_kv_head: the rows belong to kv heads. All query heads that read one kv head take their columns of the input
    [heads · head_dim] from its rows (grouped-query attention).
    """

    name: str
    by_kv_head: bool = False


@dataclass(frozen=True)
class Feed:
    """One input and the linears that read it. They share its statistics, its range and, in this order, a matrix.

    source: the module that produces the input. massive: a few tokens, the first one above all, carry values far larger
    than all others, and the model breaks where these are clipped (Yang et al., "Mitigating Quantization Errors Due to
    Activation Spikes in GLU-Based LLMs", 2024).
    """

    name: str
    consumers: tuple[str, ...]
    source: Norm | Projection
    massive: bool = False

    @property
    def axis(self) -> Literal["rows", "columns"]:
        """The axis of the consumers that tensor parallelism splits.

        Every rank has the whole output of a norm, so that rows are split. Of a projection's output each rank has its
        own columns, so that columns are split.
        """
        return "rows" if isinstance(self.source, Norm) else "columns"


QKV = Feed("qkv", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), Norm("input_layernorm"))
O_PROJ = Feed("o", ("self_attn.o_proj",), Projection("self_attn.v_proj", by_kv_head=True))
GATE_UP = Feed("gate_up", ("mlp.gate_proj", "mlp.up_proj"), Norm("post_attention_layernorm"))
DOWN = Feed("down", ("mlp.down_proj",), Projection("mlp.up_proj"), massive=True)

# In the order of a layer's computation.
FEEDS = (QKV, O_PROJ, GATE_UP, DOWN)
LINEARS = tuple(consumer for feed in FEEDS for consumer in feed.consumers)
FEED_OF = {consumer: feed for feed in FEEDS for consumer in feed.consumers}
LAYER_NORMS = tuple(feed.source for feed in FEEDS if isinstance(feed.source, Norm))

# An architecture may have these norms between q_proj or k_proj and the rotation, over each head's channels. No column
# scale can be folded through them (docs/explanation/algorithm.md, "Norms of q and k").
HEAD_NORMS = (Norm("self_attn.q_norm"), Norm("self_attn.k_norm"))

FINAL_NORM = Norm("model.norm")
HEAD = Feed("lm_head", ("lm_head",), FINAL_NORM)
