"""Keys and values in float16 and int8."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tilepress
from tilepress.engines.transformers import PrefixCache, generate
from tilepress.engines.transformers.generation.cache_type import CacheType, cache_type
from tilepress.engines.transformers.generation.decode_step import DecodeStep
from tilepress.engines.transformers.generation.kv_cache import GrowingCache
from tilepress.errors import UsageError

# Of the largest magnitude in a row, what rounding may change.
ERRORS = {CacheType.float32: 0.0, CacheType.float16: 2**-11, CacheType.int8: 0.501 / 127}


@pytest.fixture(params=CacheType, ids=lambda kept: kept.name)
def kept(request: pytest.FixtureRequest) -> CacheType:
    return request.param


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_near(actual: torch.Tensor, expected: torch.Tensor, kept: CacheType, roundings: int = 1) -> None:
    assert actual.dtype == expected.dtype
    largest = expected.abs().amax(-1, keepdim=True)
    assert bool(((actual - expected).abs() <= roundings * ERRORS[kept] * largest).all())


def test_rows_come_back(kept: CacheType) -> None:
    expected = rows(3, 5, 16)
    expected[0, 0] = 0
    stored = kept.stored(expected)
    assert stored.dtype == kept.value
    assert stored.shape == (3, 5, kept.row(16))
    restored = kept.restored(stored, torch.float32)
    assert_near(restored, expected, kept)
    assert torch.equal(kept.stored(restored), stored), "rounding what is rounded changes nothing"


def test_float16_takes_numbers_beyond_its_range_as_its_largest() -> None:
    stored = CacheType.float16.stored(torch.tensor([1e6, -1e6]))
    assert stored.tolist() == [65504, -65504]


def test_updates_crops_and_choices_of_sequences(kept: CacheType) -> None:
    cache, parts = GrowingCache(kept), [rows(1, 2, n, 8, seed=n) for n in (5, 300, 1)]
    expected = parts[0]
    cache.update(parts[0], -parts[0], 0)
    for part in parts[1:]:
        keys, values = cache.update(part, -part, 0)
        expected = torch.cat([expected, part], dim=2)
        assert_near(keys, expected, kept)
        assert torch.equal(values, -keys)
    cache.crop(-4)
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.tensor([1, 0]))
    keys, _ = cache.update(*[rows(2, 2, 1, 8)] * 2, 0)
    assert cache.get_seq_length() == 303
    assert_near(keys[1:, :, :302], expected[:, :, :302], kept, roundings=2)


def test_a_native_step_reads_what_an_update_wrote_and_the_other_way_round(tiny_w8a8s: Path, kept: CacheType) -> None:
    model, _ = tilepress.load(tiny_w8a8s)
    ids = torch.randint(0, 256, (1, 60), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(ids).logits[0, 40:]
        step, cache = DecodeStep(model), GrowingCache(kept)
        model(ids[:, :40], past_key_values=cache)
        logits = step(ids[:, 40:50], cache)
        assert cache.layers[0].keys.dtype == torch.float32
        logits = torch.cat([logits, model(ids[:, 50:], past_key_values=cache).logits[0]])
    difference = (logits - expected).norm() / expected.norm()
    assert difference < (0.01 if kept is CacheType.float32 else 0.05)


def test_answers_with_each_type(tiny_w8a8s: Path, kept: CacheType) -> None:
    model, tokenizer = tilepress.load(tiny_w8a8s, kv=kept.name)
    assert cache_type(model) is kept
    cache = PrefixCache()
    alone = generate(model, tokenizer, "How tall is it?", max_new_tokens=8, min_new_tokens=8)
    for _ in range(2):
        again = generate(model, tokenizer, "How tall is it?", max_new_tokens=8, min_new_tokens=8, cache=cache)
        assert again.tokens == alone.tokens
    assert again.cached_tokens == again.prompt_tokens - 1
    beams = generate(model, tokenizer, "How tall?", max_new_tokens=4, num_beams=2, cache=cache)
    assert beams.new_tokens > 0


def test_what_is_taken_unasked(tiny_w8a8s: Path, tiny_qwen3: Path) -> None:
    assert cache_type(tilepress.load(tiny_w8a8s)[0]) is CacheType.float16
    assert cache_type(tilepress.load(tiny_w8a8s, dtype="bfloat16")[0]) is None
    assert cache_type(tilepress.load(tiny_qwen3)[0]) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_torch_s_default_type_does_not_matter(tiny_w8a8s: Path, dtype: torch.dtype) -> None:
    model, tokenizer = tilepress.load(tiny_w8a8s)
    expected = generate(model, tokenizer, "How tall is it?", max_new_tokens=8, min_new_tokens=8)
    torch.set_default_dtype(dtype)
    try:
        actual = generate(model, tokenizer, "How tall is it?", max_new_tokens=8, min_new_tokens=8)
    finally:
        torch.set_default_dtype(torch.float32)
    assert actual.tokens == expected.tokens


def test_caches_of_several_sequences_or_of_another_model(tiny_w8a8s: Path, tiny_qwen3: Path, kept: CacheType) -> None:
    model, _ = tilepress.load(tiny_w8a8s)
    ids = torch.randint(0, 256, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        step, cache = DecodeStep(model), GrowingCache(kept)
        model(ids[:, :30].repeat(3, 1), past_key_values=cache)
        with pytest.raises(UsageError, match="keys and values of several sequences or of another model"):
            step(ids[:, 30:], cache)
        cache.batch_select_indices(slice(0, 1))
        alone = GrowingCache(kept)
        model(ids[:, :30], past_key_values=alone)
        torch.testing.assert_close(step(ids[:, 30:], cache), step(ids[:, 30:], alone), atol=0.05, rtol=0.05)
        other = GrowingCache(kept)
        other.update(rows(1, 3, 4, 8), rows(1, 3, 4, 8), 0)
        with pytest.raises(UsageError, match="of another model"):
            step(ids, other)


def test_rows_that_are_not_finite_stay_so() -> None:
    broken = rows(3, 8)
    broken[0, 2], broken[1, 3] = torch.nan, torch.inf
    restored = CacheType.int8.restored(CacheType.int8.stored(broken), torch.float32)
    assert restored[:2].isnan().all()
    assert restored[2].isfinite().all()


def test_types_that_cannot_be_had(tiny_w8a8s: Path) -> None:
    with pytest.raises(UsageError, match="--kv int4: use one of float32, float16, int8"):
        tilepress.load(tiny_w8a8s, kv="int4")
    with pytest.raises(UsageError, match=r"--kv int8: .* leave it out for Qwen3ForCausalLM in bfloat16 on cpu"):
        tilepress.load(tiny_w8a8s, dtype="bfloat16", kv="int8")
