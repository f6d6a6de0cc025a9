"""The growing cache gives what transformers' own dynamic cache gives."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from tilepress.engines.transformers.generation.kv_cache import SPARE_TOKENS, GrowingCache


def states(tokens: int, seed: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 2, tokens, 8)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def assert_same(one: GrowingCache, other: DynamicCache) -> None:
    assert one.get_seq_length() == other.get_seq_length()
    for mine, theirs in zip(one.layers, other.layers, strict=True):
        assert torch.equal(mine.keys, theirs.keys)
        assert torch.equal(mine.values, theirs.values)


def test_updates_and_crops_are_those_of_the_dynamic_cache() -> None:
    growing, dynamic = GrowingCache(), DynamicCache()
    for step, tokens in enumerate((5, 1, 1, SPARE_TOKENS, 1, 900)):
        for layer in range(2):
            returned = growing.update(*states(tokens, 10 * step + layer), layer)
            expected = dynamic.update(*states(tokens, 10 * step + layer), layer)
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(returned, expected, strict=True))
        if step in (1, 4):
            growing.crop(-3)
            dynamic.crop(-3)
    assert_same(growing, dynamic)


def test_a_token_is_written_in_place_while_there_is_room() -> None:
    cache = GrowingCache()
    cache.update(*states(4, 0), 0)
    (layer,) = cache.layers
    address = layer.keys.data_ptr()
    for _ in range(SPARE_TOKENS):
        cache.update(*states(1, 1), 0)
    assert layer.keys.data_ptr() == address
    cache.update(*states(1, 2), 0)
    assert layer.keys.data_ptr() != address


def test_sequences_that_transformers_repeats_or_chooses() -> None:
    """As in beam search: views are replaced by tensors outside the buffer."""
    growing, dynamic = GrowingCache(), DynamicCache()
    for cache in (growing, dynamic):
        cache.update(*states(4, 0), 0)
        cache.batch_repeat_interleave(3)
        cache.update(*states(2, 1, batch=3), 0)
        cache.reorder_cache(torch.tensor([2, 0, 0]))
        cache.update(*states(1, 2, batch=3), 0)
        cache.batch_select_indices(torch.tensor([1]))
        cache.update(*states(1, 3), 0)
    assert_same(growing, dynamic)


def test_a_cache_filled_in_inference_mode_can_be_extended_outside() -> None:
    cache = GrowingCache()
    with torch.inference_mode():
        cache.update(*states(4, 0), 0)
    cache.update(*states(1, 1), 0)
    assert cache.get_seq_length() == 5


def test_keeping_the_first_tokens() -> None:
    cache = GrowingCache()
    cache.keep(0)
    keys, _ = states(6, 0)
    cache.update(*states(6, 0), 0)
    for tokens in (6, 4, 4, 0):
        cache.keep(tokens)
        assert cache.get_seq_length() == tokens
        assert torch.equal(cache.layers[0].keys, keys[:, :, :tokens])
