"""An embedding table of integers: written, compressed, read at any tensor-parallel size, and refused."""

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
from tilepress.checkpoint import EMBEDDING, W8A8SCCheckpoint, W8A8SCheckpoint, open_checkpoint, summarize
from tilepress.compress import compress_directory, decompress_directory, verify
from tilepress.errors import BitstreamError, CheckpointError
from tiny_models import VOCABULARY, make_tiny_qwen3

PART = "quant_model_weight_w8a8sc.safetensors"
DESCRIPTION, WEIGHTS = "quant_model_description.json", "quant_model_weight_w8a8s.safetensors"
TABLE, SCALE = f"{EMBEDDING}.weight", f"{EMBEDDING}.weight_scale"


@pytest.fixture(params=["float head", "quantized head", "tied, quantized head"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    model = make_tiny_qwen3(tmp_path / "float", tied="tied" in request.param)
    head = "quantized" in request.param
    return make_w8a8s(model, tmp_path / "w8a8s", levels=9, head=head, embeddings=True)


@pytest.fixture
def untied(tmp_path: Path) -> Path:
    return make_w8a8s(make_tiny_qwen3(tmp_path / "float"), tmp_path / "w8a8s", levels=9, embeddings=True)


def test_its_two_tensors_are_stored(source: Path) -> None:
    tensors = stored_tensors(source)
    table = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items() if "embed" in name}
    assert table == {TABLE: (torch.int8, (VOCABULARY, 64)), SCALE: (torch.float32, (VOCABULARY,))}
    types = json.loads((source / DESCRIPTION).read_text())
    assert (types[TABLE], types[SCALE]) == ("W8A8S", "W8A8S")
    checkpoint = W8A8SCheckpoint(source)
    assert checkpoint.is_quantized(EMBEDDING)
    assert TABLE not in checkpoint.float_names()
    assert EMBEDDING not in checkpoint.quantized_linears()  # it is looked up, not multiplied by
    assert np.array_equal(codec.decode(checkpoint.compressed_embedding().weight), tensors[TABLE].numpy())


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_it_is_split_by_rows_and_joined_again(source: Path, tmp_path: Path, tp: int) -> None:
    compress_directory(source, tmp_path / "c", tp=tp)
    plain = W8A8SCheckpoint(source).embedding()
    for rank in range(tp):
        part = load_file(tmp_path / "c" / f"part{rank}-of-{tp}" / PART)
        assert part[f"{EMBEDDING}.info"].tolist() == [8, 8, 64, VOCABULARY // tp, 0x54500001]
        rows = slice(rank * VOCABULARY // tp, (rank + 1) * VOCABULARY // tp)
        assert torch.equal(part[SCALE], plain.weight_scale[rows])
    compressed = W8A8SCCheckpoint(tmp_path / "c")
    assert compressed.is_quantized(EMBEDDING)
    assert TABLE not in compressed.float_names()
    embedding = compressed.compressed_embedding()
    assert np.array_equal(codec.decode(embedding.weight), plain.weight.numpy())
    assert torch.equal(embedding.weight_scale, plain.weight_scale)
    verification = verify(source, tmp_path / "c")
    assert verification.linears == 15 + W8A8SCheckpoint(source).is_quantized("lm_head")
    assert verification.same
    decompress_directory(tmp_path / "c", tmp_path / "back")
    assert same_tensors(stored_tensors(source), stored_tensors(tmp_path / "back"))


def test_a_summary_counts_it(untied: Path, tmp_path: Path) -> None:
    linears = 2 * (2 * 128 * 64 + 2 * 64 * 64 + 3 * 128 * 64)
    compress_directory(untied, tmp_path / "c", tp=2)
    for directory in (untied, tmp_path / "c"):
        summary = summarize(open_checkpoint(directory))
        assert summary.linear_weights == summary.quantized_weights == linears + VOCABULARY * 64
    assert summary.bits_per_weight == 8 * summary.types["W8A8SC"].nbytes / summary.quantized_weights


@pytest.mark.parametrize("change", [TABLE, SCALE])
def test_verify_names_what_differs(untied: Path, tmp_path: Path, change: str) -> None:
    compress_directory(untied, tmp_path / "c", tp=2)
    edit_tensors(untied / WEIGHTS, lambda tensors: tensors[change][7:8].mul_(0))
    assert verify(untied, tmp_path / "c").differing == [EMBEDDING]


def test_verify_finds_an_embedding_that_is_quantized_in_one_directory_only(untied: Path, tmp_path: Path) -> None:
    as_floats = make_w8a8s(tmp_path / "float", tmp_path / "floats", levels=9)
    compress_directory(untied, tmp_path / "c")
    compress_directory(as_floats, tmp_path / "c floats")
    assert verify(as_floats, tmp_path / "c").differing == [TABLE]
    assert verify(untied, tmp_path / "c floats").differing == [TABLE]


def test_embeddings_that_do_not_fit_are_refused(untied: Path) -> None:
    whole, types = (untied / WEIGHTS).read_bytes(), (untied / DESCRIPTION).read_text()

    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            W8A8SCheckpoint(untied).embedding()
        (untied / WEIGHTS).unlink()
        (untied / WEIGHTS).write_bytes(whole)
        (untied / DESCRIPTION).write_text(types)

    edit_tensors(untied / WEIGHTS, lambda tensors: tensors.pop(SCALE))
    refused(rf"tensor {SCALE} is missing")
    edit_tensors(untied / WEIGHTS, lambda tensors: tensors.update({SCALE: tensors[SCALE].half()}))
    refused(rf"{SCALE} is float16 \[{VOCABULARY}\]; config.json calls for float32")
    edit_tensors(untied / WEIGHTS, lambda tensors: tensors[SCALE][3:4].fill_(-1))
    refused(rf"{SCALE} of token 3 is -1.0; it has to be finite and not negative")
    edit_tensors(untied / WEIGHTS, lambda tensors: tensors.pop("lm_head.weight"))
    edit_json(untied / "config.json", lambda config: config.update(tie_word_embeddings=True))
    refused(rf"{TABLE} is int8 and lm_head.weight is missing")
    edit_json(untied / DESCRIPTION, lambda types: types.update({TABLE: "FLOAT"}))
    refused(rf"{TABLE} is int8 \[{VOCABULARY}, 64\]; config.json calls for float16 or bfloat16")
    edit_json(untied / DESCRIPTION, lambda types: types.update({SCALE: "FLOAT"}))
    refused(rf"{SCALE} is FLOAT; it has to be W8A8S")


def test_parts_that_do_not_fit_are_refused(untied: Path, tmp_path: Path) -> None:
    compress_directory(untied, tmp_path / "c", tp=1)
    file = tmp_path / "c" / "part0-of-1" / PART
    whole = file.read_bytes()

    def refused(message: str, error: type[Exception] = CheckpointError) -> None:
        with pytest.raises(error, match=message):
            W8A8SCCheckpoint(tmp_path / "c").compressed_embedding()
        file.unlink()
        file.write_bytes(whole)

    edit_tensors(file, lambda tensors: tensors[f"{EMBEDDING}.info"][3:4].sub_(1))
    refused(rf"{EMBEDDING}.info says \[{VOCABULARY - 1}, 64\]; config.json calls for \[{VOCABULARY}, 64\]")
    edit_tensors(file, lambda tensors: tensors.update({SCALE: tensors[SCALE][1:].clone()}))
    refused(rf"{SCALE} is float32 \[{VOCABULARY - 1}\]")
    edit_tensors(file, lambda tensors: tensors[SCALE][3:4].fill_(torch.nan))
    refused(rf"{SCALE} of token 3 is nan")
    edit_tensors(file, lambda tensors: tensors[f"{EMBEDDING}.index"][:8].fill_(-1))
    refused(rf"{EMBEDDING}: tile \(0, 0\)", BitstreamError)
    edit_tensors(file, lambda tensors: tensors.pop("lm_head.weight"))
    edit_json(tmp_path / "c" / "config.json", lambda config: config.update(tie_word_embeddings=True))
    refused(rf"{TABLE} is int8 and lm_head.weight is missing")


def test_damage_is_found_and_named(untied: Path, tmp_path: Path) -> None:
    compress_directory(untied, tmp_path / "c", tp=1)
    edit_tensors(tmp_path / "c" / "part0-of-1" / PART, lambda tensors: tensors[TABLE].fill_(-1))
    with pytest.raises(BitstreamError, match=rf"{EMBEDDING}: tile \(0, 0\)"):
        verify(untied, tmp_path / "c")
