"""What config.json says of a quantized directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tilepress.checkpoint.descriptions import W8A8S, W8A8S_DYNAMIC
from tilepress.checkpoint.tensor_files import Stored


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
