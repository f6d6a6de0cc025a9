"""Loads a directory by MindIE-LLM's own Python on the CPU, and prints what its linears hold: a program for a process.

    python mindie_loader.py SOURCES DIRECTORY RANK SIZE OUT.pt

SOURCES: a checkout of MindIE-LLM. Its modules for the accelerator are replaced by ones that do nothing; what reads,
splits and checks tensors is theirs. OUT.pt gets linears, norms and tables by the names of their modules.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import transformers
import transformers.activations
import transformers.modeling_utils  # before the stand-ins: it looks whether there is a real torch_npu


class Anything(ModuleType):
    """A module of which every attribute is a function that does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **options: None


def stand_in(sources: Path) -> None:
    """Put stand-ins for the accelerator's modules in place, and packages without what their __init__ imports."""
    root = sources / "examples" / "atb_models"
    sys.path.insert(0, str(root))
    for name in ("acl", "acl.rt", "torch_npu", "psutil", "atb_llm.utils.log", "atb_llm.utils.log.logging"):
        sys.modules[name] = Anything(name)
    for name in ("atb_llm.utils.log.error_code", "torch_npu.profiler", "_libatb_torch"):
        sys.modules[name] = Anything(name)
    transformers.modeling_utils.PretrainedConfig = transformers.PreTrainedConfig  # its name in transformers 4
    npu = sys.modules["torch_npu"]
    npu._C = SimpleNamespace(_npu_get_soc_version=lambda: 220)  # type: ignore[attr-defined]
    npu.npu_format_cast_ = lambda tensor, form: tensor  # type: ignore[attr-defined]
    npu.npu_format_cast = lambda tensor, form: tensor  # type: ignore[attr-defined]
    npu.get_npu_format = lambda tensor: 2  # type: ignore[attr-defined]
    npu.profiler = SimpleNamespace(ProfilerLevel=SimpleNamespace(Level0=0))  # type: ignore[attr-defined]
    torch.npu = SimpleNamespace(config=SimpleNamespace(), synchronize=lambda: None)  # type: ignore[attr-defined]
    torch.Tensor.npu = lambda tensor, *_: tensor  # type: ignore[attr-defined]
    log = sys.modules["atb_llm.utils.log"]
    log.logger = Anything("logger")  # type: ignore[attr-defined]
    sys.modules["atb_llm.utils.log.logging"].logger = log.logger  # type: ignore[attr-defined]
    sys.modules["atb_llm.utils.log.error_code"].ErrorCode = Anything("ErrorCode")  # type: ignore[attr-defined]
    for name in ("models", "nn"):
        package = ModuleType(f"atb_llm.{name}")
        package.__path__ = [str(root / "atb_llm" / name)]
        sys.modules[package.__name__] = package
    from atb_llm.nn.modules.module import Module

    modules = ModuleType("atb_llm.nn.modules")
    modules.Module = Module  # type: ignore[attr-defined]
    sys.modules[modules.__name__] = modules
    utilities = ModuleType("atb_llm.models.base.model_utils")
    utilities.get_tqdm_iterator = lambda items, _: items  # type: ignore[attr-defined]
    sys.modules[utilities.__name__] = utilities


def load(directory: Path, rank: int, size: int) -> dict[str, dict[str, Any]]:
    from atb_llm.utils import OpBackend
    from atb_llm.utils.dist import FakeGroup
    from atb_llm.utils.layers import load_column_multi
    from atb_llm.utils.quantize.quant_type import QUANTIZE_DESC_REQUIRED_LIST
    from atb_llm.utils.weights import Weights

    stored = json.loads((directory / "config.json").read_text())
    if stored["quantize"] not in QUANTIZE_DESC_REQUIRED_LIST:
        raise SystemExit(f"quantize is {stored['quantize']}, which MindIE-LLM does not know")
    heads = stored["num_attention_heads"]
    config = SimpleNamespace(
        **{"attention_bias": stored["model_type"] == "qwen2", "use_qk_norm": stored["model_type"] == "qwen3"} | stored
    )
    config.quantization_config = SimpleNamespace(kv_quant_type=None, fa_quant_type=None, reduce_quant_type=None)
    config.head_dim = stored.get("head_dim") or stored["hidden_size"] // heads
    config.torch_dtype = getattr(torch, stored["torch_dtype"])
    mapping = SimpleNamespace(
        rank=rank,
        local_world_size=size,
        enable_dense_tp=False,
        pp_layers=range,
        **{
            name: lambda: False
            for name in (
                "has_dp",
                "has_attn_cp",
                "has_moe_ep",
                "has_moe_tp",
                "has_attn_o_proj_tp",
                "has_pp",
                "has_mlp_tp",
            )
        },
    )
    weights = Weights(
        str(directory),
        torch.device("cpu"),
        config.torch_dtype,
        process_group=FakeGroup(rank, size),
        quantize=stored["quantize"],
        is_gqa=stored["num_key_value_heads"] < heads,
        mapping=mapping,
    )
    if stored["model_type"] in ("qwen2", "qwen3"):
        from atb_llm.models.qwen2.modeling_qwen2 import FlashQwenModel

        model = FlashQwenModel(config, weights, attn_decode_backend=OpBackend.ATB)
    else:
        from atb_llm.models.llama.modeling_llama import FlashLlamaModel

        model = FlashLlamaModel(config, weights)
    tied = stored["tie_word_embeddings"]
    table = "model.embed_tokens" if tied else "lm_head"
    head = load_column_multi(config, prefixes=[table], weights=weights, head_size=1, lm_head=True)
    found: dict[str, dict[str, Any]] = {}
    for root, module in (("model", model), ("head", head)):
        for name, child in module.named_modules():
            tensors = dict(child.named_parameters(recurse=False)) | dict(child.named_buffers(recurse=False))
            if tensors:
                kept = {leaf: tensor.detach().clone() for leaf, tensor in tensors.items()}
                found[f"{root}.{name}"] = kept | {"rows_first": bool(getattr(child, "trans_flag", True))}
    return found


if __name__ == "__main__":
    sources, directory, rank, size, out = sys.argv[1:]
    stand_in(Path(sources))
    torch.save(load(Path(directory), int(rank), int(size)), out)
