"""transformers' loop over the tokens of one sequence, with `DecodeStep` in place of the model's forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation.configuration_utils import GenerationMode

from tilepress.engines.transformers.decode_step import DecodeStep
from tilepress.engines.transformers.growing_cache import GrowingCache

# What this loop does not do, and the values with which it is not asked to.
OTHER_LOOPS = {
    "num_return_sequences": (None, 1),
    "guidance_scale": (None, 1),
    "prefill_chunk_size": (None,),
    "cache_implementation": (None,),
    "return_dict_in_generate": (None, False),
    "token_healing": (None, False),
    "use_cache": (None, True),
}
# Arguments of `generate` beside the options of its configuration that are prepared before the loop.
PREPARED = {"logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn"}


def is_plain(model: PreTrainedModel, options: Mapping[str, Any]) -> bool:
    """Whether `model.generate(**options)` is greedy search or sampling of one sequence: no beams, no drafts."""
    config = copy(model.generation_config)
    for name in options.keys() - PREPARED:
        if not hasattr(config, name):
            return False
        setattr(config, name, options[name])
    return config.get_generation_mode() in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE) and all(
        getattr(config, name, None) in values for name, values in OTHER_LOOPS.items()
    )


@dataclass(frozen=True)
class Decoding:
    """For `model.generate(custom_generate=...)`, which calls it with everything that it has prepared."""

    cache: GrowingCache
    streamer: Any

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
        """input_ids [1, prompt]; returns them with the new tokens behind, drawn as transformers draws them.

        What the cache lacks of the prompt goes through the model's own forward pass.
        """
        ids, step = input_ids, DecodeStep(model)
        prompt = ids[:, self.cache.get_seq_length() :]
        logits = model(prompt, past_key_values=self.cache, logits_to_keep=1).logits[:, -1]
        while True:
            scores = logits_processor(ids, logits)
            if generation_config.do_sample:
                token = torch.multinomial(torch.softmax(scores, -1), 1)
            else:
                token = scores.argmax(-1, keepdim=True)
            ids = torch.cat([ids, token], dim=-1)
            self.streamer.put(token[0])
            if stopping_criteria(ids, None).all():
                self.streamer.end()
                return ids
            logits = step(token, self.cache)
