"""Reading W8A8SC directories: foreign and damaged ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from quantized_directories import edit_json, edit_tensors
from tilepress.checkpoint import W8A8SCCheckpoint, open_checkpoint, summarize
from tilepress.compress import compress_directory, verify
from tilepress.engines.transformers.model import build_quantized_model
from tilepress.errors import BitstreamError, CheckpointError

WEIGHTS, DESCRIPTION = "quant_model_weight_w8a8sc.safetensors", "quant_model_description.json"
QKV, DOWN = "model.layers.0.self_attn.query_key_value", "model.layers.1.mlp.down_proj"


def test_one_part_is_read_without_copying(tmp_path: Path, w8a8s: Path) -> None:
    compress_directory(w8a8s, tmp_path / "c", tp=1)
    checkpoint = W8A8SCCheckpoint(tmp_path / "c")
    once, twice = (checkpoint.compressed_linear(QKV) for _ in range(2))
    assert once.weight.weight.ctypes.data == twice.weight.weight.ctypes.data
    name = "model.embed_tokens.weight"
    assert checkpoint.float_tensor(name).data_ptr() == checkpoint.float_tensor(name).data_ptr()


def test_the_vendors_bitstream_is_refused_on_opening(w8a8sc_copy: Path) -> None:
    edit_tensors(w8a8sc_copy / "part1-of-2" / WEIGHTS, lambda tensors: tensors[f"{QKV}.info"][4].fill_(1))
    with pytest.raises(BitstreamError, match=rf"part1-of-2/{WEIGHTS}: {QKV} .*Atlas.*W8A8S directory"):
        open_checkpoint(w8a8sc_copy)


def test_the_vendors_engines_names_are_known(w8a8sc_copy: Path) -> None:
    def renamed(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            theirs = name.replace("model.layers.", "transformer.h.").replace("self_attn.query_key_value", "attn.c_attn")
            tensors[theirs] = tensors.pop(name)

    edit_tensors(w8a8sc_copy / "part0-of-2" / WEIGHTS, renamed)
    with pytest.raises(BitstreamError, match=r"transformer\.h\..* is compressed by the vendor's tool for Atlas"):
        open_checkpoint(w8a8sc_copy)


def test_the_vendors_flat_parts_are_known(w8a8s_copy: Path) -> None:
    shutil.move(w8a8s_copy / "quant_model_weight_w8a8s.safetensors", w8a8s_copy / "model-rank-0-part-0.safetensors")
    with pytest.raises(BitstreamError, match=r"model-rank-0-part-0.safetensors is compressed by the vendor's tool"):
        open_checkpoint(w8a8s_copy)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            f"{QKV}.info",
            lambda t: t + torch.tensor([0, 0, 0, 1, 0]),
            rf"{QKV}.info says \[129, 64\]; config.json calls for \[128, 64\]",
        ),
        (f"{QKV}.info", lambda t: t[:4], rf"{QKV}.info is int64 \[4\]"),
        (f"{QKV}.info", lambda t: t.int(), rf"{QKV}.info is int32 \[5\]"),
        (f"{QKV}.index", lambda t: t.view(2, -1), rf"{QKV}.index is int8 \[2, 4\]"),
        (f"{QKV}.weight", lambda t: t.view(torch.int16), rf"{QKV}.weight is int16"),
        (f"{QKV}.weight", lambda t: t[:0], rf"{QKV}.weight is int8 \[0\]"),
        (f"{QKV}.deq_scale", lambda t: t[:9], rf"{QKV}.deq_scale is int64 \[9\]"),
        (f"{QKV}.quant_bias", lambda t: None, rf"tensor {QKV}.quant_bias is missing"),
        (f"{QKV}.index", lambda t: None, rf"tensor {QKV}.index is missing"),
        ("model.norm.weight", lambda t: t[:5], r"model.norm.weight is float16 \[5\]"),
        ("lm_head.weight", lambda t: t.repeat(2, 1), r"lm_head.weight is float16 \[320, 64\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    w8a8sc_copy: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None], message: str
) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        changed = change(tensors.pop(name))
        if changed is not None:
            tensors[name] = changed.clone()

    edit_tensors(w8a8sc_copy / "part0-of-2" / WEIGHTS, edit)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(w8a8sc_copy)


def test_damaged_bytes_are_reported_with_file_and_tensor(w8a8sc_copy: Path) -> None:
    edit_tensors(w8a8sc_copy / "part1-of-2" / WEIGHTS, lambda tensors: tensors[f"{QKV}.index"][6].fill_(-1))
    checkpoint = W8A8SCCheckpoint(w8a8sc_copy)
    with pytest.raises(BitstreamError, match=rf"part1-of-2/{WEIGHTS}: {QKV}: "):
        checkpoint.compressed_linear(QKV)


def test_damaged_tiles_are_found_where_they_are_used(tmp_path: Path, w8a8s: Path) -> None:
    compress_directory(w8a8s, tmp_path / "c", tp=1)
    edit_tensors(tmp_path / "c" / "part0-of-1" / WEIGHTS, lambda tensors: tensors[f"{DOWN}.weight"].fill_(-1))
    checkpoint = W8A8SCCheckpoint(tmp_path / "c")
    checkpoint.compressed_linear(DOWN)
    message = rf"{DOWN}: tile \(0, 0\): "
    for use in (lambda: summarize(checkpoint), lambda: verify(w8a8s, tmp_path / "c")):
        with pytest.raises(BitstreamError, match=message):
            use()
    model = build_quantized_model(checkpoint, torch.float32)
    with pytest.raises(BitstreamError, match=r"tile \(0, 0\): "):
        model(torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (f"{DOWN}.quant_bias", 7, rf"part1-of-2: {DOWN}: quant_bias is not 0, but part0-of-2 carries it"),
        (f"{DOWN}.deq_scale", 0x3F800000, rf"part1-of-2: {DOWN}: deq_scale differs from part0-of-2"),
        (f"{DOWN}.input_offset", 99, rf"part1-of-2: {DOWN}: input_scale or input_offset differs from part0-of-2"),
        (f"{DOWN}.deq_scale", -1, rf"part1-of-2/{WEIGHTS}: {DOWN}.deq_scale holds a value outside"),
    ],
)
def test_parts_have_to_agree(w8a8sc_copy: Path, name: str, value: int, message: str) -> None:
    edit_tensors(w8a8sc_copy / "part1-of-2" / WEIGHTS, lambda tensors: tensors[name].fill_(value))
    checkpoint = W8A8SCCheckpoint(w8a8sc_copy)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.compressed_linear(DOWN)


def test_parts_have_to_hold_the_same_tensors(w8a8sc_copy: Path) -> None:
    bias = {"model.norm.bias": torch.ones(64)}
    edit_tensors(w8a8sc_copy / "part1-of-2" / WEIGHTS, lambda tensors: tensors.update(bias))
    edit_json(w8a8sc_copy / "part1-of-2" / DESCRIPTION, lambda types: types.update({"model.norm.bias": "FLOAT"}))
    with pytest.raises(CheckpointError, match=r"part1-of-2: model.norm.bias is not stored as in part0-of-2"):
        open_checkpoint(w8a8sc_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_quant_type": "W8A8S"}, "model_quant_type is 'W8A8S'; it has to be W8A8SC in a part"),
        ({f"{QKV}.weight": "W8A8S"}, rf"{QKV}.weight is W8A8S; it has to be FLOAT or W8A8SC"),
        ({f"{QKV}.info": "FLOAT"}, rf"{QKV}.info is FLOAT; it has to be W8A8SC"),
        ({f"{QKV}.deq_scale": "FLOAT"}, rf"{QKV}.deq_scale is FLOAT; it has to be W8A8S or W8A8SC"),
        ({f"{QKV}.weight": "FLOAT"}, rf"{QKV}.weight is int8"),
        ({f"{QKV}.weight": 1}, rf"type of {QKV}.weight is 1"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(w8a8sc_copy: Path, change: dict[str, Any], message: str) -> None:
    edit_json(w8a8sc_copy / "part0-of-2" / DESCRIPTION, lambda description: description.update(change))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(w8a8sc_copy)


def test_surplus_tensors_are_refused(w8a8sc_copy: Path) -> None:
    surplus = {"model.layers.0.mlp.up_proj.weight": torch.ones(2)}
    edit_tensors(w8a8sc_copy / "part0-of-2" / WEIGHTS, lambda tensors: tensors.update(surplus))
    with pytest.raises(CheckpointError, match=r"mlp.up_proj.weight is not a tensor of a W8A8SC part"):
        open_checkpoint(w8a8sc_copy)


def test_missing_and_mixed_parts_are_named(w8a8sc_copy: Path) -> None:
    shutil.copytree(w8a8sc_copy / "part0-of-2", w8a8sc_copy / "part0-of-4")
    with pytest.raises(CheckpointError, match="holds parts of 2 and of 4"):
        open_checkpoint(w8a8sc_copy)
    shutil.rmtree(w8a8sc_copy / "part0-of-4")
    shutil.copytree(w8a8sc_copy / "part0-of-2", w8a8sc_copy / "part2-of-2")
    with pytest.raises(CheckpointError, match="holds more parts than 2"):
        open_checkpoint(w8a8sc_copy)
    shutil.rmtree(w8a8sc_copy / "part0-of-2")
    with pytest.raises(CheckpointError, match="part0-of-2: missing"):
        open_checkpoint(w8a8sc_copy)
    shutil.rmtree(w8a8sc_copy / "part2-of-2")
    shutil.move(w8a8sc_copy / "part1-of-2", w8a8sc_copy / "part0-of-999999")
    with pytest.raises(CheckpointError, match="part1-of-999999: missing"):
        open_checkpoint(w8a8sc_copy)


def test_a_number_of_parts_that_the_model_cannot_have(w8a8sc_copy: Path) -> None:
    for rank in range(2):
        (w8a8sc_copy / f"part{rank}-of-2").rename(w8a8sc_copy / f"part{rank}-of-3")
    (w8a8sc_copy / "part2-of-3").mkdir()
    with pytest.raises(CheckpointError, match="3 tensor-parallel parts do not fit 8 heads"):
        open_checkpoint(w8a8sc_copy)


@pytest.mark.parametrize(("file", "message"), [(DESCRIPTION, "no quant_model_description.json"), (WEIGHTS, "no .safe")])
def test_a_part_without_its_files(w8a8sc_copy: Path, file: str, message: str) -> None:
    (w8a8sc_copy / "part1-of-2" / file).unlink()
    with pytest.raises(CheckpointError, match=rf"part1-of-2: {message}"):
        open_checkpoint(w8a8sc_copy)


def test_a_directory_without_parts(w8a8s: Path) -> None:
    with pytest.raises(CheckpointError, match="no part0-of-1"):
        W8A8SCCheckpoint(w8a8s)


def test_names_of_no_tensor(w8a8sc: Path) -> None:
    checkpoint = W8A8SCCheckpoint(w8a8sc)
    for name in ("model.nonsense", "model.layers.0.mlp.up_proj.weight"):
        with pytest.raises(CheckpointError, match="is no float tensor of this part"):
            checkpoint.float_tensor(name)
    with pytest.raises(KeyError):
        checkpoint.is_quantized("model.norm")
