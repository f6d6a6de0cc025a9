"""Directories loaded by transformers itself, by their names: no flag, and the same bits as `tilepress.load`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Qwen3ForCausalLM,
    pipeline,
)

from quantized_directories import write_vendor_like
from quantized_models import make_w8a8s
from reference_model import logits_of
from tilepress import load
from tilepress.compress import compress_directory
from tilepress.engines.transformers.quantizer import TilepressConfig
from tilepress.errors import CheckpointError, UsageError
from tiny_models import make_tiny_llama, make_tiny_mistral, make_tiny_qwen2, make_tiny_qwen3

MAKERS = {"qwen3": make_tiny_qwen3, "qwen2": make_tiny_qwen2, "llama": make_tiny_llama, "mistral": make_tiny_mistral}


@pytest.fixture(scope="module")
def parts(tiny_w8a8s: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parts."""
    out = tmp_path_factory.mktemp("parts") / "w8a8sc"
    compress_directory(tiny_w8a8s, out, tp=2)
    return out


@pytest.mark.parametrize("family", MAKERS)
def test_both_kinds_have_the_bits_of_load(family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_w8a8s(MAKERS[family](tmp_path / "float", heads=4, kv_heads=2), tmp_path / "w8a8s")
    compress_directory(tmp_path / "w8a8s", tmp_path / "w8a8sc", tp=2)
    for kind in ("w8a8s", "w8a8sc"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / kind)
        assert model.dtype == torch.float32
        assert not model.training
        assert all(tensor.device.type == "cpu" for tensor in (*model.parameters(), *model.buffers()))
        assert torch.equal(logits_of(model), logits_of(load(tmp_path / kind)[0]))
    assert "newly initialized" not in caplog.text
    assert "MISSING" not in caplog.text
    assert "UNEXPECTED" not in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_activations_have_the_dtype_that_is_asked_for(dtype: torch.dtype, parts: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(parts, dtype=dtype, device_map="cpu")
    assert torch.equal(logits_of(model), logits_of(load(parts, dtype=dtype)[0]))


@pytest.mark.parametrize("resident", ["stored", "fast"])
def test_the_form_in_memory_can_be_chosen(resident: str, parts: Path) -> None:
    config = TilepressConfig(resident=resident)
    model = AutoModelForCausalLM.from_pretrained(parts, quantization_config=config)
    assert torch.equal(logits_of(model), logits_of(load(parts)[0]))


def test_what_the_vendors_tool_wrote(tmp_path: Path) -> None:
    vendors = write_vendor_like(tmp_path / "vendors", make_tiny_llama(tmp_path / "float", tied=True))
    with pytest.warns(UserWarning, match="duplicate tensors"):
        model = AutoModelForCausalLM.from_pretrained(vendors)
    with pytest.warns(UserWarning, match="duplicate tensors"):
        assert torch.equal(logits_of(model), logits_of(load(vendors)[0]))


def test_a_pipeline_answers_as_load_does(parts: Path) -> None:
    ask = pipeline("text-generation", model=str(parts))
    answer = ask("Hello", max_new_tokens=8, do_sample=False, return_full_text=False)[0]["generated_text"]
    model, tokenizer = load(parts)
    tokens = tokenizer("Hello", return_tensors="pt")
    expected = model.generate(**tokens, max_new_tokens=8, do_sample=False)[0, tokens["input_ids"].shape[1] :]
    assert answer == tokenizer.decode(expected, skip_special_tokens=True)


def test_float_models_load_as_before(tiny_qwen3: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_qwen3, dtype=torch.float32)
    assert torch.equal(logits_of(model), logits_of(load(tiny_qwen3)[0]))


def test_a_saved_model_loads_again(parts: Path, tmp_path: Path) -> None:
    for name, model in (("a", load(parts)[0]), ("b", AutoModelForCausalLM.from_pretrained(parts))):
        model.save_pretrained(tmp_path / name)
        assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / name)), logits_of(model))
        assert AutoTokenizer.from_pretrained(tmp_path / name).vocab_size
        before = {file.relative_to(parts) for file in parts.rglob("*") if file.is_file()}
        after = {file.relative_to(tmp_path / name) for file in (tmp_path / name).rglob("*") if file.is_file()}
        assert after == before


def test_saving_harms_nothing_that_is_there(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "model.safetensors").write_bytes(b"mine")
    model = load(parts)[0]
    with pytest.raises(CheckpointError, match="exists already"):
        model.save_pretrained(tmp_path / "there")
    assert (tmp_path / "there" / "model.safetensors").read_bytes() == b"mine"
    with pytest.raises(UsageError, match="upload the directory"):
        model.save_pretrained(tmp_path / "new", push_to_hub=True)
    with pytest.raises(UsageError, match="without a state_dict"):
        model.save_pretrained(tmp_path / "new", state_dict=model.state_dict())
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="upload the directory"):
        model.push_to_hub("me/it")
    (tmp_path / "empty").mkdir()
    model.save_pretrained(str(tmp_path / "empty"))
    assert (tmp_path / "empty" / "config.json").is_file()


def test_a_tokenizer_that_was_saved_before_stays(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(parts.parent)
    model, tokenizer = load(parts.name)
    tokenizer.save_pretrained(tmp_path / "out")
    (tmp_path / "out" / "tokenizer_config.json").write_text('{"mine": true}')
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("out", True)
    assert (tmp_path / "out" / "tokenizer_config.json").read_text() == '{"mine": true}'
    assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained("out")), logits_of(model))
    model.save_pretrained(tmp_path / "not", is_main_process=False)
    assert not (tmp_path / "not").exists()


def test_damage_is_named(parts: Path, tmp_path: Path) -> None:
    load(parts)[0].save_pretrained(tmp_path / "copy")
    next((tmp_path / "copy").rglob("part1-of-2/*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="part1-of-2"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "copy")


def test_several_devices_are_refused(parts: Path) -> None:
    with pytest.raises(UsageError, match="a quantized model is on one device"):
        AutoModelForCausalLM.from_pretrained(parts, device_map={"model": "cpu", "lm_head": "disk"})


@pytest.mark.parametrize("device_map", ["auto", "balanced", "cpu", {"": "cpu"}])
def test_one_device_is_found(device_map: Any, parts: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(parts, device_map=device_map)
    assert torch.equal(logits_of(model), logits_of(load(parts)[0]))


def test_the_directory_that_was_asked_for_is_loaded(parts: Path, tiny_qwen3: Path, tmp_path: Path) -> None:
    """Whatever the config was read from, by a concrete class, and in a folder of a directory."""
    other = make_w8a8s(make_tiny_qwen3(tmp_path / "float", seed=1), tmp_path / "models" / "other")
    expected = logits_of(load(other)[0])
    config = AutoConfig.from_pretrained(parts)
    for model in (
        AutoModelForCausalLM.from_pretrained(other, config=config),
        Qwen3ForCausalLM.from_pretrained(other),
        AutoModelForCausalLM.from_pretrained(tmp_path / "models", subfolder="other"),
    ):
        assert torch.equal(logits_of(model), expected)


@pytest.mark.parametrize("kind", [AutoModel, AutoModelForSequenceClassification])
def test_other_kinds_of_models_are_refused(kind: Any, parts: Path) -> None:
    with pytest.raises(UsageError, match="load it by AutoModelForCausalLM"):
        kind.from_pretrained(parts)


def test_the_loading_info_is_empty(parts: Path) -> None:
    _, info = AutoModelForCausalLM.from_pretrained(parts, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]


@pytest.mark.parametrize(
    "order",
    [
        "import tilepress, transformers",
        pytest.param("import transformers, tilepress", marks=pytest.mark.slow),
        pytest.param(
            "import tilepress, importlib.util, transformers; importlib.util.find_spec('transformers.modeling_utils')",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_order_of_the_imports_does_not_matter(order: str, parts: Path) -> None:
    program = f"""
{order}
import json, sys
early = [name for name in ("torch", "transformers.modeling_utils") if name in sys.modules]
model = transformers.AutoModelForCausalLM.from_pretrained({str(parts)!r})
print(json.dumps([early, type(model.model.layers[0].mlp.down_proj).__name__]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    early, name = json.loads(done.stdout.splitlines()[-1])
    assert name == "CompressedLinear"
    assert "transformers.modeling_utils" not in early
