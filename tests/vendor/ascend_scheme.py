"""Computes a directory's linears by vLLM-Ascend's own 310P scheme on the CPU, and prints results: for a process.

    python ascend_scheme.py SOURCES DIRECTORY RANK SIZE OUT.pt

SOURCES: a checkout of vllm-ascend. vLLM and the accelerator's modules are replaced by stand-ins, and the closed
operators by their documented formulas; what looks up types, makes parameters and prepares them is theirs. Tensors are
loaded as vLLM loads them: into parameters of the given type and shape, without a check. OUT.pt gets, for each module of
a layer, what x gives: [3, k] integers times input_scale.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import transformers  # before the stand-ins: it looks whether there is a real torch_npu
from safetensors.torch import load_file

PACKED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
MODULES = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
STAND_INS = {
    "vllm": [],
    "vllm.config": ["get_current_vllm_config"],
    "vllm.logger": ["logger"],
    "vllm.model_executor": [],
    "vllm.model_executor.layers": [],
    "vllm.model_executor.layers.attention_layer_base": ["AttentionLayerBase"],
    "vllm.model_executor.layers.fused_moe": ["MoERunner", "RoutedExperts"],
    "vllm.model_executor.layers.linear": ["LinearBase"],
    "vllm.model_executor.layers.quantization": [],
    "vllm.model_executor.layers.quantization.base_config": ["QuantizationConfig", "QuantizeMethodBase"],
    "vllm.model_executor.layers.vocab_parallel_embedding": ["VocabParallelEmbedding", "UnquantizedEmbeddingMethod"],
    "vllm.model_executor.models": [],
    "vllm.model_executor.models.utils": ["WeightsMapper"],
}


def stand_in(sources: Path) -> None:
    """Put stand-ins in place, and packages without what their __init__ imports."""
    for name, attributes in STAND_INS.items():
        module = ModuleType(name)
        module.__path__ = []
        for attribute in attributes:
            setattr(module, attribute, type(attribute, (), {}))
        sys.modules[name] = module
    nothing = SimpleNamespace(**dict.fromkeys(("error", "debug", "info", "info_once", "warning"), lambda *_: None))
    sys.modules["vllm.logger"].logger = nothing  # type: ignore[attr-defined]
    quantization: Any = sys.modules["vllm.model_executor.layers.quantization"]
    quantization.register_quantization_config = lambda name: lambda made: made
    npu: Any = ModuleType("torch_npu")
    npu.npu_quant_matmul = quant_matmul
    sys.modules["torch_npu"] = npu
    for name in ("", "._310p", "._310p.quantization", "._310p.quantization.methods", ".quantization"):
        package = ModuleType(f"vllm_ascend{name}")
        package.__path__ = [str(sources / "vllm_ascend" / name.removeprefix(".").replace(".", "/"))]
        sys.modules[package.__name__] = package
    utilities: Any = ModuleType("vllm_ascend.utils")
    utilities.__getattr__ = lambda name: lambda tensor, *_: tensor
    sys.modules[utilities.__name__] = utilities
    methods: Any = ModuleType("vllm_ascend.quantization.methods")
    methods.__path__ = [str(sources / "vllm_ascend" / "quantization" / "methods")]
    methods.get_scheme_class = lambda *_: None
    sys.modules[methods.__name__] = methods
    torch.library.define("vllm::quantize", "(Tensor x, Tensor scale, Tensor reciprocal, Tensor offset) -> Tensor")
    torch.library.impl("vllm::quantize", "CPU", lambda x, scale, reciprocal, offset: quantize(x, reciprocal, offset))


def quantize(x: torch.Tensor, reciprocal: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    return (x * reciprocal + offset).round().clamp(-128, 127).to(torch.int8)


def quant_matmul(x: Any, weight: Any, scale: Any, *, bias: Any = None, output_dtype: Any = None) -> torch.Tensor:
    """deq_scale, int64, holds the bits of a float32."""
    sums = x.long() @ weight.long() + (0 if bias is None else bias.long())
    result: torch.Tensor = sums.float() * scale.to(torch.int32).view(torch.float32)
    return result


def compute(directory: Path, rank: int, size: int) -> dict[str, Any]:
    types = importlib.import_module("vllm_ascend.quantization.modelslim_config")
    registry = importlib.import_module("vllm_ascend._310p.quantization.methods.registry")
    for name in ("w8a8s", "w8a8_static"):
        importlib.import_module(f"vllm_ascend._310p.quantization.methods.{name}")
    config = json.loads((directory / "config.json").read_text())
    if "quantization_config" in config:
        raise SystemExit("config.json names a method of its own, which vLLM takes before the description")
    description = json.loads((directory / "quant_model_description.json").read_text())
    tensors = {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    generator = torch.Generator().manual_seed(0)
    results = {}
    for number in range(config["num_hidden_layers"]):
        for module in MODULES:
            prefix = f"model.layers.{number}.{module}"
            scope, _, leaf = prefix.rpartition(".")
            kind = types.get_quant_type_for_layer(description, prefix, "linear", PACKED)
            if kind == "FLOAT":
                continue
            made = registry.get_scheme_class(kind, "linear")
            if made is None:
                raise SystemExit(f"Unsupported quant_type={kind} for layer_type=linear.")
            members = [f"{scope}.{member}" for member in PACKED.get(leaf, [leaf])]
            shares = {name: [] for name in ("weight", "deq_scale", "quant_bias")}  # type: dict[str, list[torch.Tensor]]
            for member in members:
                for name, parts in shares.items():
                    parts.append(share(tensors[f"{member}.{name}"], member, name, head_dim, rank, size))
            weight = torch.cat(shares["weight"])
            scheme, layer = made(), torch.nn.Module()
            dtype = getattr(torch, config["torch_dtype"])
            parameters = scheme.get_weight(weight.shape[1], weight.shape[0], dtype)
            parameters |= scheme.get_pertensor_param(dtype) | scheme.get_perchannel_param(len(weight), dtype)
            loaded = {name: torch.cat(parts) for name, parts in shares.items()}
            loaded |= {name: tensors[f"{members[-1]}.{name}"] for name in ("input_scale", "input_offset")}
            for name, parameter in parameters.items():
                if name in loaded:
                    parameter.copy_(loaded[name])
                layer.register_parameter(name, torch.nn.Parameter(parameter, requires_grad=False))
            layer.params_dtype = dtype  # type: ignore[assignment]
            scheme.process_weights_after_loading(layer)
            integers = torch.randint(-40, 41, (3, weight.shape[1]), generator=generator)
            x = integers.to(dtype) * tensors[f"{members[0]}.input_scale"].to(dtype)
            row_parallel = leaf in ("o_proj", "down_proj")
            y = scheme.apply(layer, x, tp_rank=rank if row_parallel else 0)
            results[prefix] = {"integers": integers, "y": y}
    return results


def share(tensor: torch.Tensor, member: str, name: str, head_dim: int, rank: int, size: int) -> torch.Tensor:
    """The rank's rows, whole heads of k and v repeated where there are fewer than ranks, or columns of a weight."""
    if member.endswith(("o_proj", "down_proj")):
        return tensor.chunk(size, dim=1)[rank] if name == "weight" else tensor
    rows = len(tensor) // size
    if member.endswith(("k_proj", "v_proj")) and rows < head_dim:
        first = rank * len(tensor) // size // head_dim * head_dim
        return tensor[first : first + head_dim]
    return tensor[rank * rows : (rank + 1) * rows]


if __name__ == "__main__":
    assert transformers
    sources, directory, rank, size, out = sys.argv[1:]
    stand_in(Path(sources))
    torch.save(compute(Path(directory), int(rank), int(size)), out)
