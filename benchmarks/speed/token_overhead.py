"""Where the time of one generated token goes in the transformers engine, beside the model's own forward pass.

Processor time of one thread, so that other work on the machine matters little: the fastest of many calls.
Usage: python -m benchmarks.speed.token_overhead W8A8SC_DIRECTORY [--past 128] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers.utils.logging import set_verbosity_error

import tilepress
from tilepress.engines.transformers import generate
from tilepress.engines.transformers.compressed_linear import CompressedLinear
from tilepress.engines.transformers.generation.cache_type import CacheType
from tilepress.engines.transformers.generation.decode_step import DecodeStep
from tilepress.engines.transformers.generation.kv_cache import GrowingCache

CALLS = 40
NEW_TOKENS = 33


def milliseconds(call: Callable[[], object], calls: int = CALLS) -> float:
    times = []
    for _ in range(calls):
        started = time.thread_time()
        call()
        times.append(time.thread_time() - started)
    return 1e3 * min(times)


def milliseconds_a_token(generate_tokens: Callable[[int], object]) -> float:
    """Of the tokens behind the first, loop included."""
    whole = milliseconds(lambda: generate_tokens(NEW_TOKENS), calls=3)
    return (whole - milliseconds(lambda: generate_tokens(1), calls=3)) / (NEW_TOKENS - 1)


def measure(model: Any, tokenizer: Any, past: int) -> dict[str, float]:
    ids = torch.randint(0, model.config.vocab_size, (1, past), generator=torch.Generator().manual_seed(0))
    token, hidden = ids[:, :1], torch.randn(1, 1, model.config.hidden_size)
    with torch.inference_mode():
        step, own = DecodeStep(model), GrowingCache()
        caches = {kept.name: GrowingCache(kept) for kept in CacheType}
        for cache in (own, *caches.values()):
            model(ids, past_key_values=cache)
        linears = [module for module in model.model.layers.modules() if isinstance(module, CompressedLinear)]
        inputs = {module.in_features: torch.randn(module.in_features) for module in linears}
        parts = {
            "the linears' kernel": milliseconds(lambda: [linear(inputs[linear.in_features]) for linear in linears]),
            "head": milliseconds(lambda: model.lm_head(hidden)),
            **{
                f"the step of tilepress, {name}": milliseconds(partial(step, token, cache))
                for name, cache in caches.items()
            },
            "the model's own forward": milliseconds(lambda: model(token, past_key_values=own)),
        }

    # No token ends the answer: min_new_tokens would cost 0.8 ms a token.
    sampling = {"do_sample": False, "eos_token_id": -1}

    def with_tilepress(count: int) -> object:
        return generate(model, tokenizer, "Hello", max_new_tokens=count, **sampling)

    def with_transformers(count: int) -> object:
        mask = torch.ones(1, 16)
        return model.generate(ids[:, :16], attention_mask=mask, max_new_tokens=count, pad_token_id=0, **sampling)

    return parts | {
        "generate of tilepress": milliseconds_a_token(with_tilepress),
        "generate of transformers": milliseconds_a_token(with_transformers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_path", metavar="W8A8SC_DIRECTORY")
    parser.add_argument("--past", type=int, default=128, help="tokens in the cache")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    set_verbosity_error()  # transformers warns of an end token that there is not
    result = measure(*tilepress.load(arguments.model_path), arguments.past)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:34}{value:8.2f} ms a token")


if __name__ == "__main__":
    main()
