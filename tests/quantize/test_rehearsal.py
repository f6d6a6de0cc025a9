"""What must fail fails before any work, and leaves nothing."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tilepress.checkpoint import FloatCheckpoint
from tilepress.cli import main
from tilepress.errors import TilepressWarning
from tilepress.quantize import Recipe, rehearse
from tilepress.quantize.rehearsal import CutOut
from tiny_models import make_tiny_llama, make_tiny_mistral, make_tiny_qwen2, make_tiny_qwen3

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
        ("tilepress.codec.encode_entropy", ImportError("no module named coder")),
        ("torch.linalg.cholesky_ex", RuntimeError("no kernel image is available for execution on the device")),
        ("tilepress.checkpoint.w8a8s_writer.save_tensors", OSError("input/output error")),
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


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (make_tiny_qwen2, {"vocab_size": 2048, "bos_token_id": 2001, "eos_token_id": 2002, "pad_token_id": 2003}),
        (make_tiny_llama, {"vocab_size": 2048, "eos_token_id": [2001, 2008, 2009], "pad_token_id": 2004}),
        (make_tiny_qwen2, {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
        (make_tiny_mistral, {"sliding_window": 16}),
        (make_tiny_qwen2, {"heads": 14, "kv_heads": 2, "hidden": 896, "head_dim": 64}),
        (make_tiny_llama, {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
        (
            make_tiny_llama,
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 500000.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 256,
                }
            },
        ),
        (
            make_tiny_qwen3,
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "factor": 2.0,
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0] * 4,
                    "original_max_position_embeddings": 256,
                }
            },
        ),
        (make_tiny_qwen3, {"attention_bias": True, "tied": True}),
        (make_tiny_llama, {"attention_bias": True, "mlp_bias": True}),
    ],
    ids=[
        "pad",
        "eos list",
        "sliding",
        "sliding in all layers",
        "seven heads a group",
        "linear",
        "llama3",
        "longrope",
        "biased, tied",
        "all biased",
    ],
)
def test_what_the_run_takes_the_rehearsal_takes(make: Any, options: dict[str, Any], tmp_path: Path) -> None:
    source = FloatCheckpoint(make(tmp_path / "float", **{"head_dim": 8, "layers": 3, **options}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", TilepressWarning)
        rehearse(source, Recipe(distill_steps=0), CPU)


def test_a_cut_that_goes_wrong_is_noted_and_the_run_goes_on(
    tiny_qwen3: Path,
    calibration: Path,
    tmp_path: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def cut(whole: FloatCheckpoint) -> None:
        assert whole.path != tiny_qwen3, "Padding_idx must be within num_embeddings"

    whole = CutOut.__init__
    monkeypatch.setattr(CutOut, "__init__", lambda self, source: (cut(source), whole(self, source))[1])
    command = f"quant -m {tiny_qwen3} -o {tmp_path / 'out'} --calib {calibration} --distill-steps 0"
    assert main(command.split()) == 0
    said = capsys.readouterr().err
    assert "note: the rehearsal on a small part of the model failed (AssertionError: Padding_idx" in said
    assert "the whole model may go through: the run goes on" in said
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "options", "message"),
    [
        ("model.layers.1.mlp.up_proj.weight", torch.nan, "", "1 of the values from row 0 on are NaN or infinite"),
        ("model.norm.weight", torch.inf, "", "1 of the values from row 0 on are NaN or infinite"),
        ("lm_head.weight", 1e6, "", "has values up to 999424, which float16 cannot hold; use --dtype bfloat16"),
    ],
)
def test_weights_that_cannot_be_quantized_are_named_before_the_work(
    name: str,
    value: float,
    options: str,
    message: str,
    calibration: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = make_tiny_qwen3(tmp_path / "float", dtype=torch.bfloat16) / "model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[0] = value
    save_file(tensors, file, metadata={"format": "pt"})
    assert main(f"quant -m {tmp_path / 'float'} -o {tmp_path / 'out'} --calib {calibration}".split()) == 2
    said = capsys.readouterr().err
    assert f"{file}: {name}" in said
    assert message in said
    assert "kept" not in said
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == []
