"""Training the integers of a quantized model, layer by layer, against the float model's layers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tilepress import codec
from tilepress.checkpoint import FloatCheckpoint, QuantizedLinear, W8A8SCheckpoint
from tilepress.errors import QuantizationError, UsageError
from tilepress.quantize import Progress, QuantizationReport, Recipe, quantize_checkpoint
from tilepress.quantize.distillation.blocks import IntegerLinear, windows_of
from tiny_models import make_tiny_llama, make_tiny_qwen2, make_tiny_qwen3


@pytest.fixture(autouse=True)
def few_tokens_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few that their gradients are as noisy as a real model's of 512."""
    monkeypatch.setattr("tilepress.quantize.distillation.blocks.TOKENS", 64)


MAKERS = {"qwen3": make_tiny_qwen3, "qwen2": make_tiny_qwen2, "llama": make_tiny_llama}
CPU = torch.device("cpu")


def quantize(source: Path, out: Path, calibration: Path, steps: int, **options: Any) -> QuantizationReport:
    progress = options.pop("progress", None)
    settings = {"samples": 96, "sequence_length": 64, "bits": 2.5, "distill_steps": 0} | options
    recipe = Recipe(block_steps=steps, **settings)
    return quantize_checkpoint(FloatCheckpoint(source), out, recipe, calibration=calibration, progress=progress)


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "quant_model_weight_w8a8s.safetensors")


def entropy_coded_bits(integers: dict[str, torch.Tensor]) -> int:
    return sum(8 * codec.encode_entropy(matrix.numpy()).weight.nbytes for matrix in integers.values())


@pytest.mark.parametrize(
    ("name", "activations"), [("qwen3", "dynamic"), ("qwen2", "dynamic"), ("llama", "dynamic"), ("qwen2", "static")]
)
def test_layers_come_nearer_to_the_float_models_at_the_same_bits(
    name: str, activations: str, calibration: Path, tmp_path: Path
) -> None:
    source = MAKERS[name](tmp_path / "float", heads=4, kv_heads=2)
    options = {"activations": activations, "head": True, "embeddings": True}
    quantize(source, tmp_path / "rounded", calibration, 0, **options)

    report = quantize(source, tmp_path / "trained", calibration, 96, **options)

    assert report.blocks is not None
    assert any(report.blocks.kept)
    assert report.blocks.ratio < 0.97
    rounded, trained = tensors(tmp_path / "rounded"), tensors(tmp_path / "trained")
    integers = {key: matrix for key, matrix in rounded.items() if ".layers." in key and matrix.dim() == 2}
    moves = torch.cat([(trained[key].int() - matrix).abs().flatten() for key, matrix in integers.items()])
    assert 0.001 < float((moves > 0).float().mean()) < 0.2
    assert int(moves.max()) <= 2
    ratio = entropy_coded_bits({key: trained[key] for key in integers}) / entropy_coded_bits(integers)
    assert ratio == pytest.approx(1, abs=0.01)
    for key in rounded.keys() - integers.keys():
        if key.endswith("deq_scale"):  # a row that became zero has only its bias to scale
            left = trained[key.replace("deq_scale", "weight")].any(dim=1)
            torch.testing.assert_close(trained[key][left].float(), rounded[key][left].float())
        else:
            assert key.endswith("quant_bias") or torch.equal(rounded[key], trained[key]), key
    W8A8SCheckpoint(tmp_path / "trained")


def test_interrupted_after_any_layer_it_ends_in_the_same_bytes(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path
) -> None:
    quantize(tiny_qwen3, tmp_path / "undisturbed", calibration, 24)

    stopped = []

    def stop(progress: Progress) -> None:
        if progress.done >= progress.total - 1:
            stopped.append(time.monotonic() - started)
            raise KeyboardInterrupt

    started = time.monotonic()

    with pytest.raises(KeyboardInterrupt):
        quantize(tiny_qwen3, tmp_path / "out", calibration, 24, progress=stop)
    report = quantize(tiny_qwen3, tmp_path / "out", calibration, 24)

    assert report.blocks is not None
    assert len(report.blocks.kept) == 2
    assert report.seconds > stopped[0], "what was spent before counts"
    for key, tensor in tensors(tmp_path / "undisturbed").items():
        assert torch.equal(tensors(tmp_path / "out")[key], tensor), key


def test_a_layer_that_does_not_come_nearer_keeps_its_integers(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one whose integers are sent far away."""
    quantize(tiny_qwen3, tmp_path / "rounded", calibration, 0)
    monkeypatch.setattr("tilepress.quantize.distillation.blocks.REACH", 50.0)

    report = quantize(tiny_qwen3, tmp_path / "trained", calibration, 16)

    assert report.blocks is not None
    assert report.blocks.kept == [False, False]
    assert report.blocks.ratio == 1.0
    for key, tensor in tensors(tmp_path / "rounded").items():
        assert torch.equal(tensors(tmp_path / "trained")[key], tensor), key


def test_a_model_that_does_not_come_nearer_keeps_all_its_integers(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(tiny_qwen3, tmp_path / "rounded", calibration, 0)
    losses = iter([0.5, 0.6])
    monkeypatch.setattr("tilepress.quantize.distillation.blocks.mean_loss", lambda *_: next(losses))

    report = quantize(tiny_qwen3, tmp_path / "trained", calibration, 96)

    assert report.blocks is not None
    assert any(report.blocks.kept)
    assert (report.blocks.loss_before, report.blocks.loss_after) == (0.5, 0.6)
    assert not report.blocks.taken
    for key, tensor in tensors(tmp_path / "rounded").items():
        assert torch.equal(tensors(tmp_path / "trained")[key], tensor), key


def test_the_divergence_is_measured_before_and_after(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    """Of the held-back sequences, as distillation measures it, which begins where this training ends."""
    report = quantize(tiny_qwen3, tmp_path / "out", calibration, 96, distill_steps=1)
    assert report.blocks is not None
    assert report.distillation is not None
    last = report.blocks.loss_after if report.blocks.taken else report.blocks.loss_before
    assert report.distillation.loss_before == pytest.approx(last, rel=1e-5)


def test_long_sequences_are_cut_into_windows(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    tokens = torch.arange(2 * 150).view(2, 150)
    assert windows_of(tokens).tolist() == [list(range(s, s + 64)) for s in (0, 64, 150, 214)]
    assert windows_of(tokens[:, :50]).tolist() == tokens[:, :50].tolist()
    report = quantize(tiny_qwen3, tmp_path / "out", calibration, 8, samples=16, sequence_length=150)
    assert report.blocks is not None
    assert report.blocks.steps == 8


def test_the_largest_seed(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    report = quantize(tiny_qwen3, tmp_path / "out", calibration, 2, samples=8, seed=2**64 - 1)
    assert report.blocks is not None


def test_values_that_became_zero_are_told_of_after_training(calibration: Path, tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float")
    weights = load_file(source / "model.safetensors")
    for norm in ("model.layers.1.self_attn.q_norm.weight", "model.norm.weight"):
        weights[norm] = weights[norm].float()
        weights[norm][3] = 1e-12
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    for steps in (0, 2):
        with pytest.warns(UserWarning, match="2 values of 2 tensors became 0 in float16"):
            quantize(source, tmp_path / str(steps), calibration, steps, samples=8)


def random_linear(offset: int) -> QuantizedLinear:
    generator = torch.Generator().manual_seed(0)
    return QuantizedLinear(
        weight=torch.randint(-8, 9, (6, 16), dtype=torch.int8, generator=generator),
        input_scale=0.125,
        input_offset=offset,
        deq_scale=torch.rand(6, generator=generator) / 64,
        quant_bias=torch.randint(-500, 500, (6,), dtype=torch.int32, generator=generator),
    )


def computed(linear: QuantizedLinear, x: torch.Tensor) -> torch.Tensor:
    quantized = (torch.round(x / linear.input_scale) + linear.input_offset).clamp(-128, 127)
    return (quantized @ linear.weight.float().T + linear.quant_bias) * linear.deq_scale


@pytest.mark.parametrize("offset", [0, -17])
def test_a_trained_linear_computes_what_is_stored_of_it(offset: int) -> None:
    linear, x = random_linear(offset), torch.linspace(-9, 9, 48).view(3, 16)
    trained = IntegerLinear(linear, dynamic=False, device=CPU)
    torch.testing.assert_close(trained(x), computed(linear, x), atol=1e-4, rtol=1e-5)
    with torch.no_grad():
        trained.latent += torch.where(torch.arange(16) % 3 == 0, 0.7, -0.2)
        trained.latent[2] = 0.1  # a whole row becomes zero
        trained.latent[0, 0], trained.latent[0, 1] = 300.0, -300.0

    stored = trained.moved("layer")

    assert stored.weight[0, :2].tolist() == [127, -128]
    assert torch.equal(stored.weight[1, 3:6], linear.weight[1, 3:6] + torch.tensor([1, 0, 0], dtype=torch.int8))
    torch.testing.assert_close(computed(stored, x), trained(x), atol=2e-2, rtol=1e-5)


def test_the_gradient_is_that_of_the_weights() -> None:
    linear, x = random_linear(0), torch.linspace(-3, 3, 32).view(2, 16)
    trained = IntegerLinear(linear, dynamic=False, device=CPU)
    trained(x).sum().backward()
    step = torch.round(x / linear.input_scale) * linear.input_scale
    expected = linear.weight_scale()[:, None] * step.sum(dim=0)
    torch.testing.assert_close(trained.latent.grad, expected)


def test_a_number_of_steps_below_zero() -> None:
    with pytest.raises(UsageError, match="block_steps is -1"):
        Recipe(block_steps=-1)


def test_too_little_text_to_check_the_result(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text(calibration.read_text()[:90])
    with pytest.raises(QuantizationError, match=r"fills only one sequence.*--distill-steps 0 --block-steps 0"):
        quantize(tiny_qwen3, tmp_path / "out", short, 16)
