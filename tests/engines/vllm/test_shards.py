"""What a rank of the vLLM engine loads: the same from W8A8S, from parts of its own size and from parts of another."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from quantized_models import make_w8a8s
from tilepress import CheckpointError
from tilepress.checkpoint import EMBEDDING
from tilepress.compress import compress_directory
from tilepress.engines.operands import embedding_operands, linear_operands
from tilepress.engines.vllm import register
from tilepress.engines.vllm.shard import ModelShard, open_shard
from tiny_models import make_tiny_llama, make_tiny_qwen2, make_tiny_qwen3

# Of layer 1 q, k and v stay float and have biases; down_proj has one that the architecture does not know.
MIXED = {
    "float_linears": ["mlp.down_proj", *(f"model.layers.1.self_attn.{name}_proj" for name in "qkv")],
    "extra": {"model.layers.0.mlp.down_proj.bias": torch.linspace(-1, 1, 64), "model.norm.bias": torch.ones(64)},
}


def contents(share: ModelShard) -> dict[str, torch.Tensor]:
    """Everything that the engine can ask for, by name."""
    tensors: dict[str, torch.Tensor] = {}
    for module in share.shard.modules():
        if not share.shard.is_quantized(module):
            tensors |= {entry.name: entry.tensor for entry in share.shard.entries(module)}
        elif module != EMBEDDING:
            operands = linear_operands(share.shard.compressed_linear(module))
            tensors |= {f"{module}.{name}": tensor for name, tensor in operands.items()}
    if share.shares_table or share.shard.is_quantized(EMBEDDING):
        operands = embedding_operands(share.shard.compressed_embedding())
        tensors |= {f"{EMBEDDING}.{name}": tensor for name, tensor in operands.items()}
    return tensors


@pytest.mark.parametrize(
    ("make", "tied", "options"),
    [
        (make_tiny_qwen3, False, {"activations": "overflow", "head": True, "embeddings": True}),
        (make_tiny_qwen3, True, {"activations": "per-token", "shared": True}),
        (make_tiny_llama, True, {"activations": "static"}),
        (make_tiny_qwen2, False, MIXED),
    ],
    ids=["all quantized", "shared table", "float tables", "mixed with biases"],
)
def test_a_rank_loads_the_same_whatever_the_directory(make, tied: bool, options: dict, tmp_path: Path) -> None:
    source = make(tmp_path / "float", tied=tied, head_dim=8)
    quantized = make_w8a8s(source, tmp_path / "w8a8s", **options)
    for tp in (1, 2, 4, 8):
        compress_directory(quantized, tmp_path / f"{tp}", tp=tp)
    for tp in (1, 2, 8):
        for rank in range(tp):
            expected = contents(open_shard(tmp_path / f"{tp}", tp=tp, rank=rank))
            for other in ("w8a8s", "1", "4"):
                share = open_shard(tmp_path / other, tp=tp, rank=rank)
                assert (share.tied, share.shares_table) == (tied, "shared" in options)
                found = contents(share)
                assert found.keys() == expected.keys()
                for name, tensor in found.items():
                    assert tensor.dtype == expected[name].dtype
                    assert torch.equal(tensor, expected[name]), f"{name} of rank {rank} of {tp} from {other}"


def test_sizes_that_do_not_divide_the_model_are_refused(tiny_w8a8s: Path) -> None:
    with pytest.raises(CheckpointError, match="3 tensor-parallel parts do not fit 8 heads"):
        open_shard(tiny_w8a8s, tp=3, rank=0)


def test_a_float_directory_is_no_share(tiny_qwen3: Path) -> None:
    with pytest.raises(CheckpointError, match="the tensors are float"):
        open_shard(tiny_qwen3, tp=1, rank=0)


def test_a_vllm_of_another_interface_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr("tilepress.engines.vllm.loader", raising=False)
    monkeypatch.setitem(sys.modules, "tilepress.engines.vllm.loader", None)
    register()
    assert "cannot be loaded by this version of vLLM" in caplog.text
