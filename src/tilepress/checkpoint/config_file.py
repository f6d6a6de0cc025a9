"""What config.json says of a model, and of a quantized directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tilepress.checkpoint.architecture import CLASSES, ModelShape, class_name
from tilepress.checkpoint.descriptions import W8A8S, W8A8S_DYNAMIC
from tilepress.checkpoint.json_files import read_object
from tilepress.checkpoint.tensor_files import Stored
from tilepress.model_config import model_config

# What is computed and written here depends on; head_dim is hidden_size / num_attention_heads but for Qwen3.
_NEEDED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
)


def read_config(directory: Path) -> dict[str, Any]:
    """The fields of config.json, and those that it leaves out as transformers takes them: the only reader of the file.

    `architectures` and `model_type` name the class that transformers loads. Raises CheckpointError for a file that is
    none, a class that tilepress does not read, a size that is impossible, and where transformers refuses the fields.
    """
    path = directory / "config.json"
    fields = read_object(path)
    loaded = class_name(fields, path)
    kind = next(kind for kind, name in CLASSES.items() if name == loaded)
    fields |= {"architectures": [loaded], "model_type": kind}
    ModelShape.check(fields, path)
    needed = (*_NEEDED, "head_dim") if kind == "qwen3" else _NEEDED
    missing = [key for key in needed if fields.get(key) is None]
    if missing:  # importing transformers takes seconds, and what tilepress writes says it all
        taken = model_config(fields, directory)
        fields |= {key: getattr(taken, key) for key in missing}
    return fields


def flavour(config: Mapping[str, Any], inventory: list[tuple[str, Stored]]) -> str:
    """ "float16" or "bfloat16". Where config.json names neither, the stored type of the deq_scales tells.

    torch_dtype comes before dtype: the vendor's instructions have the user edit the former.
    """
    for key in ("torch_dtype", "dtype"):
        if config.get(key) in ("float16", "bfloat16"):
            return str(config[key])
    # Of a quantized linear's scales only deq_scale is int64, and it is in the float16 flavour alone.
    kinds = (W8A8S, W8A8S_DYNAMIC)
    return "float16" if any(kind in kinds and stored.dtype == torch.int64 for kind, stored in inventory) else "bfloat16"


def quantized_config(source: Mapping[str, Any], *, kind: str, tied: bool, dtype: str | None = None) -> dict[str, Any]:
    """`source` as the config of a directory of `kind`, "w8a8s" or "w8a8sc"; dtype: float type, unchanged if None.

    quantization_config makes engines that do not know the format refuse it, instead of reading its integers as weights.
    """
    config = dict(source)
    if dtype is not None:
        config |= {"torch_dtype": dtype, "dtype": dtype}
    before = config.get("quantization_config")
    kept = before if isinstance(before, dict) and before.get("quant_method") == "tilepress" else {}
    return config | {
        "tie_word_embeddings": tied,
        "quantize": kind,
        "quantization_config": {**kept, "quant_method": "tilepress", "format": kind},
    }
