"""The output head, quantized like any linear."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from reference_model import logits_of, reference_model
from tilepress.checkpoint import FloatCheckpoint, W8A8SCheckpoint
from tilepress.checkpoint.tensors.activation_mode import STATIC
from tilepress.quantize import Recipe, quantize_checkpoint
from tilepress.quantize.layerwise.decoder import LayerwiseDecoder
from tilepress.quantize.rounding import gptq
from tilepress.quantize.rounding.head import Head, fold_head, head_statistics, logit_sensitivity, quantize_head
from tiny_models import VOCABULARY, make_tiny_llama, make_tiny_qwen3


@pytest.fixture
def decoder(tiny_qwen3: Path) -> LayerwiseDecoder:
    return LayerwiseDecoder(FloatCheckpoint(tiny_qwen3), torch.device("cpu"))


@pytest.fixture
def hidden() -> torch.Tensor:
    """What the last layer gives, [sequences, length, hidden], one channel far larger than the others."""
    states = torch.randn(4, 40, 64, generator=torch.Generator().manual_seed(0))
    states[:, :, 5] *= 20
    return states


@pytest.fixture
def folded(decoder: LayerwiseDecoder, hidden: torch.Tensor) -> Head:
    seen = head_statistics(decoder, torch.split(hidden, 1), 40, 16, torch.Generator().manual_seed(0))
    sensitivity = logit_sensitivity(decoder, torch.split(hidden, 1))
    return fold_head(decoder, seen, sensitivity, 0.01, torch.float16, shared=False, activations=STATIC)


def test_the_fold_changes_nothing(folded: Head, decoder: LayerwiseDecoder, hidden: torch.Tensor) -> None:
    weight = torch.cat(list(folded.blocks()))
    after = torch.nn.functional.rms_norm(hidden, (64,), folded.gain, 1e-6) @ weight.T
    torch.testing.assert_close(after, decoder.head()(hidden), rtol=1e-3, atol=1e-3)
    assert torch.equal(folded.gain, folded.gain.half().float())
    assert float((folded.scales - 1).abs().max()) > 0.1


def test_sensitivity_is_the_mean_squared_gradient_over_the_models_own_labels(
    decoder: LayerwiseDecoder, hidden: torch.Tensor
) -> None:
    p = decoder.head()(hidden).softmax(dim=-1).reshape(-1, VOCABULARY)
    gradient_for_each_label = p[:, None, :] - torch.eye(VOCABULARY)  # [tokens, labels, logits]
    expected = torch.einsum("tl,tlv->v", p, gradient_for_each_label.square()) / len(p)
    torch.testing.assert_close(logit_sensitivity(decoder, torch.split(hidden, 1)), expected)


def test_tokens_that_the_text_never_asks_for_keep_fine_steps(decoder: LayerwiseDecoder, hidden: torch.Tensor) -> None:
    of_one_token = torch.zeros(VOCABULARY)
    of_one_token[7] = 1.0
    seen = head_statistics(decoder, torch.split(hidden, 1), 40, 16, torch.Generator().manual_seed(0))
    head = fold_head(decoder, seen, of_one_token, 0.01, torch.float16, shared=False, activations=STATIC)
    relative = head.sample(torch.Generator().manual_seed(0)).relative
    assert float(relative.max() / relative[7]) == pytest.approx((1.0 + VOCABULARY) ** 0.5, rel=0.02)


def test_blocks_of_rows_change_nothing(folded: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = folded.sample(torch.Generator().manual_seed(0))
    whole, of_whole = quantize_head(folded, sample, 4.0, "overflow", torch.float16, sweeps=3)
    monkeypatch.setattr(gptq, "ROWS", 128)
    blocks, of_blocks = quantize_head(folded, sample, 4.0, "overflow", torch.float16, sweeps=3)
    assert torch.equal(whole.weight, blocks.weight)
    assert torch.equal(whole.deq_scale, blocks.deq_scale)
    assert torch.equal(whole.quant_bias, blocks.quant_bias)
    assert of_whole.relative_error == pytest.approx(of_blocks.relative_error)
    assert of_whole.bits == of_blocks.bits == pytest.approx(4.0, abs=0.3)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("make", [make_tiny_qwen3, make_tiny_llama])
def test_a_whole_model_with_its_head(make, tied: bool, calibration: Path, tmp_path: Path) -> None:
    source = make(tmp_path / "float", tied=tied)
    recipe = Recipe(bits=6.0, head=True, samples=6, sequence_length=64)
    report = quantize_checkpoint(FloatCheckpoint(source), tmp_path / "out", recipe, calibration=calibration)

    made = W8A8SCheckpoint(tmp_path / "out")
    assert made.is_quantized("lm_head")
    assert report.linears[-1].name == "lm_head"
    assert report.linears[-1].weights == VOCABULARY * 64
    assert report.bits == pytest.approx(6.0, abs=0.3)
    embedding = "model.embed_tokens.weight"
    assert torch.equal(made.float_tensor(embedding), FloatCheckpoint(source).tensor(embedding))
    exact = logits_of(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval())
    quantized = logits_of(reference_model(source, tmp_path / "out"))
    assert float((quantized - exact).std() / exact.std()) < 0.2


def test_without_it_the_head_stays_float(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    recipe = Recipe(samples=4, sequence_length=64)
    report = quantize_checkpoint(FloatCheckpoint(tiny_qwen3), tmp_path / "out", recipe, calibration=calibration)
    assert not W8A8SCheckpoint(tmp_path / "out").is_quantized("lm_head")
    assert "lm_head" not in {linear.name for linear in report.linears}
