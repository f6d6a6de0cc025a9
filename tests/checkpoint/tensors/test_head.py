"""A head that is one more quantized linear: written, compressed, read at any tensor-parallel size, and refused."""

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
from tilepress.checkpoint import W8A8SCCheckpoint, W8A8SCheckpoint, open_checkpoint, summarize
from tilepress.compress import compress_directory, decompress_directory, verify
from tilepress.errors import BitstreamError, CheckpointError
from tiny_models import VOCABULARY, make_tiny_qwen3

PART = "quant_model_weight_w8a8sc.safetensors"
DESCRIPTION, WEIGHTS = "quant_model_description.json", "quant_model_weight_w8a8s.safetensors"


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_w8a8s(make_tiny_qwen3(tmp_path / "float", tied=request.param), tmp_path / "w8a8s", levels=9, head=True)


def test_its_five_tensors_are_stored_beside_a_float_embedding(source: Path) -> None:
    tensors = stored_tensors(source)
    head = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items() if "lm_head" in name}
    assert head == {
        "lm_head.weight": (torch.int8, (VOCABULARY, 64)),
        "lm_head.input_scale": (torch.float16, (1,)),
        "lm_head.input_offset": (torch.int8, (1,)),
        "lm_head.deq_scale": (torch.int64, (VOCABULARY,)),
        "lm_head.quant_bias": (torch.int32, (VOCABULARY,)),
    }
    assert tensors["model.embed_tokens.weight"].dtype == torch.float16
    types = json.loads((source / DESCRIPTION).read_text())
    assert {kind for name, kind in types.items() if "lm_head" in name} == {"W8A8S"}
    assert json.loads((source / "config.json").read_text())["tie_word_embeddings"] is False


def test_it_reads_as_one_more_linear(source: Path) -> None:
    checkpoint = W8A8SCheckpoint(source)
    assert checkpoint.is_quantized("lm_head")
    assert not checkpoint.shape.tied
    assert checkpoint.quantized_linears()[-1] == checkpoint.fused_groups()[-1] == "lm_head"
    assert "lm_head.weight" not in checkpoint.float_names()
    compressed = checkpoint.compressed_linear("lm_head")
    assert np.array_equal(codec.decode(compressed.weight), stored_tensors(source)["lm_head.weight"].numpy())


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_it_is_split_by_rows_and_joined_again(source: Path, tmp_path: Path, tp: int) -> None:
    compress_directory(source, tmp_path / "c", tp=tp)
    plain = W8A8SCheckpoint(source).linear("lm_head")
    for rank in range(tp):
        part = load_file(tmp_path / "c" / f"part{rank}-of-{tp}" / PART)
        assert part["lm_head.info"].tolist() == [8, 8, 64, VOCABULARY // tp, 0x54500001]
        rows = slice(rank * VOCABULARY // tp, (rank + 1) * VOCABULARY // tp)
        assert torch.equal(part["lm_head.quant_bias"], plain.quant_bias[rows])
    compressed = W8A8SCCheckpoint(tmp_path / "c")
    assert compressed.is_quantized("lm_head")
    linear = compressed.compressed_linear("lm_head")
    assert np.array_equal(codec.decode(linear.weight), plain.weight.numpy())
    assert torch.equal(linear.deq_scale, plain.deq_scale)
    verification = verify(source, tmp_path / "c")
    assert (verification.linears, verification.same) == (15, True)
    decompress_directory(tmp_path / "c", tmp_path / "back")
    assert same_tensors(stored_tensors(source), stored_tensors(tmp_path / "back"))


def test_a_summary_counts_it(source: Path, tmp_path: Path) -> None:
    linears = 2 * (2 * 128 * 64 + 2 * 64 * 64 + 3 * 128 * 64)
    compress_directory(source, tmp_path / "c", tp=2)
    for directory in (source, tmp_path / "c"):
        summary = summarize(open_checkpoint(directory))
        assert summary.linear_weights == summary.quantized_weights == linears + VOCABULARY * 64
    assert summary.bits_per_weight == 8 * summary.types["W8A8SC"].nbytes / summary.quantized_weights


def test_a_config_that_calls_it_tied_is_overruled(source: Path) -> None:
    edit_json(source / "config.json", lambda config: config.update(tie_word_embeddings=True))
    assert W8A8SCheckpoint(source).is_quantized("lm_head")


def test_heads_that_do_not_fit_are_refused(source: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            W8A8SCheckpoint(source)

    whole = (source / WEIGHTS).read_bytes()
    edit_tensors(source / WEIGHTS, lambda tensors: tensors.update({"lm_head.bias": torch.zeros(VOCABULARY)}))
    edit_json(source / DESCRIPTION, lambda types: types.update({"lm_head.bias": "FLOAT"}))
    assert W8A8SCheckpoint(source).linear("lm_head")  # quant_bias contains it
    (source / WEIGHTS).write_bytes(whole)
    edit_tensors(source / WEIGHTS, lambda tensors: tensors.pop("lm_head.deq_scale"))
    refused(r"tensor lm_head.deq_scale is missing")
    (source / WEIGHTS).write_bytes(whole)
    edit_json(source / DESCRIPTION, lambda types: types.update({"lm_head.weight": "FLOAT"}))
    refused(rf"lm_head.weight is int8 \[{VOCABULARY}, 64\]; config.json calls for float16 or bfloat16")


def test_a_float_head_called_quantized_is_refused(tmp_path: Path) -> None:
    source = make_w8a8s(make_tiny_qwen3(tmp_path / "float"), tmp_path / "w8a8s")
    edit_json(source / DESCRIPTION, lambda types: types.update({"lm_head.weight": "W8A8S"}))
    with pytest.raises(CheckpointError, match=rf"lm_head.weight is float16 \[{VOCABULARY}, 64\]; .* int8"):
        W8A8SCheckpoint(source)


def test_a_float_head_has_no_bias(tmp_path: Path) -> None:
    bias = {"lm_head.bias": torch.zeros(VOCABULARY)}
    with pytest.raises(CheckpointError, match=r"lm_head.bias is not a tensor that tilepress reads"):
        make_w8a8s(make_tiny_qwen3(tmp_path / "float"), tmp_path / "w8a8s", extra=bias)


def test_damage_is_found_and_named(source: Path, tmp_path: Path) -> None:
    compress_directory(source, tmp_path / "c", tp=1)
    edit_tensors(tmp_path / "c" / "part0-of-1" / PART, lambda tensors: tensors["lm_head.weight"].fill_(-1))
    with pytest.raises(BitstreamError, match=r"lm_head: tile \(0, 0\)"):
        verify(source, tmp_path / "c")


def test_parts_have_to_agree_about_its_scales(source: Path, tmp_path: Path) -> None:
    compress_directory(source, tmp_path / "c", tp=2)
    scale = "lm_head.input_scale"
    edit_tensors(tmp_path / "c" / "part1-of-2" / PART, lambda tensors: tensors[scale].mul_(2))
    with pytest.raises(CheckpointError, match=r"part1-of-2: lm_head: input_scale or input_offset differs"):
        W8A8SCCheckpoint(tmp_path / "c").compressed_linear("lm_head")
