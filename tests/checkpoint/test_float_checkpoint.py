from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantized_directories import edit_json, edit_tensors, write_json
from tilepress.checkpoint import FloatCheckpoint, open_checkpoint
from tilepress.errors import CheckpointError
from tiny_models import make_tiny_llama, make_tiny_qwen2, make_tiny_qwen3


def test_tensors_are_read_lazily_and_as_stored(tiny_qwen3: Path) -> None:
    checkpoint = open_checkpoint(tiny_qwen3)
    assert isinstance(checkpoint, FloatCheckpoint)
    assert checkpoint.kind == "float"
    stored = load_file(tiny_qwen3 / "model.safetensors")
    assert sorted(checkpoint.names()) == sorted(stored)
    for name, tensor in stored.items():
        assert checkpoint.has(name)
        assert checkpoint.tensor(name).dtype == torch.float16
        assert torch.equal(checkpoint.tensor(name), tensor)
    once, twice = (checkpoint.tensor("model.norm.weight") for _ in range(2))
    assert once.data_ptr() == twice.data_ptr()  # the mapped file, not a copy
    with pytest.raises(CheckpointError, match="tensor nonsense is missing"):
        checkpoint.tensor("nonsense")


def test_sharded_checkpoints(tmp_path: Path, tiny_qwen3: Path) -> None:
    checkpoint = FloatCheckpoint(make_tiny_qwen3(tmp_path / "sharded", sharded=True, dtype=torch.bfloat16))
    assert len(checkpoint.files()) > 1
    assert checkpoint.names() == FloatCheckpoint(tiny_qwen3).names()
    assert checkpoint.tensor("lm_head.weight").dtype == torch.bfloat16


def test_a_tied_model_has_no_head_of_its_own(tmp_path: Path) -> None:
    tied = FloatCheckpoint(make_tiny_qwen3(tmp_path / "tied", tied=True))
    assert tied.shape.tied
    assert not tied.has("lm_head.weight")


def test_a_stored_head_wins_over_a_tied_config(float_copy: Path) -> None:
    edit_json(float_copy / "config.json", lambda config: config.update(tie_word_embeddings=True))
    checkpoint = FloatCheckpoint(float_copy)
    assert not checkpoint.shape.tied
    assert checkpoint.has("lm_head.weight")


def test_other_architectures(tmp_path: Path) -> None:
    qwen2 = FloatCheckpoint(make_tiny_qwen2(tmp_path / "qwen2", heads=4))
    assert qwen2.has("model.layers.0.self_attn.q_proj.bias")
    llama = make_tiny_llama(tmp_path / "llama")
    edit_tensors(
        llama / "model.safetensors",
        lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}),
    )
    assert not FloatCheckpoint(llama).has("model.layers.0.self_attn.rotary_emb.inv_freq")


def test_auxiliary_files_are_all_but_weights_and_config(float_copy: Path) -> None:
    before = {file.name for file in FloatCheckpoint(float_copy).auxiliary_files()}
    assert {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"} <= before
    for name in ("pytorch_model.bin", "model.gguf", ".gitattributes", "LICENSE", "modeling_custom.py"):
        (float_copy / name).write_text("")
    (float_copy / "additional_chat_templates").mkdir()
    (float_copy / "additional_chat_templates" / "rag.jinja").write_text("")
    (float_copy / "original").mkdir()
    (float_copy / "original" / "consolidated.pth").write_text("")
    os.mkfifo(float_copy / "pipe")
    after = {file.name for file in FloatCheckpoint(float_copy).auxiliary_files()}
    assert after - before == {"LICENSE", "modeling_custom.py", "rag.jinja"}


def test_a_truncated_file_is_refused(float_copy: Path) -> None:
    weights = float_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"model.safetensors: not a whole safetensors file .*; get it again"):
        open_checkpoint(float_copy)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64])
def test_a_file_of_something_else_is_refused(float_copy: Path, content: bytes) -> None:
    (float_copy / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        open_checkpoint(float_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": None}, r"tensor model.norm.weight is missing"),
        ({"model.norm.weight": torch.ones(63)}, r"model.norm.weight is float32 \[63\]; config.json calls for .*\[64\]"),
        ({"model.norm.weight": torch.ones(64, dtype=torch.int8)}, r"model.norm.weight is int8 \[64\]"),
        ({"model.norm.weight": torch.ones(64, dtype=torch.float8_e4m3fn)}, r"model.norm.weight has dtype F8_E4M3"),
        ({"model.layers.0.mlp.up_proj.bias": torch.ones(128)}, r"up_proj.bias is not a tensor of Qwen3ForCausalLM"),
        ({"model.layers.2.mlp.up_proj.weight": torch.ones(2, 64)}, r"layers.2.mlp.up_proj.weight is not a tensor of"),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_refused(
    float_copy: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in change.items():
            tensors.pop(name, None)
            if tensor is not None:
                tensors[name] = tensor

    edit_tensors(float_copy / "model.safetensors", edit)
    with pytest.raises(CheckpointError, match=rf"model.safetensors: .*{message}"):
        open_checkpoint(float_copy)


def test_models_quantized_by_others_are_refused(float_copy: Path) -> None:
    edit_json(float_copy / "config.json", lambda config: config.update(quantization_config={"quant_method": "fp8"}))
    with pytest.raises(CheckpointError, match=r"quantization_config says 'fp8'.* start from the float model"):
        open_checkpoint(float_copy)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return make_tiny_qwen3(tmp_path / "sharded", sharded=True)


def index_of(directory: Path) -> Path:
    return directory / "model.safetensors.index.json"


def test_a_missing_shard_is_named(sharded: Path) -> None:
    first = sorted(sharded.glob("*.safetensors"))[0]
    first.unlink()
    with pytest.raises(CheckpointError, match=rf"{first.name}: missing; get the checkpoint again"):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    "shard",
    ["../stolen.safetensors", "/etc/stolen.safetensors", "a/b.safetensors", "a\\b.safetensors", "config.json", "", 3],
)
def test_an_index_reaches_no_other_directory(sharded: Path, shard: object) -> None:
    save_file({"model.norm.weight": torch.ones(64)}, sharded.parent / "stolen.safetensors")
    edit_json(index_of(sharded), lambda index: index["weight_map"].update({"model.norm.weight": shard}))
    with pytest.raises(CheckpointError, match=r"model.norm.weight is in shard .* plain name"):
        open_checkpoint(sharded)


def test_what_the_shards_hold_counts(sharded: Path) -> None:
    files = sorted(file.name for file in sharded.glob("*.safetensors"))
    placed = json.loads(index_of(sharded).read_text())["weight_map"]["model.norm.weight"]
    other = next(file for file in files if file != placed)
    edit_json(index_of(sharded), lambda index: index["weight_map"].update({"model.norm.weight": other}))
    edit_json(index_of(sharded), lambda index: index["weight_map"].update({"model.extra.weight": other}))
    assert FloatCheckpoint(sharded).stored("model.norm.weight").file.name == placed

    edit_tensors(sharded / other, lambda tensors: tensors.update({"model.norm.weight": torch.ones(64)}))
    with pytest.raises(CheckpointError, match=r"holds model.norm.weight, which .* holds too"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("content", [{}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": "x"}])
def test_an_index_without_a_map_is_refused(sharded: Path, content: Any) -> None:
    write_json(index_of(sharded), content)
    with pytest.raises(CheckpointError, match="weight_map is missing or empty"):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds a list; it has to be a JSON object"),
        ("null", "holds null"),
        ('"x"', "holds a string"),
        ("7", "holds a number"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "not valid JSON"),
        ("{}", "architectures is None"),
    ],
)
def test_config_files_are_not_trusted(float_copy: Path, content: str, message: str) -> None:
    (float_copy / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"config.json: {message}"):
        open_checkpoint(float_copy)


def test_config_files_may_be_binary_or_huge(float_copy: Path) -> None:
    (float_copy / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        open_checkpoint(float_copy)
    with (float_copy / "config.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(CheckpointError, match="larger than 64 MiB"):
        open_checkpoint(float_copy)
