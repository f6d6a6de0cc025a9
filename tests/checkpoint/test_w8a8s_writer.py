from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from quantized_directories import copy_through_writer, random_linear, same_tensors, stored_tensors
from quantized_models import make_w8a8s
from tilepress.checkpoint import FloatCheckpoint, W8A8SCheckpoint, W8A8SWriter
from tilepress.errors import CheckpointError
from tilepress.jobs import atomic_directory
from tiny_models import make_tiny_llama, make_tiny_qwen2, make_tiny_qwen3


def expected_tensors(dtype: torch.dtype) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """The format page, spelled out for the tiny Qwen3."""
    expected = {
        "model.embed_tokens.weight": (dtype, (320, 64)),
        "lm_head.weight": (dtype, (320, 64)),
        "model.norm.weight": (dtype, (64,)),
    }
    linears = {
        "self_attn.q_proj": (128, 64),
        "self_attn.k_proj": (64, 64),
        "self_attn.v_proj": (64, 64),
        "self_attn.o_proj": (64, 128),
        "mlp.gate_proj": (128, 64),
        "mlp.up_proj": (128, 64),
        "mlp.down_proj": (64, 128),
    }
    for layer in ("model.layers.0", "model.layers.1"):
        expected[f"{layer}.input_layernorm.weight"] = (dtype, (64,))
        expected[f"{layer}.post_attention_layernorm.weight"] = (dtype, (64,))
        expected[f"{layer}.self_attn.q_norm.weight"] = (dtype, (16,))
        expected[f"{layer}.self_attn.k_norm.weight"] = (dtype, (16,))
        for name, (n, k) in linears.items():
            expected |= {
                f"{layer}.{name}.weight": (torch.int8, (n, k)),
                f"{layer}.{name}.input_scale": (dtype, (1,)),
                f"{layer}.{name}.input_offset": (torch.int8, (1,)),
                f"{layer}.{name}.deq_scale": (torch.int64 if dtype == torch.float16 else torch.float32, (n,)),
                f"{layer}.{name}.quant_bias": (torch.int32, (n,)),
            }
    return expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_directory_holds_exactly_what_the_format_says(tmp_path: Path, tiny_qwen3: Path, dtype: str) -> None:
    out = make_w8a8s(tiny_qwen3, tmp_path / "out", dtype=dtype)

    tensors = stored_tensors(out)
    assert {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()} == expected_tensors(getattr(torch, dtype))
    description = json.loads((out / "quant_model_description.json").read_text())
    assert description.pop("model_quant_type") == "W8A8S"
    assert description.pop("version") == "1.0.0"
    assert description == {name: "W8A8S" if ("_proj." in name) else "FLOAT" for name in tensors}
    config = json.loads((out / "config.json").read_text())
    assert config["quantize"] == "w8a8s"
    assert config["torch_dtype"] == config["dtype"] == dtype
    assert config["quantization_config"] == {"quant_method": "tilepress", "format": "w8a8s"}
    assert {file.name for file in out.iterdir()} == {
        "config.json",
        "quant_model_weight_w8a8s.safetensors",
        "quant_model_description.json",
        *(file.name for file in FloatCheckpoint(tiny_qwen3).auxiliary_files()),
    }
    assert (out / "special_tokens_map.json").read_bytes() == (tiny_qwen3 / "special_tokens_map.json").read_bytes()


def test_integers_and_scales_come_back_as_written(tmp_path: Path, w8a8s: Path) -> None:
    source, prefix = W8A8SCheckpoint(w8a8s), "model.layers.1.mlp.down_proj"
    written = random_linear(64, 128, scale=0.03125, offset=-128)
    with W8A8SWriter(tmp_path / "out", source, dtype="float16") as writer:
        for name in source.float_names():
            writer.add_float(name, source.float_tensor(name))
        for name in source.quantized_linears():
            writer.add_linear(name, written if name == prefix else source.linear(name))

    checkpoint = W8A8SCheckpoint(tmp_path / "out")
    linear = checkpoint.linear(prefix)
    assert (linear.input_scale, linear.input_offset) == (0.03125, -128)
    assert torch.equal(linear.weight, written.weight)
    assert torch.equal(linear.deq_scale, written.deq_scale)
    assert torch.equal(linear.quant_bias, written.quant_bias)
    assert torch.equal(linear.weight_scale(), written.deq_scale / 0.03125)
    stored = stored_tensors(checkpoint.path)
    assert torch.equal(stored[f"{prefix}.deq_scale"].to(torch.int32).view(torch.float32), written.deq_scale)
    assert torch.equal(checkpoint.float_tensor("model.norm.weight"), source.float_tensor("model.norm.weight"))


@pytest.mark.parametrize("make", [make_tiny_llama, make_tiny_qwen2])
def test_other_architectures(tmp_path: Path, make: Callable[..., Path]) -> None:
    source = make(tmp_path / "float", heads=4, kv_heads=2)
    attention = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    checkpoint = W8A8SCheckpoint(make_w8a8s(source, tmp_path / "out", float_linears=attention))
    biased = make is make_tiny_qwen2
    assert ("model.layers.0.self_attn.q_proj.bias" in checkpoint.float_names()) == biased
    assert not checkpoint.is_quantized("model.layers.0.self_attn.q_proj")
    assert checkpoint.fused_groups()[0] == "model.layers.0.self_attn.o_proj"


def test_large_models_are_sharded(tmp_path: Path, w8a8s: Path) -> None:
    sharded = tmp_path / "sharded"
    with W8A8SWriter(sharded, W8A8SCheckpoint(w8a8s), dtype="float16", max_shard_bytes=60_000) as writer:
        copy_through_writer(W8A8SCheckpoint(w8a8s), writer)

    shards = sorted(file.name for file in sharded.glob("*.safetensors"))
    assert shards[0] == f"quant_model_weight_w8a8s-00001-of-{len(shards):05}.safetensors"
    assert len(shards) > 2
    assert (sharded / "quant_model_weight_w8a8s.safetensors.index.json").is_file()
    assert same_tensors(stored_tensors(w8a8s), stored_tensors(sharded))
    assert W8A8SCheckpoint(sharded).fused_groups() == W8A8SCheckpoint(w8a8s).fused_groups()


@pytest.mark.parametrize("max_shard_bytes", [60_000, 1 << 20], ids=["shards of their own", "one shard"])
def test_what_lies_in_files_and_parts_already_is_taken_as_it_is(
    max_shard_bytes: int, tmp_path: Path, w8a8s: Path
) -> None:
    source = W8A8SCheckpoint(w8a8s)
    written = stored_tensors(w8a8s)
    table = written.pop("lm_head.weight")
    layers = {}
    for layer in ("model.layers.0.", "model.layers.1."):
        layers[layer] = {name: written.pop(name) for name in list(written) if name.startswith(layer)}
        save_file(layers[layer], tmp_path / f"{layer}safetensors")
    with W8A8SWriter(tmp_path / "out", source, dtype="float16", max_shard_bytes=max_shard_bytes) as writer:
        for name, tensor in written.items():
            writer.add_float(name, tensor)
        writer.add_float_rows("lm_head.weight", table.shape, torch.split(table, 7))
        for layer, tensors in layers.items():
            writer.add_file(
                tmp_path / f"{layer}safetensors", {name: source.description.types[name] for name in tensors}, {}
            )

    assert same_tensors(stored_tensors(w8a8s), stored_tensors(tmp_path / "out"))
    assert W8A8SCheckpoint(tmp_path / "out").quantized_linears() == source.quantized_linears()
    shards = list((tmp_path / "out").glob("*.safetensors"))
    linked = [file for file in shards if file.stat().st_nlink == 2]
    assert len(linked) == (2 if max_shard_bytes == 60_000 else 0), "layers are not copied where they are large"


def test_tied_models_stay_tied(tmp_path: Path) -> None:
    out = make_w8a8s(make_tiny_qwen3(tmp_path / "float", tied=True), tmp_path / "out")
    assert "lm_head.weight" not in stored_tensors(out)
    assert W8A8SCheckpoint(out).shape.tied


def test_values_beyond_float16_are_refused_by_name(tmp_path: Path) -> None:
    source = FloatCheckpoint(make_tiny_qwen3(tmp_path / "float", dtype=torch.bfloat16))
    large = torch.full((64,), 1e5, dtype=torch.bfloat16)
    with (
        pytest.raises(CheckpointError, match=r"64 values of model.norm.weight exceed float16.*--dtype bfloat16"),
        W8A8SWriter(tmp_path / "out", source, dtype="float16") as writer,
    ):
        writer.add_float("model.norm.weight", large)
    with (
        pytest.raises(CheckpointError, match=r"model.norm.weight holds NaN"),
        W8A8SWriter(tmp_path / "out", source, dtype="float16") as writer,
    ):
        writer.add_float("model.norm.weight", large * float("nan"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["float"]


def test_values_that_become_zero_are_counted_and_warned_of(tmp_path: Path) -> None:
    source = W8A8SCheckpoint(make_w8a8s(make_tiny_qwen3(tmp_path / "float"), tmp_path / "w8a8s", dtype="bfloat16"))
    source.float_tensor("model.norm.weight")[:5] = 1e-9  # a private mapping: the file does not change
    writer = W8A8SWriter(tmp_path / "out", source, dtype="float16")

    def write() -> None:
        with writer:
            for name in source.float_names():
                writer.add_float(name, source.float_tensor(name))
            for prefix in source.quantized_linears():
                writer.add_linear(prefix, random_linear(*source.linear(prefix).weight.shape, scale=0.5, offset=0))

    with pytest.warns(UserWarning, match=r"5 values of 1 tensors became 0 in float16, most in model.norm.weight \(5\)"):
        write()
    assert writer.flushed == {"model.norm.weight": 5}


def test_existing_target_is_refused_before_work(tmp_path: Path, tiny_qwen3: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="exists already"):
        W8A8SWriter(tmp_path / "out", FloatCheckpoint(tiny_qwen3), dtype="float16")


def test_unknown_flavour_is_refused(tmp_path: Path, tiny_qwen3: Path) -> None:
    with pytest.raises(CheckpointError, match="dtype is 'float32'"):
        W8A8SWriter(tmp_path / "out", FloatCheckpoint(tiny_qwen3), dtype="float32")


@pytest.mark.parametrize("exception", [KeyboardInterrupt, ValueError("of the caller")])
def test_nothing_is_left_after_an_exception(tmp_path: Path, tiny_qwen3: Path, exception: BaseException) -> None:
    source = FloatCheckpoint(tiny_qwen3)

    def write() -> None:
        with W8A8SWriter(tmp_path / "out", source, dtype="float16", max_shard_bytes=1) as writer:
            for name in source.names()[:3]:
                writer.add_float(name, source.tensor(name))
            raise exception

    with pytest.raises((KeyboardInterrupt, ValueError)):
        write()
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_checkpoint_does_not_appear(tmp_path: Path, tiny_qwen3: Path) -> None:
    source = FloatCheckpoint(tiny_qwen3)
    with (
        pytest.raises(CheckpointError, match=r"not a whole checkpoint: .*q_proj.weight is missing"),
        W8A8SWriter(tmp_path / "out", source, dtype="float16") as writer,
    ):
        writer.add_float("model.norm.weight", source.tensor("model.norm.weight"))
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_added_twice_is_refused(tmp_path: Path, tiny_qwen3: Path) -> None:
    source = FloatCheckpoint(tiny_qwen3)

    def write() -> None:
        with W8A8SWriter(tmp_path / "out", source, dtype="float16") as writer:
            for name in ("model.norm.weight", "model.norm.weight"):
                writer.add_float(name, source.tensor(name))

    with pytest.raises(CheckpointError, match=r"model.norm.weight was added twice"):
        write()


@pytest.mark.parametrize(
    "full",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_says_how_much_was_needed(
    tmp_path: Path, tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch, full: Exception
) -> None:
    def save_file(*_: object, **__: object) -> None:
        raise full

    monkeypatch.setattr(atomic_directory, "save_file", save_file)
    with pytest.raises(CheckpointError, match=r"disk full, [\d.]+ kB needed and [\d.]+ [kMG]B free"):
        make_w8a8s(tiny_qwen3, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_made_is_a_clear_error(tmp_path: Path, tiny_qwen3: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made"):
        make_w8a8s(tiny_qwen3, tmp_path / "file" / "out")
