"""transformers' loop over the tokens of one sequence, with `DecodeStep` in place of the model's forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation.candidate_generator import PromptLookupCandidateGenerator
from transformers.generation.configuration_utils import GenerationMode

from tilepress.engines.transformers.generation.decode_step import DecodeStep
from tilepress.engines.transformers.generation.kv_cache import GrowingCache
from tilepress.engines.transformers.generation.shared_step import own_threads, stream

# Tokens [1, n] behind those of the cache, which gets their keys and values, to logits [_, vocabulary].
Pass = Callable[[Tensor, GrowingCache], Tensor]

# Settings that this loop does not support, with the values that leave them off.
OTHER_LOOPS = {
    "num_return_sequences": (None, 1),
    "guidance_scale": (None, 1),
    "prefill_chunk_size": (None,),
    "cache_implementation": (None,),
    "return_dict_in_generate": (None, False),
    "token_healing": (None, False),
    "use_cache": (None, True),
}
# Arguments of `generate` that are not settings, and that transformers prepares before the loop.
PREPARED = {"logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn"}


def effective_settings(model: PreTrainedModel, options: Mapping[str, Any]) -> GenerationConfig:
    """Return the model's generation settings, replaced by those of the options of `generate` that are settings."""
    config = copy(model.generation_config)
    for name, value in options.items():
        if hasattr(config, name):
            setattr(config, name, value)
    return config


def is_plain(settings: GenerationConfig, options: Mapping[str, Any]) -> bool:
    """Return True if `generate` with these settings is greedy search or sampling of one sequence, without drafts.

    settings: `effective_settings` of the options.
    """
    if any(not hasattr(settings, name) for name in options.keys() - PREPARED):
        return False
    return settings.get_generation_mode() in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE) and all(
        getattr(settings, name, None) in values for name, values in OTHER_LOOPS.items()
    )


@dataclass
class Decoding:
    """The loop for `model.generate(custom_generate=...)`, which calls it with everything that it has prepared.

    draft_tokens: tokens drafted at a time, those that followed an earlier occurrence of the last two tokens, or else of
    the last one. One forward pass computes them with the next token; those that the model chooses too are accepted.
    generator: draws the tokens that are sampled; torch's own if None. drafted, accepted: counts.
    """

    cache: GrowingCache
    streamer: Any
    draft_tokens: int = 0
    generator: torch.Generator | None = None
    drafted: int = 0
    accepted: int = 0

    @torch.inference_mode()
    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Any,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **_: Any,
    ) -> Tensor:
        """Return input_ids [1, prompt] followed by the new tokens, drawn as transformers draws them.

        Tokens are drawn one by one, each from the logits after the one before it, so that drafts change neither the
        answer nor the random numbers.
        """
        ids = input_ids
        lookup = self._lookup(generation_config)
        draft = ids[:, :0]
        prompt = ids[:, self.cache.get_seq_length() :]
        with _passes(model) as (read_prompt, step):
            behind = iter([read_prompt(prompt, self.cache)])
            while True:
                for i, logits in enumerate(behind):
                    token = _draw(logits_processor, ids, logits, self.generator, sample=generation_config.do_sample)
                    ids = torch.cat([ids, token], dim=-1)
                    self.streamer.put(token[0])
                    accepted = i < draft.shape[1] and bool(token == draft[:, i])
                    self.accepted += accepted
                    if stopping_criteria(ids, None).all():
                        self.cache.keep(ids.shape[1] - 1)
                        self.streamer.end()
                        return ids
                    if not accepted:
                        break
                if lookup is not None:
                    self.cache.keep(ids.shape[1] - 1)
                    draft = lookup.get_candidates(ids)[0][:, ids.shape[1] : generation_config.max_length - 1]
                    self.drafted += draft.shape[1]
                behind = iter(torch.split(step(torch.cat([token, draft], dim=-1), self.cache), 1))

    def _lookup(self, config: GenerationConfig) -> PromptLookupCandidateGenerator | None:
        if not self.draft_tokens:
            return None
        return PromptLookupCandidateGenerator(
            eos_token_id=config._eos_token_tensor,
            num_output_tokens=self.draft_tokens,
            max_matching_ngram_size=config.max_matching_ngram_size or 2,
            max_length=config.max_length,
        )


def _draw(
    processor: LogitsProcessorList, ids: Any, logits: Any, generator: torch.Generator | None, *, sample: bool
) -> Tensor:
    """Return the next token [1, 1]. On one thread: torch's others spin for milliseconds when they have done their part.

    These are the cores that `DecodeStep` needs next.
    """
    with own_threads(1):
        scores = processor(ids, logits)
        if not sample:
            return scores.argmax(-1, keepdim=True)
        return torch.multinomial(torch.softmax(scores, -1), 1, generator=generator)


@contextmanager
def _passes(model: PreTrainedModel) -> Iterator[tuple[Pass, Pass]]:
    """Yield the forward pass for a prompt, of which it gives the last logits, and that for some tokens, of all logits.

    A stream's where `DecodeStep` supports the model, so that answers in several threads are computed together; else the
    model's own.
    """
    engine: Any = model

    def prompt(tokens: Tensor, cache: GrowingCache) -> Tensor:
        logits: Tensor = engine(tokens, past_key_values=cache, logits_to_keep=1).logits
        return logits[:, -1].float()

    def some(tokens: Tensor, cache: GrowingCache) -> Tensor:
        logits: Tensor = engine(tokens, past_key_values=cache).logits
        return logits[0].float()

    if not DecodeStep.supports(model):
        yield prompt, some
        return
    with stream(model) as own:

        def prompt_by_torch(tokens: Tensor, cache: GrowingCache) -> Tensor:
            with own.all_threads():
                return prompt(tokens, cache)

        yield own.prompt if own.takes_prompts else prompt_by_torch, own.step
