"""The form of the weights in memory: chosen by word, environment or processor, with the same answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tilepress
from quantized_models import make_w8a8s
from reference_model import logits_of
from tilepress import _native, codec
from tilepress.checkpoint import open_checkpoint
from tilepress.cli import main
from tilepress.codec import BITSTREAM_V1, RESIDENT_FORM
from tilepress.compress import compress_directory
from tilepress.engines import residency
from tilepress.engines.transformers.compressed_linear import CompressedLinear
from tilepress.errors import CheckpointError, UsageError
from tiny_models import make_tiny_qwen3


@pytest.fixture(params=["tiles", "entropy"])
def compressed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    quantized = make_w8a8s(make_tiny_qwen3(tmp_path / "float", tied=True), tmp_path / "w8a8s", shared=True)
    compress_directory(quantized, tmp_path / "w8a8sc", tp=2, coding=request.param)
    return tmp_path / "w8a8sc"


def versions(model: torch.nn.Module) -> set[int]:
    return {int(module.info[4]) for module in model.modules() if isinstance(module, CompressedLinear)}


def test_both_forms_give_the_same_bits_and_share_the_table(compressed: Path) -> None:
    stored, _ = tilepress.load(compressed, resident="stored")
    fast, _ = tilepress.load(compressed, resident="fast")

    assert versions(stored) == {BITSTREAM_V1}
    assert versions(fast) == {RESIDENT_FORM}
    assert torch.equal(logits_of(fast), logits_of(stored))
    assert fast.get_input_embeddings().weight.data_ptr() == fast.get_output_embeddings().weight.data_ptr()


def test_a_w8a8s_directory_takes_the_fast_form_too(compressed: Path) -> None:
    fast, _ = tilepress.load(compressed.parent / "w8a8s", resident="fast")
    assert versions(fast) == {RESIDENT_FORM}
    assert torch.equal(logits_of(fast), logits_of(tilepress.load(compressed, resident="stored")[0]))


@pytest.mark.parametrize(("isa", "fast"), [("avx512", False), ("avx512vnni", True), ("avx2", True), ("neon", True)])
def test_auto_goes_by_the_instruction_set(isa: str, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(residency.VARIABLE, raising=False)
    monkeypatch.setattr(_native, "isa", lambda: isa)
    assert residency.takes_fast_form(None) is residency.takes_fast_form("auto") is fast
    assert residency.takes_fast_form("auto", "cuda")
    assert not residency.takes_fast_form("stored", "cuda")


def test_the_word_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(residency.VARIABLE, "fast")
    assert residency.takes_fast_form(None)
    assert not residency.takes_fast_form("stored")
    monkeypatch.setenv(residency.VARIABLE, "quick")
    with pytest.raises(UsageError, match="TILEPRESS_RESIDENT is 'quick': use one of auto, stored, fast"):
        residency.takes_fast_form(None)


def test_the_command_line_takes_the_word(compressed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "-m", str(compressed), "--prompt", "Hello", "--max-new-tokens", "4", "--json"]
    answers = []
    for form in ("fast", "stored"):
        assert main([*command, "--resident", form]) == 0
        answers.append(json.loads(capsys.readouterr().out)["text"])
    assert answers[0] == answers[1]

    assert main([*command, "--resident", "quick"]) == 2
    assert "--resident quick: use one of auto, stored, fast" in capsys.readouterr().err


def test_memory_that_the_fast_form_takes_is_foretold() -> None:
    matrix = (np.random.default_rng(0).normal(size=(1024, 1024)) * 2.2).round().astype(np.int8)
    tiles, fast = codec.encode(matrix), codec.encode_resident(matrix)
    assert fast.nbytes <= codec.resident(tiles.nbytes, "tiles", fast=True) < 1.4 * fast.nbytes


def test_a_file_that_holds_the_fast_form_is_refused(compressed: Path) -> None:
    part = next(compressed.rglob("*.safetensors"))
    tensors = load_file(part)
    for name in [name for name in tensors if name.endswith(".info")]:
        tensors[name][4] = RESIDENT_FORM
    save_file(tensors, part, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"is in a form for memory, not for files"):
        open_checkpoint(compressed).compressed_linear("model.layers.0.mlp.down_proj")
