"""A W8A8S directory as the vendor's tool leaves it, and what tests do to directories to damage them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tilepress.checkpoint import QuantizedLinear, W8A8SCheckpoint, W8A8SWriter


def random_linear(n: int, k: int, *, scale: float, offset: int, bias: Tensor | None = None) -> QuantizedLinear:
    """Random integers, most of them small; `bias` is folded into quant_bias as the format has it."""
    weight = (torch.randn(n, k) * 2).round().clamp(-128, 127).to(torch.int8)
    deq_scale = scale * torch.empty(n).uniform_(0.001, 0.01)
    folded = torch.zeros(n) if bias is None else bias.float() / deq_scale
    quant_bias = (folded - offset * weight.sum(dim=1)).round().to(torch.int32)
    return QuantizedLinear(weight, scale, offset, deq_scale, quant_bias)


def copy_through_writer(source: W8A8SCheckpoint, writer: W8A8SWriter) -> None:
    """Add everything that `source` holds."""
    for name in source.float_names():
        writer.add_float(name, source.float_tensor(name))
    for prefix in source.quantized_linears():
        writer.add_linear(prefix, source.linear(prefix))


def write_vendor_like(out: Path, source: Path) -> Path:
    """What msModelSlim leaves of a tied model.

    float32 scales and offsets, down_proj float, an untied head, norm biases, biases beside quantized linears,
    `.module.` duplicates, shards under a file name of its own, the older name of the description, no version.
    """
    out.mkdir()
    floats = load_file(source / "model.safetensors")
    tensors: dict[str, Tensor] = {}
    types: dict[str, Any] = {"model_quant_type": "W8A8S", "group_size": 0, "metadata": {"a.b": ["FLOAT"]}}

    def add(kind: str, **named: Tensor) -> None:
        for name, tensor in named.items():
            tensors[name] = tensor.clone()
            types[name] = kind

    for name, tensor in floats.items():
        prefix, _, leaf = name.rpartition(".")
        if not prefix.endswith("_proj") or prefix.endswith("down_proj"):
            add("FLOAT", **{name: tensor.float()})
        elif leaf == "weight":
            bias = floats.get(f"{prefix}.bias")
            scale = float(torch.tensor(0.012345678 if "self_attn" in prefix else 3e-5))
            linear = random_linear(*tensor.shape, scale=scale, offset=-7, bias=bias)
            add(
                "W8A8S",
                **{
                    f"{prefix}.weight": linear.weight,
                    f"{prefix}.input_scale": torch.tensor([linear.input_scale]),
                    f"{prefix}.input_offset": torch.tensor([-7.0]),
                    f"{prefix}.deq_scale": linear.deq_scale.view(torch.int32).to(torch.int64),
                    f"{prefix}.quant_bias": linear.quant_bias,
                },
            )
            if bias is not None:
                add("FLOAT", **{f"{prefix}.bias": bias.float()})
        if "norm" in name:
            bias = torch.randn(tensor.shape)
            add("FLOAT", **{f"{prefix}.bias": bias})
            add("W8A8S", **{f"{prefix}.module.weight": tensor.float(), f"{prefix}.module.bias": bias})
    add("FLOAT", **{"lm_head.weight": floats["model.embed_tokens.weight"].float() + 1})
    names = sorted(tensors)
    placed = {}
    for shard, part in enumerate((names[::2], names[1::2]), 1):
        file = f"quant_model_weights-0000{shard}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, out / file)
        placed |= dict.fromkeys(part, file)
    write_json(out / "quant_model_weights.safetensors.index.json", {"metadata": {}, "weight_map": placed})
    write_json(out / "quant_model_description_w8a8s.json", types)
    config = json.loads((source / "config.json").read_text())
    write_json(out / "config.json", config | {"torch_dtype": "float16", "dtype": "bfloat16", "quantize": "w8a8s"})
    shutil.copy(source / "tokenizer.json", out)
    return out


def write_dynamic(out: Path, source: Path) -> Path:
    """What msModelSlim leaves of W8A8_DYNAMIC: int8 weights, scales [n, 1], offsets of 0, biases, a float head."""
    tensors: dict[str, Tensor] = {}
    types = {"model_quant_type": "W8A8_DYNAMIC", "version": "1.0.0"}
    for name, tensor in stored_tensors(source).items():
        prefix, _, leaf = name.rpartition(".")
        if not prefix.endswith("_proj") or leaf == "bias":
            tensors[name], types[name] = tensor, "FLOAT"
            continue
        scale = tensor.float().abs().amax(dim=1, keepdim=True) / 127
        tensors |= {
            name: torch.round(tensor.float() / scale).to(torch.int8),
            f"{name}_scale": scale,
            f"{name}_offset": torch.zeros_like(scale),
        }
        types |= dict.fromkeys((name, f"{name}_scale", f"{name}_offset"), "W8A8_DYNAMIC")
    shutil.copytree(source, out)
    (out / "model.safetensors").unlink()
    save_file(tensors, out / "quant_model_weights.safetensors")
    write_json(out / "quant_model_description.json", types)
    edit_json(out / "config.json", lambda config: config.update({"quantize": "w8a8_dynamic"}))
    return out


def stored_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of a directory, with plain safetensors."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def edit_json(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(file.read_text())
    change(content)
    write_json(file, content)


def edit_tensors(file: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    file.unlink()  # the old one may be mapped
    save_file(tensors, file)


def write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content))
