"""One token at a time gives what the model's own forward pass gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import tilepress
from quantized_models import make_w8a8s
from tilepress.engines.transformers import generate
from tilepress.engines.transformers.generation import decode_step
from tilepress.engines.transformers.generation.decode_step import DecodeStep
from tilepress.engines.transformers.generation.decoding_loop import effective_settings, is_plain
from tilepress.engines.transformers.generation.kv_cache import GrowingCache
from tiny_models import make_tiny_llama, make_tiny_mistral, make_tiny_qwen2, make_tiny_qwen3

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def tiny(tiny_w8a8s: Path) -> Loaded:
    return tilepress.load(tiny_w8a8s, kv="float32")


def assert_same_steps(model: PreTrainedModel, steps: int = 40) -> None:
    """Attention's sums differ in the last bits, which may turn the rounding of an activation."""
    assert DecodeStep.supports(model)
    ids = torch.randint(0, 256, (1, 20 + steps), generator=torch.Generator().manual_seed(1))
    own, cache = GrowingCache(), GrowingCache()
    with torch.inference_mode():
        step = DecodeStep(model)
        for past in (own, cache):
            model(ids[:, :20], past_key_values=past)
        for t in range(20, 20 + steps):
            token = ids[:, t : t + 1]
            expected = model(token, past_key_values=own).logits[:, -1]
            torch.testing.assert_close(step(token, cache), expected, atol=0.02, rtol=0.02)
    assert own.get_seq_length() == cache.get_seq_length() == 20 + steps


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (make_tiny_qwen3, {}),
        (make_tiny_qwen2, {"head_dim": 8}),
        (make_tiny_llama, {"tied": True}),
        (make_tiny_mistral, {"sliding_window": None}),
        (make_tiny_mistral, {"sliding_window": 24}),  # reached after four of the steps
    ],
    ids=["qwen3", "qwen2", "llama", "mistral", "mistral with a window"],
)
def test_every_architecture(make: Callable[..., Path], options: dict[str, object], tmp_path: Path) -> None:
    source = make(tmp_path / "float", **options)
    for directory in (source, make_w8a8s(source, tmp_path / "w8a8s")):
        assert_same_steps(tilepress.load(directory)[0])


def test_linears_left_float_and_norms_with_a_bias(tmp_path: Path) -> None:
    source = make_tiny_qwen2(tmp_path / "float", head_dim=8)
    kept = ["mlp.down_proj", *(f"model.layers.1.self_attn.{name}_proj" for name in "qkv")]
    bias = {"model.layers.0.input_layernorm.bias": torch.linspace(-0.5, 0.5, 64).half()}
    assert_same_steps(tilepress.load(make_w8a8s(source, tmp_path / "w8a8s", float_linears=kept, extra=bias))[0])


@pytest.mark.parametrize("make", [make_tiny_qwen3, make_tiny_mistral])
@pytest.mark.parametrize("options", [{}, {"head": True}, {"activations": "per-token", "narrow": 0.5}], ids=str)
def test_several_tokens_give_the_bits_of_one_at_a_time(
    make: Callable[..., Path], options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = tilepress.load(make_w8a8s(make(tmp_path / "float"), tmp_path / "w8a8s", **options))
    ids = torch.randint(0, 256, (1, 40), generator=torch.Generator().manual_seed(1))
    together, alone = GrowingCache(), GrowingCache()
    with torch.inference_mode():
        step = DecodeStep(model)
        for cache in (together, alone):
            model(ids[:, :20], past_key_values=cache)
        for start, end in ((20, 25), (25, 26), (26, 40)):
            logits = step(ids[:, start:end], together)
            expected = torch.cat([step(ids[:, t : t + 1], alone) for t in range(start, end)])
            assert torch.equal(logits, expected)
        prompt, whole = step.prompt(ids, GrowingCache()), GrowingCache()
        assert torch.equal(prompt, step(ids, whole)[-1:])
        monkeypatch.setattr(decode_step, "PROMPT_TOKENS", 16)
        parts = GrowingCache()
        assert torch.equal(step.prompt(ids, parts), prompt)
    for one, other in ((together, alone), (parts, whole)):
        for mine, yours in zip(one.layers, other.layers, strict=True):
            assert torch.equal(mine.keys, yours.keys)
            assert torch.equal(mine.values, yours.values)


@pytest.mark.parametrize("make", [make_tiny_qwen3, make_tiny_qwen2, make_tiny_llama, make_tiny_mistral])
def test_prompts_without_the_model_s_own_forward_pass(make: Callable[..., Path], tmp_path: Path) -> None:
    model, _ = tilepress.load(make_w8a8s(make(tmp_path / "float", head_dim=8), tmp_path / "w8a8s"))
    ids = torch.randint(0, 256, (1, 300), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        step = DecodeStep(model)
        assert step.takes_prompts
        expected = model(ids, use_cache=False).logits[:, -1]
        torch.testing.assert_close(step.prompt(ids, GrowingCache()), expected, atol=0.03, rtol=0.03)


def test_prompts_with_float_linears_go_through_the_model(tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float")
    assert not DecodeStep(tilepress.load(source)[0]).takes_prompts
    kept = ["model.layers.1.mlp.down_proj"]
    model, tokenizer = tilepress.load(make_w8a8s(source, tmp_path / "w8a8s", float_linears=kept))
    assert not DecodeStep(model).takes_prompts
    assert generate(model, tokenizer, "Hello", max_new_tokens=3, min_new_tokens=3).new_tokens == 3


@pytest.mark.parametrize("make", [make_tiny_qwen3, make_tiny_mistral])
def test_a_float_model_differs_in_the_last_bits_only(make: Callable[..., Path], tmp_path: Path) -> None:
    model, _ = tilepress.load(make(tmp_path / "float"))
    ids = torch.randint(0, 256, (1, 300), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        cache = GrowingCache()
        model(ids[:, :-1], past_key_values=cache)
        logits = DecodeStep(model)(ids[:, -1:], cache)
        expected = model(ids, use_cache=False).logits[:, -1]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_answers_are_those_of_transformers(tiny: Loaded) -> None:
    """Greedy and sampled, with options that look at scores and at earlier tokens."""
    model, tokenizer = tiny
    ids = tokenizer("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", return_tensors="pt")["input_ids"]
    for options in (
        {"repetition_penalty": 1.3},
        {"min_new_tokens": 20, "suppress_tokens": [10]},
        {"do_sample": True, "temperature": 2.0, "top_k": 40, "top_p": 0.9},
    ):
        assert is_plain(effective_settings(model, options), options)
        torch.manual_seed(7)
        answer = generate(model, tokenizer, "Hello", max_new_tokens=24, **options)
        torch.manual_seed(7)
        mask = torch.ones_like(ids)
        expected = model.generate(ids, attention_mask=mask, max_new_tokens=24, pad_token_id=258, **options)
        assert answer.tokens == tuple(expected[0, ids.shape[1] :].tolist()), options


def test_answers_of_other_loops_are_left_to_transformers(tiny: Loaded) -> None:
    model, _ = tiny
    assert is_plain(effective_settings(model, {}), {})
    for options in (
        {"num_beams": 2},
        {"prompt_lookup_num_tokens": 4},
        {"assistant_model": model},
        {"return_dict_in_generate": True},
        {"guidance_scale": 1.5},
        {"use_cache": False},
        {"negative_prompt_ids": torch.zeros(1, 1)},
    ):
        assert not is_plain(effective_settings(model, options), options), options


def test_models_that_have_to_be_called_as_they_are(tiny_w8a8s: Path, tmp_path: Path) -> None:
    model, tokenizer = tilepress.load(tiny_w8a8s)
    calls: list[int] = []
    hook = model.model.layers[1].mlp.register_forward_hook(lambda *_: calls.append(1))
    assert not DecodeStep.supports(model)
    generate(model, tokenizer, "Hello", max_new_tokens=4, min_new_tokens=4)
    assert len(calls) == 4
    hook.remove()
    assert DecodeStep.supports(model)
    assert not DecodeStep.supports(tilepress.load(tiny_w8a8s, dtype="bfloat16")[0])
    model.config.layer_types = ["full_attention", "sliding_attention"]
    assert not DecodeStep.supports(model)
    model.config.layer_types = ["full_attention"] * 2
    odd = make_tiny_llama(tmp_path / "odd", head_dim=12)
    assert not DecodeStep.supports(tilepress.load(odd)[0])
