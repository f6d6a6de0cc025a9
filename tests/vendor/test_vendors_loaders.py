"""What --for vendor writes, read by the vendor's own Python: MindIE-LLM's loader and vLLM-Ascend's scheme for 310P."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from quantized_directories import edit_json, stored_tensors
from quantized_models import make_w8a8s
from tilepress import codec
from tilepress.checkpoint import W8A8SCheckpoint, open_checkpoint
from tilepress.checkpoint.convert import convert_directory
from tilepress.checkpoint.targets import VENDOR
from tiny_models import make_tiny_llama, make_tiny_mistral, make_tiny_qwen2, make_tiny_qwen3
from vendor.fetch import FOLDER

pytestmark = pytest.mark.slow  # a process that imports torch and transformers for each

# How MindIE-LLM calls a layer's linears, by ours.
OF_QWEN = {
    "self_attn.query_key_value": "attn.c_attn",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.gate_up_proj": "mlp.w2_w1",
    "mlp.down_proj": "mlp.c_proj",
}
FAMILIES = {"qwen3": make_tiny_qwen3, "qwen2": make_tiny_qwen2, "llama": make_tiny_llama, "mistral": make_tiny_mistral}


def sources(name: str) -> Path:
    """A checkout, of $TILEPRESS_VENDOR_SOURCES or of fetch.py; the test is skipped without one."""
    folder = Path(os.environ.get("TILEPRESS_VENDOR_SOURCES", FOLDER)) / name
    if not folder.exists():
        pytest.skip(f"{folder}: no sources of {name}; python tests/vendor/fetch.py gets them where there is a network")
    return folder


def run(program: str, name: str, directory: Path, rank: int, size: int, out: Path) -> subprocess.CompletedProcess[str]:
    file = Path(__file__).with_name(program)
    command = [sys.executable, str(file), str(sources(name)), str(directory), str(rank), str(size), str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def computed(program: str, name: str, directory: Path, rank: int, size: int) -> dict[str, dict[str, Any]]:
    out = directory.parent / f"{name}-{rank}-of-{size}.pt"
    result = run(program, name, directory, rank, size, out)
    assert result.returncode == 0, result.stderr
    loaded: dict[str, dict[str, Any]] = torch.load(out)
    return loaded


ALL: tuple[str, ...] = ()
# As of the vendor's recipe for Qwen3-8B, and one whole layer.
SOME_FLOAT = ("mlp.down_proj", "model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj")


@pytest.fixture(
    params=[
        *((family, tied, ALL) for family in FAMILIES for tied in (True, False)),
        *((family, True, SOME_FLOAT) for family in FAMILIES),
    ],
    ids=lambda case: f"{case[0]}{' tied' * case[1]}{' partly float' * bool(case[2])}",
)
def vendors(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    family, tied, floats = request.param
    make: Callable[..., Path] = FAMILIES[family]
    sizes = {"heads": 4, "kv_heads": 2} if family == "qwen2" else {}
    source = make(tmp_path / "float", tied=tied, **sizes)
    ours = make_w8a8s(source, tmp_path / "w8a8s", activations="static", float_linears=floats)
    convert_directory(ours, tmp_path / "vendor", VENDOR)
    return tmp_path / "vendor"


@pytest.mark.parametrize(("rank", "size"), [(0, 1), (0, 2), (1, 2)])
def test_mindie_loads_the_same_numbers(vendors: Path, rank: int, size: int) -> None:
    """Every tensor of the formula, on every rank: its results are then the same."""
    theirs = computed("mindie_loader.py", "MindIE-LLM", vendors, rank, size)
    checkpoint = open_checkpoint(vendors)
    assert isinstance(checkpoint, W8A8SCheckpoint)
    shard = checkpoint.shard(rank, size)
    qwen = checkpoint.config["model_type"].startswith("qwen")
    groups = checkpoint.fused_groups()
    assert len(groups) in (4 * checkpoint.shape.layers, 4 * checkpoint.shape.layers - 3)
    for prefix in groups:
        _, _, number, name = prefix.split(".", 3)
        found = theirs[f"model.h.{number}.{OF_QWEN[name]}.linear" if qwen else f"model.{prefix[6:]}.linear"]
        ours = shard.compressed_linear(prefix)
        weight = found["weight"] if found["rows_first"] else found["weight"].T
        assert torch.equal(weight, torch.from_numpy(codec.decode(ours.weight)))
        assert float(found["input_scale"]) == ours.input_scale
        assert int(found["input_offset"]) == ours.input_offset
        assert torch.equal(found["deq_scale"].to(torch.int32).view(torch.float32), ours.deq_scale)
        assert torch.equal(found["quant_bias"], ours.quant_bias)
    table = "model.embed_tokens.weight" if checkpoint.shape.tied else "lm_head.weight"
    rows = checkpoint.shape.vocab // size
    assert torch.equal(theirs["head.linear"]["weight"], stored_tensors(vendors)[table][rank * rows :][:rows])


@pytest.mark.parametrize(("rank", "size"), [(0, 1), (0, 2), (1, 2)])
def test_vllm_ascend_computes_the_formula(vendors: Path, rank: int, size: int) -> None:
    theirs = computed("ascend_scheme.py", "vllm-ascend", vendors, rank, size)
    checkpoint = open_checkpoint(vendors)
    assert isinstance(checkpoint, W8A8SCheckpoint)
    shard, renamed = checkpoint.shard(rank, size), {"query_key_value": "qkv_proj"}
    for prefix in checkpoint.fused_groups():
        scope, _, name = prefix.rpartition(".")
        found, ours = theirs[f"{scope}.{renamed.get(name, name)}"], shard.compressed_linear(prefix)
        x = (found["integers"] + ours.input_offset).clamp(-128, 127)
        sums = x @ torch.from_numpy(codec.decode(ours.weight)).long().T + ours.quant_bias
        torch.testing.assert_close(found["y"], sums.float() * ours.deq_scale)


def test_what_they_would_miscompute_is_refused(tmp_path: Path) -> None:
    ours = make_w8a8s(make_tiny_qwen3(tmp_path / "float"), tmp_path / "w8a8s", activations="overflow")
    refused = run("mindie_loader.py", "MindIE-LLM", ours, 0, 1, tmp_path / "out.pt")
    assert refused.returncode != 0
    assert "tilepress-w8a8s-overflow, which MindIE-LLM does not know" in refused.stderr
    edit_json(ours / "config.json", lambda config: config.pop("quantization_config"))
    refused = run("ascend_scheme.py", "vllm-ascend", ours, 0, 1, tmp_path / "out.pt")
    assert refused.returncode != 0
    assert "Unsupported quant_type=W8A8S_OVERFLOW" in refused.stderr
