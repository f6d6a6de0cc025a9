"""Running a model layer by layer gives what transformers gives for the whole model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tilepress.checkpoint import FloatCheckpoint
from tilepress.distributed.communicator import ALONE
from tilepress.errors import CheckpointError, QuantizationError
from tilepress.models.layer_inputs import FEEDS, LINEARS
from tilepress.quantize.layerwise.decoder import LayerwiseDecoder
from tilepress.quantize.statistics import sensitivity as sensitivity_module
from tilepress.quantize.statistics.input_statistics import StatisticsCollector
from tilepress.quantize.statistics.sensitivity import gradient_of_sampled_loss, layer_sensitivity
from tiny_models import make_tiny_llama, make_tiny_mistral, make_tiny_qwen2, make_tiny_qwen3

TOKENS = torch.randint(0, 256, (3, 40), generator=torch.Generator().manual_seed(0))


def layer_inputs(decoder: LayerwiseDecoder, tokens: torch.Tensor) -> list[torch.Tensor]:
    states = [decoder.embed(tokens)]
    arguments = decoder.layer_arguments(tokens.shape[1])
    for index in range(decoder.layers):
        with decoder.layer(index) as layer:
            states.append(layer(states[-1], **arguments[index]))
    return states


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("make", [make_tiny_qwen3, make_tiny_qwen2, make_tiny_llama, make_tiny_mistral])
def test_logits_are_those_of_the_whole_model(make: object, tied: bool, tmp_path: Path) -> None:
    path = make(tmp_path / "model", tied=tied, heads=4, kv_heads=2)  # type: ignore[operator]
    decoder = LayerwiseDecoder(FloatCheckpoint(path), torch.device("cpu"))

    logits = decoder.head()(layer_inputs(decoder, TOKENS)[-1])

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(TOKENS).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [8, None])
def test_hidden_states_behind_a_sliding_window_are_those_of_the_whole_model(window: int | None, tmp_path: Path) -> None:
    path = make_tiny_mistral(tmp_path / "model", sliding_window=window)
    tokens = torch.randint(0, 256, (2, 64), generator=torch.Generator().manual_seed(0))

    *inputs, _ = layer_inputs(LayerwiseDecoder(FloatCheckpoint(path), torch.device("cpu")), tokens)

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        expected = model.model(tokens, output_hidden_states=True).hidden_states
    for found, of_model in zip(inputs, expected[:-1], strict=True):
        torch.testing.assert_close(found, of_model)


@pytest.mark.parametrize("positions", [128, 16], ids=["whole sequences", "parts of the logits"])
def test_sensitivities_are_the_products_of_gradients_of_the_whole_model(
    tiny_qwen3: Path, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same labels, gradients by autograd through the whole model."""
    monkeypatch.setattr(sensitivity_module, "POSITIONS", positions)
    decoder = LayerwiseDecoder(FloatCheckpoint(tiny_qwen3), torch.device("cpu"))
    *inputs, final = layer_inputs(decoder, TOKENS)
    found, of_inputs = {}, {}
    generator = torch.Generator().manual_seed(5)
    gradient = gradient_of_sampled_loss(decoder, torch.split(final, 1), final.shape[1], generator)
    arguments = decoder.layer_arguments(TOKENS.shape[1])
    for index in (1, 0):
        sequences = torch.split(inputs[index], 1)
        with layer_sensitivity(decoder, index, sequences, arguments[index], gradient, generator) as seen:
            found[index], of_inputs[index] = seen.fisher, seen.of_input

    model = AutoModelForCausalLM.from_pretrained(tiny_qwen3, dtype=torch.float32)
    outputs: dict[str, torch.Tensor] = {}
    for index in range(2):
        for name in LINEARS:

            def keep(_: object, __: object, output: torch.Tensor, key: str = f"{index}.{name}") -> None:
                output.retain_grad()
                outputs[key] = output

            model.model.layers[index].get_submodule(name).register_forward_hook(keep)
    embedded = model.model.embed_tokens(TOKENS)
    embedded.retain_grad()
    logits = model(inputs_embeds=embedded).logits
    generator = torch.Generator().manual_seed(5)
    cumulative = logits.detach().double().softmax(-1).cumsum(-1)
    drawn = torch.stack([torch.rand(40, 1, generator=generator, dtype=torch.float64) for _ in range(3)])
    labels = torch.searchsorted(cumulative, drawn)[..., 0]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()

    for index in range(2):
        for feed in FEEDS:
            gradients = [outputs[f"{index}.{name}"].grad.flatten(0, 1) for name in feed.consumers]
            of_each = [gradient.T @ gradient / len(gradient) for gradient in gradients]
            whole = torch.block_diag(*of_each)  # outputs of different linears are taken as independent
            for number, block in enumerate(found[index][feed.name]):
                rows = slice(128 * number, 128 * (number + 1))
                expected = torch.zeros(128, 128)
                expected[: len(whole[rows]), : len(whole[rows])] = whole[rows, rows]
                torch.testing.assert_close(block, expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(of_inputs[0], embedded.grad.square().mean(dim=-1), rtol=1e-3, atol=1e-6)


def test_tokens_that_are_not_counted_leave_no_gradients(tiny_qwen3: Path) -> None:
    decoder = LayerwiseDecoder(FloatCheckpoint(tiny_qwen3), torch.device("cpu"))
    *inputs, final = layer_inputs(decoder, TOKENS)
    generator = torch.Generator().manual_seed(5)
    whole = gradient_of_sampled_loss(decoder, torch.split(final, 1), final.shape[1], generator)
    arguments = decoder.layer_arguments(TOKENS.shape[1])[1]
    counted = torch.ones(TOKENS.shape, dtype=torch.bool)
    counted[0, 3:], counted[1] = False, False

    def fisher(*mask: torch.Tensor) -> torch.Tensor:
        sequences = torch.split(inputs[1], 1)
        with layer_sensitivity(decoder, 1, sequences, arguments, whole.clone(), generator, ALONE, *mask) as seen:
            return seen.fisher["down"]

    # The outputs of down_proj are added to the layer's: their gradients are those that are passed.
    of_counted = whole[counted]
    torch.testing.assert_close(fisher(counted)[0, :64, :64], of_counted.T @ of_counted / len(of_counted))
    assert torch.equal(fisher(counted | True), fisher())


def test_statistics_are_those_of_all_tokens(tiny_qwen3: Path) -> None:
    decoder = LayerwiseDecoder(FloatCheckpoint(tiny_qwen3), torch.device("cpu"))
    hidden = decoder.embed(TOKENS)
    arguments = decoder.layer_arguments(40)[0]
    seen = []
    with decoder.layer(0) as layer, StatisticsCollector(layer, 5, torch.Generator().manual_seed(0)) as collector:
        layer.self_attn.k_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].reshape(-1, 64)))
        for part in (hidden[:2], hidden[2:]):
            layer(part, **arguments)
    x = torch.cat(seen)

    statistics = collector.result()

    assert set(statistics) == {feed.name for feed in FEEDS}
    qkv = statistics["qkv"]
    torch.testing.assert_close(qkv.hessian, sum(torch.outer(token, token) for token in x) / len(x))
    torch.testing.assert_close(qkv.mean, x.mean(dim=0))
    assert torch.equal(qkv.high, x.amax(dim=0))
    torch.testing.assert_close(qkv.largest(), x.abs().amax(dim=0))
    assert torch.equal(qkv.low, x.amin(dim=0))
    assert qkv.rows.shape == (10, 64)
    assert all(any(torch.equal(row, token) for token in x) for row in qkv.rows)


def test_a_layer_holds_no_weights_once_it_is_left(tiny_qwen3: Path) -> None:
    decoder = LayerwiseDecoder(FloatCheckpoint(tiny_qwen3), torch.device("cpu"))
    with decoder.layer(0) as layer:
        assert layer.mlp.up_proj.weight.device.type == "cpu"
    assert layer.mlp.up_proj.weight.device.type == "meta"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, tmp_path: Path) -> None:
    path = make_tiny_qwen3(tmp_path / "model")
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 7] = value
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    decoder = LayerwiseDecoder(FloatCheckpoint(path), torch.device("cpu"))

    with pytest.raises(QuantizationError, match=r"model.layers.1.mlp.up_proj.weight: 1 of 8192 values"):
        layer_inputs(decoder, TOKENS)


def test_a_config_that_transformers_refuses_is_named(tmp_path: Path) -> None:
    path = make_tiny_llama(tmp_path / "model", heads=4, kv_heads=2, hidden=64)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(config | {"rms_norm_eps": "small"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"model/config\.json: transformers refuses it: .*rms_norm_eps"):
        LayerwiseDecoder(FloatCheckpoint(path), torch.device("cpu"))
