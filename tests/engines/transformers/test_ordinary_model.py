"""A quantized model is an ordinary transformers model: converted, copied, compiled, trained through and adapted."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from reference_model import logits_of
from tilepress import load
from tilepress.compress import compress_directory
from tilepress.engines.transformers import generate
from tilepress.engines.transformers.generate import render

IDS = torch.arange(5, 25)[None]


@pytest.fixture(scope="module")
def directory(tiny_w8a8s: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ordinary") / "w8a8sc"
    compress_directory(tiny_w8a8s, out)
    return out


@pytest.fixture(params=["stored", "fast"])
def model(request: pytest.FixtureRequest, directory: Path) -> PreTrainedModel:
    return load(directory, resident=request.param)[0]


@pytest.mark.parametrize("convert", ["half", "bfloat16", "to"])
def test_a_converted_model_is_nearly_the_one_loaded_in_that_dtype(convert: str, directory: Path, model: Any) -> None:
    """Rotary frequencies become 16 bits too, as in any model of transformers; scales and integers stay."""
    scales = model.model.layers[0].mlp.down_proj.deq_scale.clone()
    dtype = torch.float16 if convert == "half" else torch.bfloat16
    converted = model.to(dtype) if convert == "to" else getattr(model, convert)()
    assert converted.dtype == dtype
    assert torch.equal(model.model.layers[0].mlp.down_proj.deq_scale, scales)
    for found, other in ((converted, load(directory, dtype=dtype)[0]), (converted.float(), load(directory)[0])):
        error = logits_of(found).float() - logits_of(other).float()
        assert float(error.norm() / logits_of(other).float().norm()) < 0.1


def gradient(model: PreTrainedModel) -> Tensor:
    embedded = model.get_input_embeddings()(IDS).detach().float().requires_grad_(True)
    model(inputs_embeds=embedded).logits.log_softmax(-1)[0, :, 7].sum().backward()
    assert embedded.grad is not None
    return embedded.grad


def test_gradients_pass_through_compressed_linears(model: PreTrainedModel, tiny_qwen3: Path) -> None:
    ours, exact = gradient(model), gradient(load(tiny_qwen3)[0])
    assert float(torch.cosine_similarity(ours.flatten(), exact.flatten(), 0)) > 0.9
    assert float(ours.norm() / exact.norm()) == pytest.approx(1, abs=0.3)


def test_the_gradient_of_a_linear_is_that_of_its_weight(model: Any) -> None:
    linear = model.model.layers[0].mlp.down_proj
    x = torch.randn(3, linear.in_features, generator=torch.Generator().manual_seed(0), requires_grad=True)
    dy = torch.randn(3, linear.out_features, generator=torch.Generator().manual_seed(1))
    linear(x).backward(dy)
    step = 0.5 * torch.eye(linear.in_features)
    weight = (linear(step).double() - linear(-step).double()).T  # rounding steps cancel nearly
    assert x.grad is not None
    cosine = torch.cosine_similarity(x.grad.flatten(), (dy.double() @ weight).float().flatten(), 0)
    assert float(cosine) > 0.99


def test_adapters_train_on_top(model: PreTrainedModel) -> None:
    before = logits_of(model)
    adapted: Any = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    assert torch.equal(logits_of(adapted), before)  # B is zero to begin with
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, 1e-2)
    losses = []
    for _ in range(8):
        loss = adapted(input_ids=IDS, labels=IDS).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert not torch.equal(logits_of(adapted), before)
    answered = adapted.generate(input_ids=IDS, max_new_tokens=3, do_sample=False)
    assert answered.shape == (1, IDS.shape[1] + 3)
    with adapted.disable_adapter():
        assert torch.equal(logits_of(adapted), before)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["down_proj"], "all-linear"])
def test_answers_have_the_adapters(targets: Any, directory: Path) -> None:
    """Those of generate too, which has a native path that knows none."""
    model, tokenizer = load(directory)
    plain = generate(model, tokenizer, "Hi", max_new_tokens=8, do_sample=False).tokens
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False, lora_alpha=64))
    assert not any("query_key_value" in name for name, _ in adapted.named_parameters())
    answer = generate(model, tokenizer, "Hi", max_new_tokens=8, do_sample=False).tokens
    prompt = render([{"role": "user", "content": "Hi"}], tokenizer)
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0, len(prompt) :]
    assert answer == tuple(expected.tolist()) != plain


def test_a_copy_computes_the_same_and_is_its_own(model: PreTrainedModel) -> None:
    other = copy.deepcopy(model)
    assert torch.equal(logits_of(other), logits_of(model))
    expected = logits_of(model)
    other.half()
    assert torch.equal(logits_of(model), expected)


def test_two_threads_use_one_model(model: PreTrainedModel) -> None:
    inputs = [torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    expected = [model(ids).logits for ids in inputs]
    found: list[list[Tensor]] = [[], []]

    def ask(number: int) -> None:
        with torch.no_grad():
            found[number] = [model(inputs[number]).logits for _ in range(20)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(2):
        assert all(torch.equal(logits, expected[number]) for logits in found[number])


@pytest.mark.slow  # torch imports its compiler
def test_a_compiled_model_computes_the_same(model: PreTrainedModel) -> None:
    with torch.no_grad():
        expected = model(IDS).logits
        compiled = torch.compile(model, backend="eager")
        torch.testing.assert_close(compiled(IDS).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"do_sample": True, "top_k": 5, "temperature": 0.7, "num_return_sequences": 2},
        {"cache_implementation": "static"},
        {"cache_implementation": "dynamic"},
        {"use_cache": False},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2},
        {"prompt_lookup_num_tokens": 3},
        {"output_scores": True, "return_dict_in_generate": True},
        {"num_beams": 4, "num_return_sequences": 2, "early_stopping": True},
    ],
    ids=str,
)
def test_generate_takes_transformers_options(options: dict[str, Any], directory: Path) -> None:
    """The options act as on the same model with float32 weights that are what the integers stand for."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    torch.manual_seed(0)
    found = model.generate(IDS, max_new_tokens=6, **options)
    tokens = found.sequences if options.get("return_dict_in_generate") else found
    assert tokens.shape == (options.get("num_return_sequences", 1), IDS.shape[1] + 6)
    assert torch.equal(tokens[:, : IDS.shape[1]], IDS.expand(len(tokens), -1))
    if not options.get("do_sample") and "num_beams" not in options and "repetition_penalty" not in options:
        assert torch.equal(tokens, model.generate(IDS, max_new_tokens=6, do_sample=False))


def test_generation_stops_at_a_string(directory: Path) -> None:
    model, tokenizer = load(directory)
    letters = tokenizer("abcdefghijklmnopqrstuvwxyz")["input_ids"]
    options = {"do_sample": False, "prefix_allowed_tokens_fn": lambda batch, ids: letters}
    whole = tokenizer.decode(model.generate(IDS, max_new_tokens=12, **options)[0, IDS.shape[1] :])
    stop = whole[3:5]
    stopped = model.generate(IDS, max_new_tokens=12, stop_strings=[stop], tokenizer=tokenizer, **options)
    assert tokenizer.decode(stopped[0, IDS.shape[1] :]) == whole[: whole.find(stop) + 2]
