"""Training what is not an integer of a quantized model against the float model."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reference_model import reference_model
from tilepress.checkpoint import FloatCheckpoint, W8A8SCheckpoint, W8A8SWriter
from tilepress.errors import QuantizationError, UsageError
from tilepress.quantize import Progress, QuantizationReport, Recipe, quantize_checkpoint
from tilepress.quantize.distillation.student import Student, embed
from tilepress.quantize.distillation.train import learning_rate
from tilepress.quantize.layerwise.decoder import LayerwiseDecoder
from tilepress.quantize.quantized_model import CollectedModel
from tiny_models import make_tiny_llama, make_tiny_qwen2, make_tiny_qwen3

MAKERS = {"qwen3": make_tiny_qwen3, "qwen2": make_tiny_qwen2, "llama": make_tiny_llama}

WHOLE: dict[str, object] = {"head": True, "embeddings": True}
# Of all combinations, those that every run of the tests has.
QUICK = [
    ("qwen3", WHOLE, "static"),
    ("qwen3", WHOLE, "overflow"),
    ("qwen3", {}, "per-token"),
    ("qwen2", WHOLE, "per-token"),
    ("qwen2", {}, "overflow"),
    ("llama", {}, "static"),
]
TOKENS = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(0))


def quantize(source: Path, out: Path, calibration: Path, steps: int, **options: object) -> QuantizationReport:
    settings = {"samples": 6, "sequence_length": 64, "bits": 2.5} | options
    recipe = Recipe(distill_steps=steps, **settings)  # type: ignore[arg-type]
    return quantize_checkpoint(FloatCheckpoint(source), out, recipe, calibration=calibration)


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "quant_model_weight_w8a8s.safetensors")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qwen3", WHOLE),
        ("qwen2", {}),
        ("llama", {}),
        pytest.param("qwen3", {}, marks=pytest.mark.slow),
        pytest.param("qwen2", WHOLE, marks=pytest.mark.slow),
        pytest.param("llama", WHOLE, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else "whole" if value else "linears",
)
def test_the_loss_goes_down_and_the_integers_stay(
    name: str, options: dict[str, object], calibration: Path, tmp_path: Path
) -> None:
    source = MAKERS[name](tmp_path / "float", heads=4, kv_heads=2)
    # Random weights lose little at more bits, and training them gains little: here from .69 to .90 of the loss was left
    # over two seeds.
    options = options | {"samples": 12, "bits": 1.5}
    quantize(source, tmp_path / "plain", calibration, 0, **options)

    report = quantize(source, tmp_path / "distilled", calibration, 24, **options)

    assert report.distillation is not None
    assert report.distillation.kept
    assert report.distillation.loss_after < report.distillation.loss_before
    plain, distilled = tensors(tmp_path / "plain"), tensors(tmp_path / "distilled")
    assert plain.keys() == distilled.keys()
    changed = {key.rpartition(".")[2] for key in plain if not torch.equal(plain[key], distilled[key])}
    assert changed == {"deq_scale", "weight"} | ({"quant_bias"} if name == "qwen2" else set())
    moved = [key for key in plain if key.endswith(".weight") and not torch.equal(plain[key], distilled[key])]
    assert all("norm" in key for key in moved)
    W8A8SCheckpoint(tmp_path / "distilled")


@pytest.mark.parametrize(
    ("name", "options", "activations"),
    [
        pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow)
        for case in itertools.product(MAKERS, ({}, WHOLE), ("static", "overflow", "per-token", "dynamic"))
    ],
    ids=lambda value: value if isinstance(value, str) else "whole" if value else "linears",
)
def test_the_student_computes_what_the_directory_does(
    name: str, options: dict[str, object], activations: str, calibration: Path, tmp_path: Path
) -> None:
    """Once trained too: a moved bias and a moved scale are stored as what was trained."""
    source = FloatCheckpoint(MAKERS[name](tmp_path / "float", heads=4, kv_heads=2))
    quantize(source.path, tmp_path / "out", calibration, 0, activations=activations, **options)
    made = W8A8SCheckpoint(tmp_path / "out")
    collected = CollectedModel(activations, made.shares_table)
    for prefix in made.quantized_linears():
        collected.add_linear(prefix, made.linear(prefix))
    for norm in (n for n in made.float_names() if "norm" in n):
        collected.add_float(norm, made.float_tensor(norm))
    if options:
        collected.add_embedding(made.embedding())
    decoder = LayerwiseDecoder(source, torch.device("cpu"))
    student = Student(decoder, collected)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in student.named_parameters():
            # Halved gains are exact in float16. Rounded ones would move activations to their neighbours.
            random = 0.05 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(torch.full_like(random, 0.5).log() if key.endswith("log_gain") else random)
        states = student.states(embed(decoder, collected, TOKENS))
        found = student.logits(states)

    with W8A8SWriter(tmp_path / "trained", source, dtype="float16", description={"activations": activations}) as writer:
        trained = student.collected(torch.float16)
        trained.write(writer)
        for other in made.float_names():
            if "norm" not in other:
                writer.add_float(other, made.float_tensor(other))
    with torch.inference_mode():
        expected = reference_model(source.path, tmp_path / "trained")(TOKENS).logits
        stored = Student(decoder, trained)
        same = stored.logits(stored.states(embed(decoder, trained, TOKENS)))
    # The same but for the order of sums. An activation halfway between two integers may round to the other one, which
    # the tokens after it see.
    errors = (same - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert errors.quantile(0.1) < 1e-6
    assert errors.max() < 0.05
    # Biases are rounded to steps of the sums, so that more activations round to their neighbours.
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_the_head_that_is_the_embedding_too_keeps_its_scales(calibration: Path, tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float", tied=True)
    quantize(source, tmp_path / "plain", calibration, 0, head=True, embeddings=True)

    report = quantize(source, tmp_path / "distilled", calibration, 6, head=True, embeddings=True)

    assert report.distillation is not None
    assert report.distillation.kept
    plain, distilled = tensors(tmp_path / "plain"), tensors(tmp_path / "distilled")
    assert torch.equal(plain["lm_head.deq_scale"], distilled["lm_head.deq_scale"])


def test_the_same_seed_gives_the_same_tensors(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        quantize(tiny_qwen3, tmp_path / name, calibration, 3)

    first, second = tensors(tmp_path / "first"), tensors(tmp_path / "second")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_makes_it_worse_is_dropped(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(tiny_qwen3, tmp_path / "plain", calibration, 0)
    monkeypatch.setattr("tilepress.quantize.distillation.train.LEARNING_RATE", 1.0)

    report = quantize(tiny_qwen3, tmp_path / "distilled", calibration, 3)

    assert report.distillation is not None
    assert not report.distillation.kept
    plain, distilled = tensors(tmp_path / "plain"), tensors(tmp_path / "distilled")
    assert all(torch.equal(plain[key], distilled[key]) for key in plain)


def test_progress_counts_its_steps(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    recipe = Recipe(samples=6, sequence_length=64, distill_steps=2)
    quantize_checkpoint(
        FloatCheckpoint(tiny_qwen3), tmp_path / "out", recipe, calibration=calibration, progress=seen.append
    )
    assert [(p.done, p.total) for p in seen] == [(i, 8) for i in range(1, 9)]


def test_one_sequence_is_too_few(tiny_qwen3: Path, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("A text of one sequence, not more than that.", encoding="utf-8")

    with pytest.raises(QuantizationError, match="only one sequence"):
        quantize(tiny_qwen3, tmp_path / "out", text, 3)
    assert not (tmp_path / "out").exists()


def test_fewer_steps_than_none_are_refused() -> None:
    with pytest.raises(UsageError, match="distill_steps is -1"):
        Recipe(distill_steps=-1)


def test_the_learning_rate_rises_to_its_full_value_and_falls_towards_zero() -> None:
    rates = [learning_rate(step, 40) for step in range(40)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert 0 < rates[-1] < 0.01
