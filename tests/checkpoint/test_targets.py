"""W8A8S directories for the vendor's engines: what they ask for, tensor by tensor, and converting to and from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from quantized_directories import edit_json, edit_tensors, stored_tensors, write_vendor_like
from quantized_models import make_w8a8s
from tilepress.checkpoint import open_checkpoint
from tilepress.checkpoint.convert import convert_directory
from tilepress.checkpoint.targets import TILEPRESS, VENDOR, VENDOR_A2, refusals
from tilepress.cli import main
from tilepress.errors import CheckpointError, UsageError
from tiny_models import make_tiny_llama, make_tiny_mistral, make_tiny_qwen2, make_tiny_qwen3

WEIGHTS, DESCRIPTION = "quant_model_weight_w8a8s.safetensors", "quant_model_description.json"
Q = "model.layers.0.self_attn.q_proj"
MAKERS = {"qwen3": make_tiny_qwen3, "qwen2": make_tiny_qwen2, "llama": make_tiny_llama, "mistral": make_tiny_mistral}


def make_float(folder: Path, make: Callable[..., Path] = make_tiny_qwen2, **options: Any) -> Path:
    return make(folder / "float", **({"heads": 4, "kv_heads": 2} if make is make_tiny_qwen2 else {}), **options)


def static(folder: Path, make: Callable[..., Path] = make_tiny_qwen2, dtype: str = "float16", **options: Any) -> Path:
    source = make_float(folder, make, **options)
    return make_w8a8s(source, folder / "w8a8s", head=False, activations="static", dtype=dtype)


@pytest.fixture
def vendors(tmp_path: Path) -> Path:
    convert_directory(static(tmp_path), tmp_path / "vendor", VENDOR)
    return tmp_path / "vendor"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", MAKERS)
def test_converted_directories_are_what_the_engines_ask_for(family: str, tied: bool, tmp_path: Path) -> None:
    ours = static(tmp_path, MAKERS[family], tied=tied)
    assert refusals(ours, VENDOR)
    for target in (VENDOR, VENDOR_A2):
        out = tmp_path / target.name
        convert_directory(ours, out, target)
        assert refusals(out, target) == []
        config = json.loads((out / "config.json").read_text())
        assert config["quantize"] == target.kind.lower()
        assert "quantization_config" not in config
        types = json.loads((out / DESCRIPTION).read_text())
        assert set(types) >= {"model_quant_type", "version", "lm_head.weight", "model.embed_tokens.weight"}
        assert {types[f"{Q}.{name}"] for name in ("weight", "deq_scale", "quant_bias")} == {target.kind}
        before, after = stored_tensors(ours), stored_tensors(out)
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert (after.keys() - before.keys() == set()) is (family != "qwen2")


def test_the_bias_beside_a_quantized_linear_is_the_one_it_had(tmp_path: Path) -> None:
    ours = static(tmp_path, make_tiny_qwen2)
    convert_directory(ours, tmp_path / "vendor", VENDOR)
    bias = stored_tensors(tmp_path / "float")[f"{Q}.bias"].float()
    stored = stored_tensors(tmp_path / "vendor")
    step = stored[f"{Q}.deq_scale"].to(torch.int32).view(torch.float32)
    assert stored[f"{Q}.bias"].dtype == torch.float16
    assert ((stored[f"{Q}.bias"].float() - bias).abs() <= step + 1e-3 * bias.abs()).all()


def test_there_and_back_is_the_same(tmp_path: Path) -> None:
    ours = static(tmp_path)
    convert_directory(ours, tmp_path / "vendor", VENDOR)
    convert_directory(tmp_path / "vendor", tmp_path / "back", TILEPRESS)
    assert (tmp_path / "back" / WEIGHTS).read_bytes() == (ours / WEIGHTS).read_bytes()
    for name in ("config.json", DESCRIPTION):
        back, before = (json.loads((folder / name).read_text()) for folder in (tmp_path / "back", ours))
        assert {key: back[key] for key in before if key != "coding"} == {
            key: value for key, value in before.items() if key != "coding"
        }


def test_what_the_vendors_tool_made_becomes_ours(tmp_path: Path) -> None:
    vendors = write_vendor_like(tmp_path / "vendor", make_float(tmp_path))
    with pytest.warns(UserWarning, match="duplicate"):
        convert_directory(vendors, tmp_path / "ours", TILEPRESS)
    with pytest.warns(UserWarning, match="duplicate"):
        theirs = open_checkpoint(vendors)
    ours = open_checkpoint(tmp_path / "ours")
    assert torch.equal(ours.linear(Q).weight, theirs.linear(Q).weight)
    assert ours.linear(Q).input_scale == theirs.linear(Q).input_scale


def test_bfloat16_is_for_a2_alone(tmp_path: Path) -> None:
    ours = static(tmp_path, dtype="bfloat16")
    convert_directory(ours, tmp_path / "a2", VENDOR_A2)
    assert refusals(tmp_path / "a2", VENDOR_A2) == []
    with pytest.raises(UsageError, match=r"is bfloat16, and .*310P.* take float16; quantize .*--for vendor"):
        convert_directory(ours, tmp_path / "vendor", VENDOR)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": False, "activations": "overflow"}, "is made for activations 'overflow'"),
        ({"head": True, "activations": "static"}, "the head is integers"),
    ],
)
def test_what_they_cannot_compute_is_not_converted(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    ours = make_w8a8s(make_tiny_qwen3(tmp_path / "float"), tmp_path / "w8a8s", **options)
    with pytest.raises(UsageError, match=message):
        convert_directory(ours, tmp_path / "vendor", VENDOR)
    assert not (tmp_path / "vendor").exists()


def test_a_scale_that_they_would_round_is_not_converted(tmp_path: Path) -> None:
    theirs = write_vendor_like(tmp_path / "theirs", make_float(tmp_path))
    with (
        pytest.warns(UserWarning, match="duplicate"),
        pytest.raises(UsageError, match=r"input_scale is 0.0123.*, which float16 does not hold"),
    ):
        convert_directory(theirs, tmp_path / "vendor", VENDOR)


def test_other_kinds_are_not_converted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a float directory; quantize it first"):
        convert_directory(make_tiny_qwen3(tmp_path / "float"), tmp_path / "vendor", VENDOR)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{Q}.bias"), f"{Q}.bias: is missing"),
        (lambda t: t.update({f"{Q}.weight_scale": torch.ones(3)}), f"{Q}.weight_scale: is no parameter of theirs"),
        (lambda t: t.update({f"{Q}.deq_scale": torch.ones(32)}), f"{Q}.deq_scale: is torch.float32"),
        (lambda t: t.update({f"{Q}.input_scale": torch.tensor(0.5)}), f"{Q}.input_scale: is torch.float32 []"),
        (lambda t: t.pop("model.embed_tokens.weight"), "model.embed_tokens.weight: is missing"),
        (
            lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].char()}),
            "lm_head.weight: is torch.int8",
        ),
    ],
)
def test_the_check_names_the_tensor(
    change: Callable[[dict[str, torch.Tensor]], Any], message: str, vendors: Path
) -> None:
    edit_tensors(vendors / WEIGHTS, change)
    assert any(problem.startswith(message) for problem in refusals(vendors, VENDOR))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda c: c.update(quantize="w8a8s_overflow"), "config.json: quantize is 'w8a8s_overflow'"),
        ("config.json", lambda c: c.update(quantization_config={}), "config.json: has a quantization_config"),
        ("config.json", lambda c: c.update(torch_dtype="bfloat16"), "config.json: torch_dtype is 'bfloat16'"),
        ("config.json", lambda c: c.pop("transformers_version"), "config.json: transformers_version is missing"),
        (DESCRIPTION, lambda d: d.update(activations="overflow"), f"{DESCRIPTION}: activations is 'overflow'"),
        (DESCRIPTION, lambda d: d.update({f"{Q}.weight": "W8A8S_DYNAMIC"}), f"{DESCRIPTION}: {Q}.weight is 'W8A8S_DYN"),
        (DESCRIPTION, lambda d: d.pop("lm_head.weight"), f"{DESCRIPTION}: does not describe lm_head.weight"),
    ],
)
def test_the_check_reads_config_and_description(
    file: str, change: Callable[[dict[str, Any]], Any], message: str, vendors: Path
) -> None:
    edit_json(vendors / file, change)
    assert any(problem.startswith(message) for problem in refusals(vendors, VENDOR))


def test_modes_that_they_cannot_compute_carry_words_that_they_refuse(tmp_path: Path) -> None:
    known = {"w8a8", "w8a8s", "w8a8sc", "w8a16", "w4a16", "w8a8_dynamic", "w8a8_pdmix", "w8a8_mix", "w16a16s"}
    for mode in ("overflow", "per-token", "dynamic"):
        folder = tmp_path / mode
        folder.mkdir()
        ours = make_w8a8s(make_tiny_qwen3(folder / "float"), folder / "w8a8s", activations=mode)
        assert json.loads((ours / "config.json").read_text())["quantize"] not in known
        types = set(json.loads((ours / DESCRIPTION).read_text()).values())
        assert types & {"W8A8S_OVERFLOW", "W8A8S_DYNAMIC"}
        assert open_checkpoint(ours).activations == mode


def test_an_overflow_type_without_the_mode_is_refused(tmp_path: Path) -> None:
    ours = make_w8a8s(make_tiny_qwen3(tmp_path / "float"), tmp_path / "w8a8s", activations="overflow")
    edit_json(ours / DESCRIPTION, lambda content: content.pop("activations"))
    with pytest.raises(CheckpointError, match="is W8A8S_OVERFLOW, but activations is None"):
        open_checkpoint(ours)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = static(tmp_path)
    assert main(["convert", str(ours), "-o", str(tmp_path / "npu"), "--for", "vendor"]) == 0
    assert "MindIE-LLM and vLLM-Ascend" in capsys.readouterr().out
    assert main(["convert", str(ours), "-o", str(tmp_path / "other"), "--for", "tensorrt"]) == 2
    assert "use one of tilepress, vendor, vendor-a2" in " ".join(capsys.readouterr().err.split())


def test_head_dims_that_one_engine_does_not_read_are_remarked(tmp_path: Path) -> None:
    ours = static(tmp_path, make_tiny_mistral, head_dim=32)
    with pytest.warns(UserWarning, match="MindIE-LLM takes hidden_size / num_attention_heads for head_dim, 8 where"):
        convert_directory(ours, tmp_path / "vendor", VENDOR)
    assert refusals(tmp_path / "vendor", VENDOR) == []


def test_what_other_tools_leave_out_or_add_is_no_reason_to_refuse(tmp_path: Path) -> None:
    convert_directory(static(tmp_path), tmp_path / "a2", VENDOR_A2)
    edit_json(tmp_path / "a2" / "config.json", lambda config: config.pop("dtype"))
    edit_tensors(
        tmp_path / "a2" / WEIGHTS, lambda tensors: tensors.update({f"{Q}.weight_scale": torch.ones(64, 1).half()})
    )
    assert refusals(tmp_path / "a2", VENDOR_A2) == []
    edit_json(tmp_path / "a2" / "config.json", lambda config: config.pop("torch_dtype"))
    assert refusals(tmp_path / "a2", VENDOR_A2)[0] == "config.json: torch_dtype is None, not float16 or bfloat16"
