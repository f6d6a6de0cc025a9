"""quant_model_description.json: the type of each tensor, beside global keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tilepress.checkpoint.safetensors.reader import Stored
from tilepress.errors import CheckpointError
from tilepress.jobs.json_files import read_object, write_object
from tilepress.models.architecture import CLASSES, ModelShape, class_name
from tilepress.models.transformers_config import model_config

CODING = "coding"  # global key: the form of compressed weights, "entropy"; absent where it is tiles
DESCRIPTION = "quant_model_description.json"
FLOAT: str = "FLOAT"
W8A8S: str = "W8A8S"
W8A8SC: str = "W8A8SC"
W8A8S_DYNAMIC = "W8A8S_DYNAMIC"  # ours: the same tensors, but practically every token gets a dynamic scale
# Ours too, in W8A8S directories that are made for "overflow": other engines would clamp their tokens.
W8A8S_OVERFLOW = "W8A8S_OVERFLOW"
ACTIVATIONS = "activations"  # global key: the activation mode
OVERFLOW, STATIC = "overflow", "static"

W8A8, W8A8_MIX, W16A16S = "W8A8", "W8A8_MIX", "W16A16S"
W8A8_DYNAMIC = "W8A8_DYNAMIC"  # the vendor's: every token has a symmetric scale; weight_scale beside the weight
C8 = "C8"  # scales of keys and values in int8
# How the types in a description are read. W8A8 stores the same five tensors as W8A8S, and so does W8A8_MIX, which adds
# scales for prompts; W16A16S is a float weight with zeros; some releases of the vendor's manual put W8A8SC into a W8A8S
# directory.
_READ_AS = {
    FLOAT: FLOAT,
    W16A16S: FLOAT,
    W8A8S: W8A8S,
    W8A8: W8A8S,
    W8A8_MIX: W8A8S,
    W8A8_DYNAMIC: W8A8_DYNAMIC,
    C8: C8,
    W8A8SC: W8A8SC,
    W8A8S_DYNAMIC: W8A8S_DYNAMIC,
    W8A8S_OVERFLOW: W8A8S,
}


@dataclass(frozen=True)
class Description:
    """path: its file; types: tensor name -> FLOAT, W8A8S, W8A8S_DYNAMIC, W8A8_DYNAMIC or W8A8SC.

    extra: the global keys but model_quant_type.
    """

    path: Path
    model_type: str
    types: dict[str, str]
    extra: dict[str, Any]

    def require(self, name: str, allowed: tuple[str, ...]) -> str:
        """The type of a stored tensor. Raises CheckpointError where it is missing or not among `allowed`."""
        if name not in self.types:
            raise CheckpointError(f"{self.path}: does not describe tensor {name}; get the description again")
        found = self.types[name]
        if found not in allowed:
            raise CheckpointError(f"{self.path}: {name} is {found}; it has to be {' or '.join(allowed)}")
        return found


def description_file(directory: Path) -> Path | None:
    """The description in `directory`, under its usual name or the older ones; None where it has none."""
    older = (
        f"quant_model_description_{kind}.json"
        for kind in ("w8a8s", "w8a8sc", "w8a8", "w8a8_mix", "w8a8_dynamic", "w16a16s")
    )
    for name in (DESCRIPTION, *older):
        if (directory / name).is_file():
            return directory / name
    return None


def read_description(path: Path) -> Description:
    """Read a description. Raises CheckpointError for another file and for a type that tilepress does not read."""
    types: dict[str, str] = {}
    extra: dict[str, Any] = {}
    overflowing: str | None = None
    content = read_object(path)
    model_type = content.pop("model_quant_type", None)
    if not isinstance(model_type, str):
        raise CheckpointError(f"{path}: model_quant_type is {model_type!r}; it has to be W8A8S or W8A8SC")
    for key, value in content.items():
        if "." not in key:  # tensor names have dots, global keys such as group_size have none
            extra[key] = value
        elif isinstance(value, str) and value in _READ_AS:
            types[key] = _READ_AS[value]
            overflowing = overflowing or (key if value == W8A8S_OVERFLOW else None)
        else:
            raise CheckpointError(
                f"{path}: type of {key} is {value!r}, which tilepress does not read (it reads {', '.join(_READ_AS)}); "
                "quantize the float model with `tilepress quant`"
            )
    if overflowing is not None and extra.get(ACTIVATIONS) != OVERFLOW:
        raise CheckpointError(
            f"{path}: {overflowing} is {W8A8S_OVERFLOW}, but {ACTIVATIONS} is {extra.get(ACTIVATIONS)!r}; it has to be "
            f"{OVERFLOW!r}, quantize the model again"
        )
    return Description(path, model_type, types, extra)


def write_description(directory: Path, model_type: str, types: dict[str, str], extra: dict[str, Any]) -> None:
    write_object(directory / DESCRIPTION, {"model_quant_type": model_type, "version": "1.0.0"} | extra | types)


# Fields that tilepress computes with and writes; head_dim is hidden_size / num_attention_heads except for Qwen3.
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
    """Return the fields of config.json; those that it leaves out have the values that transformers takes.

    `architectures` and `model_type` name the class that transformers loads. Raises CheckpointError for a file that is
    no JSON object, a class that tilepress does not read, an impossible size, and fields that transformers refuses.
    """
    return completed(read_object(directory / "config.json"), directory)


def completed(fields: dict[str, Any], directory: Path) -> dict[str, Any]:
    """`read_config` of these fields, of the config.json of `directory`."""
    path = directory / "config.json"
    loaded = class_name(fields, path)
    kind = next(kind for kind, name in CLASSES.items() if name == loaded)
    fields |= {"architectures": [loaded], "model_type": kind}
    ModelShape.check(fields, path)
    needed = (*_NEEDED, "head_dim") if kind == "qwen3" else _NEEDED
    missing = [key for key in needed if fields.get(key) is None]
    if missing:  # only then: importing transformers takes seconds, and what tilepress writes is complete
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
    # Only deq_scale of a quantized linear's tensors can be int64, and only in the float16 flavour.
    kinds = (W8A8S, W8A8S_DYNAMIC)
    return "float16" if any(kind in kinds and stored.dtype == torch.int64 for kind, stored in inventory) else "bfloat16"


def quantized_config(
    source: Mapping[str, Any], *, kind: str, tied: bool, mode: str = STATIC, dtype: str | None = None
) -> dict[str, Any]:
    """Return `source` as the config of a `kind` directory, "w8a8s" or "w8a8sc".

    mode: the activation mode. dtype: float type, unchanged if None. `quantize` is a word of the vendor's engines only
    where they compute what the directory says. quantization_config makes engines that do not know the format refuse it,
    instead of reading its integers as weights.
    """
    config = dict(source)
    if dtype is not None:
        config |= {"torch_dtype": dtype, "dtype": dtype}
    before = config.get("quantization_config")
    kept = before if isinstance(before, dict) and before.get("quant_method") == "tilepress" else {}
    return config | {
        "tie_word_embeddings": tied,
        "quantize": kind if kind == "w8a8s" and mode == STATIC else f"tilepress-{kind}-{mode}",
        "quantization_config": {**kept, "quant_method": "tilepress", "format": kind},
    }
