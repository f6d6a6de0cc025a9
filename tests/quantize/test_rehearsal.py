"""What must fail fails before any work, and leaves nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tilepress.checkpoint import FloatCheckpoint
from tilepress.cli import main
from tilepress.errors import QuantizationError
from tilepress.quantize import Recipe, rehearse
from tiny_models import make_tiny_llama, make_tiny_qwen2, make_tiny_qwen3

CPU = torch.device("cpu")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize(
    ("make", "options", "recipe"),
    [
        (make_tiny_qwen3, {"hidden": 320, "head_dim": 32, "intermediate": 640}, Recipe(distill_steps=45)),
        (make_tiny_qwen3, {"tied": True}, Recipe(head=True, embeddings=True, dtype="bfloat16")),
        (make_tiny_qwen2, {"head_dim": 8}, Recipe(head=True, embeddings=True, activations="static", loss=1e-9)),
        (make_tiny_llama, {"attention_bias": True}, Recipe(size=1, activations="per-token")),
        (make_tiny_llama, {"heads": 9, "kv_heads": 3, "hidden": 288, "head_dim": 32}, Recipe()),
    ],
    ids=["wider than the rehearsal", "tied", "biased", "another target", "three heads a group"],
)
def test_a_model_that_can_be_quantized_passes_and_leaves_nothing(
    make: Any, options: dict[str, Any], recipe: Recipe, tmp_path: Path, scratch: Path
) -> None:
    rehearse(FloatCheckpoint(make(tmp_path / "float", **options)), recipe, CPU)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ("tilepress.codec.encode", ImportError("no module named coder")),
        ("torch.linalg.cholesky_ex", RuntimeError("no kernel image is available for execution on the device")),
        ("tilepress.checkpoint.writer.save_tensors", OSError("input/output error")),
    ],
    ids=["a missing package", "a bad device", "a bad disk"],
)
def test_what_is_broken_ends_the_command_before_any_work(
    broken: str,
    error: Exception,
    tiny_qwen3: Path,
    calibration: Path,
    tmp_path: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(broken, fail)
    before = sorted(tmp_path.iterdir())
    assert main(f"quant -m {tiny_qwen3} -o {tmp_path / 'out'} --calib {calibration}".split()) == 2
    shown = capsys.readouterr().err
    assert f"a rehearsal on a small part of the model failed on cpu: {type(error).__name__}: {error}" in shown
    assert "nothing was begun" in shown
    assert sorted(tmp_path.iterdir()) == before
    assert list(scratch.iterdir()) == []


def test_weights_that_cannot_be_quantized_are_named(tmp_path: Path, scratch: Path) -> None:
    file = make_tiny_qwen3(tmp_path / "float") / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(QuantizationError, match=r"model\.layers\.0\.mlp\.up_proj\.weight: 1 of .* NaN"):
        rehearse(FloatCheckpoint(tmp_path / "float"), Recipe(distill_steps=0), CPU)
    assert list(scratch.iterdir()) == []
