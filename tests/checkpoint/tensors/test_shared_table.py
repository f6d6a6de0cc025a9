"""One table of integers that is head and embedding of a tied model: written, compressed, read at any size, refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from quantized_directories import edit_json, edit_tensors, same_tensors, stored_tensors
from quantized_models import make_w8a8s
from tilepress import codec
from tilepress.checkpoint import (
    EMBEDDING,
    FloatCheckpoint,
    W8A8SCCheckpoint,
    W8A8SCheckpoint,
    open_checkpoint,
    summarize,
)
from tilepress.compress import compress_directory, decompress_directory, verify
from tilepress.errors import CheckpointError
from tiny_models import VOCABULARY, make_tiny_qwen3

PART = "quant_model_weight_w8a8sc.safetensors"
DESCRIPTION, WEIGHTS = "quant_model_description.json", "quant_model_weight_w8a8s.safetensors"
TABLE = f"{EMBEDDING}.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_qwen3(tmp_path / "float", tied=True)


@pytest.fixture(params=["float16", "bfloat16"])
def source(request: pytest.FixtureRequest, model: Path, tmp_path: Path) -> Path:
    return make_w8a8s(model, tmp_path / "w8a8s", dtype=request.param, levels=9, shared=True)


@pytest.fixture
def shared(model: Path, tmp_path: Path) -> Path:
    return make_w8a8s(model, tmp_path / "w8a8s", levels=9, shared=True)


@pytest.fixture
def twice(model: Path, tmp_path: Path) -> Path:
    return make_w8a8s(model, tmp_path / "twice", levels=9, head=True, embeddings=True)


def test_only_the_five_tensors_of_the_head_are_stored(source: Path) -> None:
    tensors = stored_tensors(source)
    parameters = ("weight", "input_scale", "input_offset", "deq_scale", "quant_bias")
    assert {name for name in tensors if "layers" not in name} == {
        "model.norm.weight",
        *(f"lm_head.{parameter}" for parameter in parameters),
    }
    types = json.loads((source / DESCRIPTION).read_text())
    assert (types["lm_head.weight"], TABLE in types) == ("W8A8S", False)
    assert json.loads((source / "config.json").read_text())["tie_word_embeddings"] is True


def test_the_embedding_is_the_integers_of_the_head(source: Path) -> None:
    checkpoint = W8A8SCheckpoint(source)
    assert checkpoint.shares_table
    assert not checkpoint.is_quantized(EMBEDDING)  # nothing is stored for it
    assert TABLE not in checkpoint.float_names()
    head = checkpoint.linear("lm_head")
    embedding = checkpoint.embedding()
    assert torch.equal(embedding.weight, head.weight)
    assert torch.equal(embedding.weight_scale, head.deq_scale / head.input_scale)
    compressed = checkpoint.compressed_embedding()
    assert np.array_equal(codec.decode(compressed.weight), head.weight.numpy())
    assert torch.equal(compressed.weight_scale, embedding.weight_scale)


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_each_part_holds_its_rows_for_both(source: Path, tmp_path: Path, tp: int) -> None:
    compress_directory(source, tmp_path / "c", tp=tp)
    for rank in range(tp):
        part = load_file(tmp_path / "c" / f"part{rank}-of-{tp}" / PART)
        assert part["lm_head.info"].tolist() == [8, 8, 64, VOCABULARY // tp, 0x54500001]
        assert not [name for name in part if EMBEDDING in name]
    assert json.loads((tmp_path / "c" / "config.json").read_text())["tie_word_embeddings"] is True
    compressed, plain = W8A8SCCheckpoint(tmp_path / "c"), W8A8SCheckpoint(source).embedding()
    assert compressed.shares_table
    embedding = compressed.compressed_embedding()
    assert np.array_equal(codec.decode(embedding.weight), plain.weight.numpy())
    assert torch.equal(embedding.weight_scale, plain.weight_scale)
    verification = verify(source, tmp_path / "c")
    assert (verification.linears, verification.same) == (15, True)
    decompress_directory(tmp_path / "c", tmp_path / "back")
    assert same_tensors(stored_tensors(source), stored_tensors(tmp_path / "back"))
    assert json.loads((tmp_path / "back" / "config.json").read_text())["tie_word_embeddings"] is True


def test_a_summary_counts_it_once(shared: Path, tmp_path: Path) -> None:
    linears = 2 * (2 * 128 * 64 + 2 * 64 * 64 + 3 * 128 * 64)
    compress_directory(shared, tmp_path / "c", tp=2)
    for directory in (shared, tmp_path / "c"):
        summary = summarize(open_checkpoint(directory))
        assert summary.linear_weights == summary.quantized_weights == linears + VOCABULARY * 64


def test_directories_that_store_it_twice_stay_readable(twice: Path, shared: Path, tmp_path: Path) -> None:
    two, one = W8A8SCheckpoint(twice), W8A8SCheckpoint(shared)
    assert not two.shares_table
    assert two.is_quantized(EMBEDDING)
    assert torch.equal(two.embedding().weight, one.embedding().weight)
    compress_directory(twice, tmp_path / "c twice")
    compress_directory(shared, tmp_path / "c")
    assert not W8A8SCCheckpoint(tmp_path / "c twice").shares_table
    assert verify(twice, tmp_path / "c").differing == [EMBEDDING]
    assert verify(shared, tmp_path / "c twice").differing == [EMBEDDING]


def test_a_float_embedding_beside_a_quantized_head_is_not_shared(model: Path, tmp_path: Path) -> None:
    checkpoint = W8A8SCheckpoint(make_w8a8s(model, tmp_path / "w8a8s", head=True))
    assert not checkpoint.shares_table
    assert TABLE in checkpoint.float_names()


def test_tables_that_do_not_fit_are_refused(shared: Path) -> None:
    whole, types = (shared / WEIGHTS).read_bytes(), (shared / DESCRIPTION).read_text()
    config = (shared / "config.json").read_text()

    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            W8A8SCheckpoint(shared).embedding()
        (shared / WEIGHTS).unlink()
        (shared / WEIGHTS).write_bytes(whole)
        (shared / DESCRIPTION).write_text(types)
        (shared / "config.json").write_text(config)

    edit_json(shared / "config.json", lambda fields: fields.update(tie_word_embeddings=False))
    refused(rf"tensor {TABLE} is missing")
    edit_json(shared / DESCRIPTION, lambda kinds: kinds.update({TABLE: "W8A8S"}))
    refused(rf"tensor {TABLE} is missing")
    edit_json(shared / DESCRIPTION, lambda kinds: kinds.update({"lm_head.weight": "FLOAT"}))
    refused(rf"lm_head.weight is int8 \[{VOCABULARY}, 64\]; config.json calls for float16 or bfloat16")
    edit_tensors(shared / WEIGHTS, lambda tensors: tensors.pop("lm_head.weight"))
    refused(r"tensor lm_head.weight is missing")
    edit_tensors(shared / WEIGHTS, lambda tensors: tensors.pop("lm_head.deq_scale"))
    refused(r"tensor lm_head.deq_scale is missing")
    edit_tensors(shared / WEIGHTS, lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"][1:]}))
    refused(rf"lm_head.weight is int8 \[{VOCABULARY - 1}, 64\]")
    edit_tensors(shared / WEIGHTS, lambda tensors: tensors.update({TABLE: torch.zeros(VOCABULARY, 64).half()}))
    refused(rf"does not describe tensor {TABLE}")
    edit_tensors(shared / WEIGHTS, lambda tensors: tensors["lm_head.deq_scale"][3:4].fill_(-1))
    refused(r"lm_head.deq_scale holds a value outside")


def test_parts_that_do_not_fit_are_refused(shared: Path, tmp_path: Path) -> None:
    compress_directory(shared, tmp_path / "c", tp=2)
    file = tmp_path / "c" / "part1-of-2" / PART
    whole = file.read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            W8A8SCCheckpoint(tmp_path / "c").compressed_embedding()
        file.unlink()
        file.write_bytes(whole)

    edit_tensors(file, lambda tensors: tensors.pop("lm_head.index"))
    refused(r"tensor lm_head.index is missing")
    edit_tensors(file, lambda tensors: tensors["lm_head.info"][3:4].sub_(1))
    refused(rf"lm_head.info says \[{VOCABULARY // 2 - 1}, 64\]")
    edit_json(tmp_path / "c" / "config.json", lambda config: config.update(tie_word_embeddings=False))
    refused(rf"tensor {TABLE} is missing")


def test_an_untied_model_cannot_be_written_without_its_embedding(tmp_path: Path) -> None:
    source = FloatCheckpoint(make_tiny_qwen3(tmp_path / "float"))
    with pytest.raises(CheckpointError, match=rf"not a whole checkpoint: .*tensor {TABLE} is missing"):
        make_w8a8s(source.path, tmp_path / "w8a8s", shared=True)
    assert not (tmp_path / "w8a8s").exists()
