"""Directories in the format of compressed-tensors: the tensors, and what they compute; vLLM itself in tests/engines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quantized_directories import edit_tensors, stored_tensors
from quantized_models import make_w8a8s
from tilepress.checkpoint import W8A8SCheckpoint
from tilepress.checkpoint.export import export_directory
from tilepress.cli import main
from tilepress.compress import compress_directory
from tilepress.errors import UsageError
from tiny_models import make_tiny_llama, make_tiny_mistral, make_tiny_qwen2, make_tiny_qwen3

MAKERS = {"qwen3": make_tiny_qwen3, "qwen2": make_tiny_qwen2, "llama": make_tiny_llama, "mistral": make_tiny_mistral}
Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("family", MAKERS)
def test_tensors_and_config_say_what_the_directory_says(family: str, mode: str, tmp_path: Path) -> None:
    source = MAKERS[family](tmp_path / "float", heads=4, kv_heads=2)
    make_w8a8s(source, tmp_path / "w8a8s", head=False, activations=mode)
    export_directory(tmp_path / "w8a8s", tmp_path / "out")
    ours, made = W8A8SCheckpoint(tmp_path / "w8a8s"), stored_tensors(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    activations = config["quantization_config"]["config_groups"]["group_0"]["input_activations"]
    assert activations["dynamic"] == (mode == "dynamic")
    assert config["quantization_config"]["ignore"] == ["lm_head"]
    assert "quantize" not in config
    for prefix in ours.quantized_linears():
        linear = ours.linear(prefix)
        assert torch.equal(made[f"{prefix}.weight"], linear.weight)
        assert made[f"{prefix}.weight_scale"].shape == (len(linear.weight), 1)
        assert (f"{prefix}.input_zero_point" in made) == (mode == "static")
    assert (f"{Q}.bias" in made) == (family == "qwen2")
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * 0.5
    if mode == "static":  # its formula beside ours
        linear = ours.linear(Q)
        quantized = torch.round(x / made[f"{Q}.input_scale"]) + made[f"{Q}.input_zero_point"].float()
        integers = quantized.clamp(-128, 127)
        theirs = (integers - made[f"{Q}.input_zero_point"].float()) @ made[f"{Q}.weight"].float().T
        y = theirs * made[f"{Q}.input_scale"] * made[f"{Q}.weight_scale"].T + made.get(f"{Q}.bias", torch.zeros(1))
        expected = (integers @ linear.weight.float().T + linear.quant_bias) * linear.deq_scale
        torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-3)
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"tokenizer.json", "generation_config.json"}


def test_linears_that_are_float_are_named(tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float", heads=4, kv_heads=2)
    make_w8a8s(source, tmp_path / "w8a8s", head=False, activations="dynamic", float_linears=["mlp.down_proj"])
    export_directory(tmp_path / "w8a8s", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    floats = [f"model.layers.{layer}.mlp.down_proj" for layer in range(2)]
    assert config["quantization_config"]["ignore"] == [*floats, "lm_head"]
    assert stored_tensors(tmp_path / "out")[f"{floats[0]}.weight"].dtype == torch.float16


def test_large_models_come_in_shards(tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float")
    make_w8a8s(source, tmp_path / "w8a8s", head=False, activations="dynamic")
    for name, size in (("one", 1 << 30), ("many", 60_000)):
        export_directory(tmp_path / "w8a8s", tmp_path / name, shard_bytes=size)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    placed = index["weight_map"]
    assert len(set(placed.values())) > 2
    assert all(name in load_file(tmp_path / "many" / file) for name, file in placed.items())
    one, many = stored_tensors(tmp_path / "one"), stored_tensors(tmp_path / "many")
    assert one.keys() == many.keys() == placed.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": True, "activations": "static"}, "the head is integers"),
        ({"head": False, "activations": "overflow"}, "made for activations 'overflow'"),
        ({"head": False, "activations": "per-token"}, "made for activations 'per-token'"),
        ({"activations": "static", "extra": {"model.norm.bias": torch.ones(64)}}, "has model.norm.bias, for which"),
    ],
)
def test_what_the_format_does_not_have_is_refused(
    options: dict[str, object], message: str, tiny_qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make: Callable[..., Path] = make_w8a8s
    make(tiny_qwen3, tmp_path / "w8a8s", **options)
    assert main(["export", str(tmp_path / "w8a8s"), "-o", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_biases_that_the_architecture_does_not_have_are_refused(tmp_path: Path) -> None:
    make_w8a8s(make_tiny_llama(tmp_path / "float"), tmp_path / "w8a8s", activations="static")
    weights = tmp_path / "w8a8s" / "quant_model_weight_w8a8s.safetensors"
    edit_tensors(weights, lambda tensors: tensors[f"{Q}.quant_bias"].add_(5000))
    with pytest.raises(UsageError, match=f"{Q}.quant_bias has a bias"):
        export_directory(tmp_path / "w8a8s", tmp_path / "out")


def test_other_directories_and_formats_are_refused(tiny_qwen3: Path, tmp_path: Path) -> None:
    make_w8a8s(tiny_qwen3, tmp_path / "w8a8s", head=False, activations="static")
    compress_directory(tmp_path / "w8a8s", tmp_path / "w8a8sc")
    for directory, message in ((tiny_qwen3, "quantize it first"), (tmp_path / "w8a8sc", "tilepress decompress")):
        with pytest.raises(UsageError, match=message):
            export_directory(directory, tmp_path / "out")
    assert main(["export", str(tmp_path / "w8a8s"), "-o", str(tmp_path / "out"), "--to", "gguf"]) == 2


def test_one_word_for_stock_vllm(tiny_qwen3: Path, tmp_path: Path) -> None:
    quantize = f"quant {tiny_qwen3} -o {tmp_path / 'w8a8s'} --for vllm-stock --samples 2 --sequence-length 32"
    assert main(quantize.split()) == 0
    assert W8A8SCheckpoint(tmp_path / "w8a8s").activations == "dynamic"
    assert main(f"convert {tmp_path / 'w8a8s'} -o {tmp_path / 'out'} --for vllm-stock".split()) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert main(f"quant {tiny_qwen3} -o {tmp_path / 'again'} --for vllm-stock --head".split()) == 2
