"""Reading W8A8S directories: the vendor's, and damaged ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from quantized_directories import edit_json, edit_tensors, stored_tensors, write_vendor_like
from tilepress import codec
from tilepress.checkpoint import FloatCheckpoint, W8A8SCheckpoint, open_checkpoint
from tilepress.cli import main
from tilepress.errors import CheckpointError
from tiny_models import make_tiny_llama, make_tiny_qwen2

DESCRIPTION, WEIGHTS = "quant_model_description.json", "quant_model_weight_w8a8s.safetensors"
Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("make", [make_tiny_llama, make_tiny_qwen2])
def test_a_directory_of_the_vendors_tool_is_read(tmp_path: Path, make: Callable[..., Path]) -> None:
    model = make(tmp_path / "float", tied=True, heads=4, kv_heads=2)
    vendor = write_vendor_like(tmp_path / "vendor", model)
    with pytest.warns(UserWarning, match=r"ignored 10 duplicate tensors such as model\..*\.module\."):
        checkpoint = W8A8SCheckpoint(vendor)

    stored = stored_tensors(vendor)
    assert not checkpoint.shape.tied
    assert torch.equal(checkpoint.float_tensor("lm_head.weight"), stored["lm_head.weight"])
    assert checkpoint.dtype == "float16"
    linear = checkpoint.linear(Q)
    assert torch.equal(linear.weight, stored[f"{Q}.weight"])
    assert linear.input_scale == float(stored[f"{Q}.input_scale"])
    assert linear.input_offset == -7
    assert torch.equal(linear.deq_scale, stored[f"{Q}.deq_scale"].to(torch.int32).view(torch.float32))
    assert not checkpoint.is_quantized("model.layers.0.mlp.down_proj")
    assert "model.layers.0.mlp.down_proj" not in checkpoint.fused_groups()
    names = checkpoint.float_names()
    assert {"model.norm.bias", "model.layers.1.input_layernorm.bias", "model.layers.1.mlp.down_proj.weight"} < set(
        names
    )
    assert not [name for name in names if ".module." in name or name.startswith(Q)]
    assert checkpoint.float_tensor("model.norm.bias").dtype == torch.float32


def test_values_that_the_seed_document_shows_are_read(w8a8s_copy: Path) -> None:
    def as_in_the_document(description: dict[str, Any]) -> None:
        del description["version"]
        for name, kind in description.items():
            if kind == "W8A8S" and name != "model_quant_type":
                description[name] = "W8A8SC"

    edit_json(w8a8s_copy / DESCRIPTION, as_in_the_document)
    assert len(W8A8SCheckpoint(w8a8s_copy).fused_groups()) == 8


def test_global_keys_are_kept(w8a8s_copy: Path) -> None:
    edit_json(w8a8s_copy / DESCRIPTION, lambda d: d.update(group_size=0, kv_quant_type="None", optional={"x": 1}))
    assert W8A8SCheckpoint(w8a8s_copy).description.extra == {
        "version": "1.0.0",
        "group_size": 0,
        "kv_quant_type": "None",
        "optional": {"x": 1},
    }


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"torch_dtype": "bfloat16", "dtype": "float16"}, "bfloat16"),
        ({"torch_dtype": None, "dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float32", "dtype": None}, "float16"),
        ({"torch_dtype": ["x"], "dtype": {}}, "float16"),
    ],
)
def test_flavour(w8a8s_copy: Path, config: dict[str, Any], dtype: str) -> None:
    edit_json(w8a8s_copy / "config.json", lambda content: content.update(config))
    assert W8A8SCheckpoint(w8a8s_copy).dtype == dtype


def test_fused_linears_are_stacked_and_compressed(w8a8s: Path) -> None:
    checkpoint = W8A8SCheckpoint(w8a8s)
    fused = checkpoint.compressed_linear("model.layers.0.self_attn.query_key_value")
    members = [checkpoint.linear(f"model.layers.0.self_attn.{letter}_proj") for letter in "qkv"]
    assert np.array_equal(codec.decode(fused.weight), torch.cat([member.weight for member in members]).numpy())
    assert torch.equal(fused.deq_scale, torch.cat([member.deq_scale for member in members]))
    assert torch.equal(fused.quant_bias, torch.cat([member.quant_bias for member in members]))
    assert (fused.input_scale, fused.input_offset) == (members[0].input_scale, members[0].input_offset)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_quant_type": "W4A8"}, "model_quant_type is 'W4A8'; tilepress reads W8A8S"),
        ({"model_quant_type": None}, "model_quant_type is None"),
        ({f"{Q}.weight": "W4A8"}, rf"type of {Q}.weight is 'W4A8', which tilepress does not read"),
        ({f"{Q}.weight": {"W8A8S": 1}}, rf"type of {Q}.weight is {{'W8A8S': 1}}"),
        ({f"{Q}.weight": ...}, rf"does not describe tensor {Q}.weight"),
        ({f"{Q}.quant_bias": ...}, rf"does not describe tensor {Q}.quant_bias"),
        ({"model.norm.weight": ...}, r"does not describe tensor model.norm.weight"),
        ({"model.norm.weight": "W8A8S"}, r"model.norm.weight is W8A8S; it has to be FLOAT"),
        ({f"{Q}.deq_scale": "FLOAT"}, rf"{Q}.deq_scale is FLOAT; it has to be W8A8S or W8A8SC"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(w8a8s_copy: Path, change: dict[str, Any], message: str) -> None:
    def edit(description: dict[str, Any]) -> None:
        for name, kind in change.items():
            description[name] = kind
            if kind is ...:
                del description[name]

    edit_json(w8a8s_copy / DESCRIPTION, edit)
    with pytest.raises(CheckpointError, match=rf"{DESCRIPTION}: {message}"):
        open_checkpoint(w8a8s_copy)


def test_a_quantized_linear_called_float_is_refused(w8a8s_copy: Path) -> None:
    edit_json(w8a8s_copy / DESCRIPTION, lambda description: description.update({f"{Q}.weight": "FLOAT"}))
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: {Q}.weight is int8 \[128, 64\]; .* float16 or bfloat16"):
        open_checkpoint(w8a8s_copy)


def test_a_float_linear_called_quantized_is_refused(w8a8s_copy: Path) -> None:
    edit_tensors(w8a8s_copy / WEIGHTS, lambda tensors: tensors.update({f"{Q}.weight": torch.ones(128, 64)}))
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: {Q}.weight is float32 \[128, 64\]; .* int8 \[128, 64\]"):
        open_checkpoint(w8a8s_copy)


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000, '{"model_quant_type": ["W8A8S"]}'])
def test_descriptions_are_not_trusted(w8a8s_copy: Path, content: str) -> None:
    (w8a8s_copy / DESCRIPTION).write_text(content)
    with pytest.raises(CheckpointError, match=DESCRIPTION):
        open_checkpoint(w8a8s_copy)


def replaced(**tensors: torch.Tensor | None) -> dict[str, torch.Tensor | None]:
    return {f"{Q}.{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced(weight=None), rf"tensor {Q}.weight is missing"),
        (replaced(input_scale=None), rf"tensor {Q}.input_scale is missing"),
        (replaced(weight=torch.zeros(64, 128, dtype=torch.int8)), rf"{Q}.weight is int8 \[64, 128\]; .*\[128, 64\]"),
        (replaced(quant_bias=torch.zeros(128)), rf"{Q}.quant_bias is float32 \[128\]; .* int32 \[128\]"),
        (replaced(deq_scale=torch.zeros(127)), rf"{Q}.deq_scale is float32 \[127\]"),
        (replaced(deq_scale=torch.zeros(128, dtype=torch.float16)), rf"{Q}.deq_scale is float16"),
        (replaced(input_scale=torch.zeros(1)), rf"{Q}.input_scale is 0.0, outside float32's normal range"),
        (replaced(input_offset=torch.tensor([0.5])), rf"{Q}.input_offset is 0.5"),
        ({"model.norm.weight": None}, r"tensor model.norm.weight is missing"),
        ({"model.layers.1.input_layernorm.bias": torch.ones(64)}, "does not describe .*input_layernorm.bias"),
        ({"model.layers.7.mlp.up_proj.weight": torch.ones(2)}, r"layers.7.mlp.up_proj.weight is not a tensor that"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    w8a8s_copy: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in change.items():
            tensors.pop(name, None)
            if tensor is not None:
                tensors[name] = tensor

    edit_tensors(w8a8s_copy / WEIGHTS, edit)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(w8a8s_copy)
    assert "\n" not in str(caught.value)


def test_linears_of_one_input_share_its_scale(w8a8s_copy: Path) -> None:
    changed = {"model.layers.1.mlp.up_proj.input_offset": torch.tensor([99], dtype=torch.int8)}
    edit_tensors(w8a8s_copy / WEIGHTS, lambda tensors: tensors.update(changed))
    with pytest.raises(
        CheckpointError, match=r"1.mlp.gate_proj.input_offset is \d+ and .*1.mlp.up_proj.input_offset is 99"
    ):
        open_checkpoint(w8a8s_copy)
    changed = {"model.layers.0.self_attn.v_proj.input_scale": torch.tensor([0.5], dtype=torch.float16)}
    edit_tensors(w8a8s_copy / WEIGHTS, lambda tensors: tensors.update(changed))
    with pytest.raises(CheckpointError, match=r"q_proj.input_scale is [\d.]+ and .*v_proj.input_scale is 0.5; .*share"):
        open_checkpoint(w8a8s_copy)


def test_linears_of_one_input_are_of_one_type(w8a8s_copy: Path) -> None:
    k = "model.layers.0.self_attn.k_proj"

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            if name.startswith(k):
                del tensors[name]
        tensors[f"{k}.weight"] = torch.ones(64, 64)

    edit_tensors(w8a8s_copy / WEIGHTS, edit)
    edit_json(w8a8s_copy / DESCRIPTION, lambda description: description.update({f"{k}.weight": "FLOAT"}))
    with pytest.raises(CheckpointError, match=rf"{Q}.weight is W8A8S and {k}.weight is FLOAT; .* quantize the model"):
        open_checkpoint(w8a8s_copy)


def test_damaged_scales_are_reported_when_they_are_read(w8a8s_copy: Path) -> None:
    negative = torch.full((128,), -5)
    edit_tensors(w8a8s_copy / WEIGHTS, lambda tensors: tensors.update({f"{Q}.deq_scale": negative}))
    checkpoint = W8A8SCheckpoint(w8a8s_copy)
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: {Q}.deq_scale holds a value outside"):
        checkpoint.linear(Q)


@pytest.mark.filterwarnings("ignore:.*duplicate tensors")
def test_a_bias_that_quant_bias_does_not_contain_is_refused(tmp_path: Path) -> None:
    vendor = write_vendor_like(tmp_path / "vendor", make_tiny_qwen2(tmp_path / "float", heads=4, kv_heads=2, tied=True))
    placed = json.loads((vendor / "quant_model_weights.safetensors.index.json").read_text())["weight_map"]
    edit_tensors(vendor / placed[f"{Q}.bias"], lambda tensors: tensors[f"{Q}.bias"].add_(1))
    checkpoint = W8A8SCheckpoint(vendor)
    with pytest.raises(CheckpointError, match=rf"{Q}.bias is not contained in {Q}.quant_bias"):
        checkpoint.linear(Q)


def test_a_truncated_file_is_refused(w8a8s_copy: Path) -> None:
    file = w8a8s_copy / WEIGHTS
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: not a whole safetensors file"):
        open_checkpoint(w8a8s_copy)


def test_weights_that_are_missing_or_not_unique(w8a8s_copy: Path) -> None:
    save_file({"x": torch.ones(1)}, w8a8s_copy / "other.safetensors")
    with pytest.raises(CheckpointError, match=rf"holds 2 files \*.safetensors \(other.safetensors, {WEIGHTS}\)"):
        open_checkpoint(w8a8s_copy)
    for file in w8a8s_copy.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"no .safetensors file beside"):
        open_checkpoint(w8a8s_copy)


def test_only_float_tensors_are_given_as_such(w8a8s: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{Q}.weight is no float tensor"):
        W8A8SCheckpoint(w8a8s).float_tensor(f"{Q}.weight")


def as_static_w8a8(directory: Path, kind: str, *, offset: float = 0.0) -> None:
    """Make a W8A8S directory one of the vendor's W8A8 or W8A8_MIX, whose weights have scales beside."""

    def described(description: dict[str, Any]) -> None:
        quantized = [name for name, value in description.items() if value == "W8A8S"]
        description |= dict.fromkeys(quantized, kind)
        for name in quantized:
            if name.endswith(".weight"):
                prefix = name.removesuffix(".weight")
                description |= {f"{prefix}.weight_scale": kind, f"{prefix}.weight_offset": kind}

    def with_scales(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(".deq_scale")]:
            prefix = name.removesuffix(".deq_scale")
            scale = tensors[name].to(torch.int32).view(torch.float32) / tensors[f"{prefix}.input_scale"].float()
            tensors[f"{prefix}.weight_scale"] = scale.half()[:, None]
            tensors[f"{prefix}.weight_offset"] = torch.full_like(tensors[f"{prefix}.weight_scale"], offset)

    edit_json(directory / DESCRIPTION, described)
    (directory / DESCRIPTION).rename(directory / f"quant_model_description_{kind.lower()}.json")
    edit_tensors(directory / WEIGHTS, with_scales)


@pytest.mark.parametrize("kind", ["W8A8", "W8A8_MIX"])
def test_static_w8a8_is_read_by_its_five_tensors(kind: str, w8a8s: Path, w8a8s_copy: Path) -> None:
    as_static_w8a8(w8a8s_copy, kind)
    ours, theirs = W8A8SCheckpoint(w8a8s), W8A8SCheckpoint(w8a8s_copy)
    assert theirs.quantized_linears() == ours.quantized_linears()
    for prefix in ours.quantized_linears():
        assert torch.equal(theirs.linear(prefix).weight, ours.linear(prefix).weight)
        assert torch.equal(theirs.linear(prefix).deq_scale, ours.linear(prefix).deq_scale)


def test_a_norm_that_stands_twice_and_differs_is_refused(tmp_path: Path) -> None:
    vendor = write_vendor_like(tmp_path / "vendor", make_tiny_llama(tmp_path / "float", tied=True))
    name = "model.layers.0.input_layernorm.module.weight"
    placed = json.loads((vendor / "quant_model_weights.safetensors.index.json").read_text())["weight_map"]
    edit_tensors(vendor / placed[name], lambda tensors: tensors[name].mul_(2))
    with pytest.raises(CheckpointError, match=f"{name} differs from model.layers.0.input_layernorm.weight"):
        W8A8SCheckpoint(vendor)


def test_weights_with_an_offset_are_refused(w8a8s_copy: Path) -> None:
    as_static_w8a8(w8a8s_copy, "W8A8", offset=1.0)
    with pytest.raises(CheckpointError, match=r"weight_offset is not 0: weights with an offset are not read"):
        W8A8SCheckpoint(w8a8s_copy)


def test_scales_of_keys_and_values_are_left_with_a_note(w8a8s_copy: Path) -> None:
    names = [f"model.layers.0.self_attn.{one}_proj.kv_cache_{leaf}" for one in "kv" for leaf in ("scale", "offset")]
    edit_tensors(w8a8s_copy / WEIGHTS, lambda tensors: tensors.update({name: torch.ones(32) for name in names}))
    edit_json(
        w8a8s_copy / DESCRIPTION,
        lambda content: content.update({"kv_cache_type": "C8", "kv_quant_type": "C8", **dict.fromkeys(names, "C8")}),
    )
    with pytest.warns(UserWarning, match=r"4 scales of keys and values such as .*k_proj.kv_cache_\w+ are not used"):
        checkpoint = W8A8SCheckpoint(w8a8s_copy)
    assert len(checkpoint.fused_groups()) == 8


def test_sparse_floats_are_a_float_model_under_another_name(tmp_path: Path) -> None:
    source = make_tiny_llama(tmp_path / "float")
    sparse = tmp_path / "w16a16s"
    shutil.copytree(source, sparse)
    (sparse / "model.safetensors").rename(sparse / "quant_model_weights.safetensors")
    names = stored_tensors(sparse)
    types = {name: "W16A16S" if "_proj" in name else "FLOAT" for name in names}
    (sparse / DESCRIPTION).write_text(json.dumps({"model_quant_type": "W16A16S", "version": "1.0.0", **types}))

    checkpoint = open_checkpoint(sparse)
    assert isinstance(checkpoint, W8A8SCheckpoint)
    assert checkpoint.quantized_linears() == []
    as_float = FloatCheckpoint(sparse)
    for name in FloatCheckpoint(source).names():
        assert torch.equal(as_float.read(name), names[name])
    assert (
        main(f"quant -m {sparse} -o {tmp_path / 'out'} --samples 2 --sequence-length 32 --distill-steps 0".split()) == 0
    )
    assert W8A8SCheckpoint(tmp_path / "out").quantized_linears()
