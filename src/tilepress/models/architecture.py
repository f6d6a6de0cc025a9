"""The model architectures, their shapes and the tensors of their checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tilepress.errors import CheckpointError
from tilepress.models import layer_inputs
from tilepress.models.layer_inputs import DOWN, FINAL_NORM, GATE_UP, HEAD_NORMS, LAYER_NORMS, LINEARS, O_PROJ, QKV, Feed

_QKV, _O, _MLP = frozenset(QKV.consumers), frozenset(O_PROJ.consumers), frozenset(GATE_UP.consumers + DOWN.consumers)

# By class name: has q_norm and k_norm; linears with a bias; linears with a bias where this key of config.json is true.
_KNOWN: dict[str, tuple[bool, frozenset[str], dict[str, frozenset[str]]]] = {
    "Qwen3ForCausalLM": (True, frozenset(), {"attention_bias": _QKV | _O}),
    "Qwen2ForCausalLM": (False, _QKV, {}),
    "LlamaForCausalLM": (False, frozenset(), {"attention_bias": _QKV | _O, "mlp_bias": _MLP}),
    "MistralForCausalLM": (False, frozenset(), {}),
}

# By model_type of config.json, from which transformers chooses the class.
CLASSES = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
}

MAX_LAYERS = 1024
MAX_SIZE = 1 << 24
_SIZES = dict.fromkeys(
    (
        "num_attention_heads",
        "hidden_size",
        "num_key_value_heads",
        "intermediate_size",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
        "sliding_window",
    ),
    MAX_SIZE,
) | {"num_hidden_layers": MAX_LAYERS}


@dataclass(frozen=True)
class Architecture:
    """name: class name. qk_norm: q_norm and k_norm exist. biased: the linears of a layer that have a bias."""

    name: str
    qk_norm: bool
    biased: frozenset[str]


@dataclass(frozen=True)
class FusedLinears:
    """Linears that read the same input, `feed`, and are stored as one linear in a W8A8SC directory."""

    name: str
    feed: Feed

    @property
    def members(self) -> tuple[str, ...]:
        return self.feed.consumers

    @property
    def axis(self) -> Literal["rows", "columns"]:
        """The axis that tensor parallelism splits: "rows" (output channels) or "columns" (input channels)."""
        return self.feed.axis


GROUPS = (
    FusedLinears("self_attn.query_key_value", QKV),
    FusedLinears("self_attn.o_proj", O_PROJ),
    FusedLinears("mlp.gate_up_proj", GATE_UP),
    FusedLinears("mlp.down_proj", DOWN),
)
HEAD = FusedLinears("lm_head", layer_inputs.HEAD)


def layer_prefix(layer: int) -> str:
    return f"model.layers.{layer}"


def group_of(prefix: str) -> tuple[str, FusedLinears]:
    """Scope and group of a prefix such as "model.layers.0.mlp.gate_up_proj" or "lm_head".

    The scope is the prefix of the names of the group and its members: "model.layers.0.", or "" for the head. Raises
    KeyError for any other name.
    """
    if prefix == HEAD.name:
        return "", HEAD
    for group in GROUPS:
        layer = prefix.removeprefix("model.layers.").removesuffix(f".{group.name}")
        if layer.isdecimal() and prefix == f"{layer_prefix(int(layer))}.{group.name}":
            return f"{layer_prefix(int(layer))}.", group
    raise KeyError(prefix)


def class_name(config: Mapping[str, Any], path: Path | str = "config.json") -> str:
    """The class that transformers loads for a config.json: `model_type` decides; where it is missing, `architectures`.

    Raises CheckpointError for a class that is not supported, and where the two name different supported ones.
    """
    named, kind = config.get("architectures"), config.get("model_type")
    listed = named[0] if isinstance(named, list) and len(named) == 1 else named
    told = listed if isinstance(listed, str) and listed in _KNOWN else None
    if kind is None and told is None:
        raise CheckpointError(
            f"{path}: architectures is {named!r} and model_type is missing; tilepress reads dense "
            f"{', '.join(sorted(_KNOWN))}"
        )
    loaded = told if kind is None else CLASSES.get(str(kind))
    if loaded is None:
        raise CheckpointError(
            f"{path}: model_type is {kind!r}, architectures is {named!r}; tilepress reads dense "
            f"{', '.join(sorted(_KNOWN))} (model_type {', '.join(sorted(CLASSES))})"
        )
    if told is not None and told != loaded:
        raise CheckpointError(
            f"{path}: model_type is {kind!r}, which is {loaded}, but architectures is {named!r}; get config.json again"
        )
    return loaded


def architecture_of(config: Mapping[str, Any], path: Path | str = "config.json") -> Architecture:
    """The architecture that a config.json names. Raises CheckpointError as `class_name` does."""
    name = class_name(config, path)
    qk_norm, biased, switches = _KNOWN[name]
    for key, linears in switches.items():
        if config.get(key):
            biased |= linears
    return Architecture(name, qk_norm, biased)


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder. tied: no lm_head.weight is stored; the head is the embedding."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any], path: Path | str = "config.json") -> ModelShape:
        """Raises CheckpointError for a size that is missing, not a positive integer, or does not fit the others."""

        def size(key: str, *, default: int | None = None) -> int:
            value = config.get(key)
            return _checked(key, default if value is None else value, path)

        heads, hidden = size("num_attention_heads"), size("hidden_size")
        kv_heads = size("num_key_value_heads", default=heads)
        if heads % kv_heads:
            raise CheckpointError(
                f"{path}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}; "
                "get config.json again"
            )
        tied = config.get("tie_word_embeddings") or False
        if not isinstance(tied, bool):
            raise CheckpointError(f"{path}: tie_word_embeddings is {tied!r}; it has to be true or false")
        return cls(
            layers=size("num_hidden_layers"),
            hidden=hidden,
            intermediate=size("intermediate_size"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=size("head_dim", default=hidden // heads),
            vocab=size("vocab_size"),
            tied=tied,
        )

    def to_config(self) -> dict[str, Any]:
        """The fields of config.json that `from_config` reads."""
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied,
        }

    @staticmethod
    def check(config: Mapping[str, Any], path: Path | str = "config.json") -> None:
        """Raises CheckpointError for a size that is present but not a positive integer within the limits.

        Of the sliding windows Mistral's is checked: 0 is none to vLLM, and attention to nothing to transformers. The
        others' say nothing by themselves.
        """
        for key in _SIZES:
            read = key != "sliding_window" or config.get("model_type") == "mistral"
            if read and config.get(key) is not None:
                _checked(key, config[key], path)

    def linear(self, name: str) -> tuple[int, int]:
        """[n, k] of a linear of a layer, by its name in the layer such as "self_attn.q_proj", or of "lm_head"."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (query, self.hidden),
            "self_attn.k_proj": (key, self.hidden),
            "self_attn.v_proj": (key, self.hidden),
            "self_attn.o_proj": (self.hidden, query),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
            "lm_head": (self.vocab, self.hidden),
        }[name]

    def group(self, group: FusedLinears) -> tuple[int, int]:
        """[n, k] of a fused group: the rows of its members, one after the other."""
        return sum(self.linear(member)[0] for member in group.members), self.linear(group.members[0])[1]


def _checked(key: str, value: object, path: Path | str) -> int:
    limit = _SIZES[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
        raise CheckpointError(f"{path}: {key} is {value!r}; it has to be an integer from 1 to {limit}")
    return value


def norm_shapes(architecture: Architecture, shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Name without `.weight` -> shape, of every norm of the model."""
    norms: dict[str, tuple[int, ...]] = {FINAL_NORM.name: (shape.hidden,)}
    for layer in range(shape.layers):
        prefix = layer_prefix(layer)
        norms |= {f"{prefix}.{norm.name}": (shape.hidden,) for norm in LAYER_NORMS}
        if architecture.qk_norm:
            norms |= {f"{prefix}.{norm.name}": (shape.head_dim,) for norm in HEAD_NORMS}
    return norms


def linear_shapes(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """Full name without `.weight` -> [n, k], of every linear of the decoder layers."""
    return {f"{layer_prefix(layer)}.{name}": shape.linear(name) for layer in range(shape.layers) for name in LINEARS}


def fused_groups(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """Prefix such as "model.layers.0.mlp.gate_up_proj" -> [n, k], of every group; an untied head is the last one."""
    groups = {
        f"{layer_prefix(layer)}.{group.name}": shape.group(group) for layer in range(shape.layers) for group in GROUPS
    }
    return groups if shape.tied else groups | {HEAD.name: shape.group(HEAD)}


def float_tensors(architecture: Architecture, shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a float checkpoint of this architecture has to hold."""
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab, shape.hidden)}
    if not shape.tied:
        tensors["lm_head.weight"] = (shape.vocab, shape.hidden)
    for name, size in norm_shapes(architecture, shape).items():
        tensors[f"{name}.weight"] = size
    for name, (n, k) in linear_shapes(shape).items():
        tensors[f"{name}.weight"] = (n, k)
        if name.split(".", 3)[3] in architecture.biased:
            tensors[f"{name}.bias"] = (n,)
    return tensors
