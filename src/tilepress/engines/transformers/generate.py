"""Answer a prompt, streaming the text and measuring the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StopStringCriteria, TextStreamer

from tilepress.engines.transformers.generation.cache_type import cache_type
from tilepress.engines.transformers.generation.decode_step import DecodeStep
from tilepress.engines.transformers.generation.decoding_loop import Decoding, effective_settings, is_plain
from tilepress.engines.transformers.generation.kv_cache import GrowingCache, PrefixCache
from tilepress.engines.transformers.generation.tools import (
    MARKS,
    Tool,
    ToolCall,
    check_template,
    parse_tool_calls,
    tool_schemas,
)
from tilepress.errors import TilepressError, UsageError
from tilepress.text import well_formed

Message = Mapping[str, Any]

# DEFAULTS win over generation_config.json, arguments over both, FIXED over all: answers do not depend on FIXED. OURS
# may not be given: each with what to use instead.
DEFAULTS: dict[str, Any] = {"num_return_sequences": 1, "cache_implementation": None}
OURS = {
    "streamer": "on_text is called with each piece of text",
    "past_key_values": "a PrefixCache, as cache, keeps keys and values between calls",
    "inputs": "the prompt is the text",
    "input_ids": "the prompt is the text",
    "attention_mask": "there is one prompt, and all of it counts",
}
FIXED: dict[str, Any] = {
    "return_dict_in_generate": False,
    "use_cache": True,
    "prompt_lookup_num_tokens": None,
    "prefill_chunk_size": None,
}


@dataclass(frozen=True)
class Generation:
    """A generated answer and its speed.

    tokens: the new tokens, with the end token where the model gave one. prompt_tokens: number of tokens of the whole
    prompt; cached_tokens: those of them that were known from an earlier turn or prompt. first_token_seconds: from the
    call to the first token. tokens_per_second: of the tokens after the first; None where there are none. drafted:
    tokens drafted by prompt lookup; accepted: those of them that are in the answer. tool_calls: those in the text,
    where tools were given; tool_errors: a message for each call that cannot be read. finish_reason: "length" where the
    answer was cut, because there was no room for more or no more was asked for.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int
    first_token_seconds: float
    tokens_per_second: float | None
    drafted: int = 0
    accepted: int = 0
    tool_calls: tuple[ToolCall, ...] = ()
    tool_errors: tuple[str, ...] = ()
    finish_reason: str = "stop"

    @property
    def new_tokens(self) -> int:
        return len(self.tokens)

    def as_dict(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "new_tokens": self.new_tokens,
            "first_token_seconds": self.first_token_seconds,
            "tokens_per_second": self.tokens_per_second,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "finish_reason": self.finish_reason,
            "tool_calls": [call.as_dict() for call in self.tool_calls],
            "tool_errors": list(self.tool_errors),
        }


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    /,
    *,
    system: str | None = None,
    max_new_tokens: int | None = 512,
    on_text: Callable[[str], None] | None = None,
    template_variables: Mapping[str, Any] | None = None,
    tools: Sequence[Tool] | None = None,
    cache: PrefixCache | None = None,
    prompt_lookup_num_tokens: int = 0,
    **sampling: Any,
) -> Generation:
    """Answer `prompt` through the model's chat template; a model without one continues it as it stands.

    on_text: called with each piece of text as soon as it is final. template_variables: for the chat template, such as
    {"enable_thinking": False}. tools: tools that the model may call, as `tool_schemas` takes them. cache: given to
    several prompts, it makes them compute their common beginning once. prompt_lookup_num_tokens: tokens drafted at a
    time from earlier text that ended alike, which changes the speed and no token; 0 for none. sampling: options of
    transformers' `generate`, such as do_sample=True, temperature=0.7; what is not given comes from the model's
    generation_config.json.

    Raises UsageError for an empty prompt, for one that fills the model's context, for one that the template refuses,
    for invalid tools, and for drafts with beams.
    """
    schemas = None if tools is None else tool_schemas(tools)
    if schemas is not None:
        check_template(tokenizer, schemas)
    prompt, system = well_formed(prompt), None if system is None else well_formed(system)
    if tokenizer.chat_template is None:
        tokens = list(tokenizer(f"{system}\n\n{prompt}" if system else prompt)["input_ids"])
    else:
        messages = [{"role": "system", "content": system}] if system else []
        tokens = render([*messages, {"role": "user", "content": prompt}], tokenizer, template_variables, schemas)
    answer = complete(
        model,
        tokenizer,
        tokens,
        max_new_tokens=max_new_tokens,
        cache=cache,
        on_text=on_text,
        prompt_lookup_num_tokens=prompt_lookup_num_tokens,
        **sampling,
    )
    return answer if schemas is None else with_tool_calls(answer, tokenizer)[0]


def with_tool_calls(answer: Generation, tokenizer: PreTrainedTokenizerBase) -> tuple[Generation, str]:
    """Return the answer with its tool calls, and its text without them.

    The answer's text lacks the marks of a call where they are special tokens. So calls are read from the tokens,
    decoded with these marks and no other special token.
    """
    marks = {tokenizer.convert_tokens_to_ids(mark) for mark in MARKS}
    hidden = set(tokenizer.all_special_ids) - marks
    marked = tokenizer.decode([token for token in answer.tokens if token not in hidden], skip_special_tokens=False)
    parsed = parse_tool_calls(str(marked))
    return replace(answer, tool_calls=parsed.calls, tool_errors=parsed.errors), parsed.content


def render(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    variables: Mapping[str, Any] | None = None,
    tools: Sequence[Any] | None = None,
) -> list[int]:
    """Return the tokens of a conversation, up to where the assistant begins to answer."""
    try:
        rendered = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            tools=None if tools is None else list(tools),
            **(variables or {}),
        )
    except Exception as error:  # templates raise what they like: jinja's errors, TypeError, their own
        raise UsageError(
            f"{tokenizer.name_or_path}: the model's chat template refuses the conversation: {error}"
        ) from error
    if not rendered:
        raise UsageError(f"{tokenizer.name_or_path}: the model's chat template makes nothing of the conversation")
    return list(rendered)


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Sequence[int],
    /,
    *,
    max_new_tokens: int | None,
    cache: PrefixCache | None = None,
    on_text: Callable[[str], None] | None = None,
    prompt_lookup_num_tokens: int = 0,
    seed: int | None = None,
    **sampling: Any,
) -> Generation:
    """Continue `tokens`; arguments and errors as of `generate`.

    seed: of what is sampled here, whatever other threads draw meanwhile; only where tokens are sampled one by one.

    A refused call leaves `cache` as it was. A call that fails later or is interrupted leaves it empty.
    """
    context, vocabulary = model.config.max_position_embeddings, model.config.vocab_size
    if not tokens:
        raise UsageError("the prompt is empty")
    max_new_tokens = context if max_new_tokens is None else max_new_tokens
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise UsageError(f"the number of new tokens is {max_new_tokens!r}; it has to be an integer of at least 1")
    if not isinstance(prompt_lookup_num_tokens, int) or prompt_lookup_num_tokens < 0:
        raise UsageError(
            f"prompt_lookup_num_tokens is {prompt_lookup_num_tokens!r}; it has to be an integer of at least 0"
        )
    if len(tokens) >= context:
        raise UsageError(
            f"the prompt has {len(tokens)} tokens, the model's context is {context}; shorten it, or load the model "
            "with a longer --max-model-len (max_model_len in Python)"
        )
    if max(tokens) >= vocabulary or min(tokens) < 0:
        wrong = max(tokens) if max(tokens) >= vocabulary else min(tokens)
        raise UsageError(f"the tokenizer gives token {wrong}, the model has {vocabulary}; they do not match")
    stream = _Stream(tokenizer, on_text)
    prompt = torch.tensor([list(tokens)], device=model.device)
    options = _options(model, tokenizer, sampling)
    settings = effective_settings(model, options)
    if settings.num_return_sequences != 1:
        raise UsageError(f"num_return_sequences is {settings.num_return_sequences}; one answer is given at a time")
    plain = is_plain(settings, options)
    if prompt_lookup_num_tokens and not plain:
        raise UsageError(
            "prompt lookup drafts tokens for greedy search and sampling of one sequence only; set "
            "prompt_lookup_num_tokens=0, or leave out beams and other assistants"
        )
    stops = [settings.stop_strings] if isinstance(settings.stop_strings, str) else settings.stop_strings or []
    if settings.stop_strings is not None:
        # transformers (5.16 to 5.19) loses the tokenizer that these need on the way to a loop of one's own.
        stop: Any = StopStringCriteria(tokenizer, settings.stop_strings)
        options |= {"stop_strings": None, "stopping_criteria": [*(options.get("stopping_criteria") or ()), stop]}
    streamed, own_cache = _streams(settings), settings.cache_implementation is not None
    if own_cache or not streamed:
        cache = None
    past = None if cache is None else cache.begin(model, tokens)
    cached = 0 if past is None else past.get_seq_length()
    generator = None if seed is None else torch.Generator(model.device).manual_seed(seed % 2**64)
    decoding = Decoding(
        GrowingCache(cache_type(model)) if past is None else past, stream, prompt_lookup_num_tokens, generator
    )
    if plain and (prompt_lookup_num_tokens or DecodeStep.supports(model)):
        options["custom_generate"], past = decoding, decoding.cache
    engine: Any = model  # its `generate` is typed for batches of every kind
    room = min(max_new_tokens, context - len(tokens))
    try:
        output = engine.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=room,
            **({} if own_cache else {"past_key_values": past}),
            **({"streamer": stream} if streamed else {}),
            **options,
        )
    except BaseException as error:
        if cache is not None:
            cache.clear()  # some layers may hold tokens that others do not
        if isinstance(error, Exception) and not isinstance(error, TilepressError):
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UsageError(
                f"transformers does not generate with these options: {reason}; they are those given and those of the "
                "model's generation_config.json"
            ) from error
        raise
    new = tuple(output[0, len(tokens) :].tolist())
    if not streamed:
        stream.whole(new)
    if cache is not None:
        cache.end([*tokens, *new])
    text, ends = str(tokenizer.decode(list(new), skip_special_tokens=True)), settings.eos_token_id
    stopped = min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)
    ended = bool(new) and new[-1] in (ends if isinstance(ends, list) else [ends])
    return Generation(
        text=text[:stopped],
        tokens=new,
        prompt_tokens=len(tokens),
        cached_tokens=cached,
        first_token_seconds=stream.first - stream.start,
        tokens_per_second=(len(new) - 1) / (stream.last - stream.first) if stream.last > stream.first else None,
        drafted=decoding.drafted,
        accepted=decoding.accepted,
        finish_reason="length" if len(new) >= room and not ended and stopped is None else "stop",
    )


def _options(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options to call transformers' `generate` with. Raises UsageError for those in OURS."""
    for name, instead in OURS.items():
        if given.get(name) is not None:
            raise UsageError(f"{name} cannot be given; {instead}")
    settings: dict[str, Any] = {}
    if given.get("generation_config") is not None:
        config = given["generation_config"]
        if not isinstance(config, GenerationConfig):
            raise UsageError(f"generation_config is {config!r}; it has to be a GenerationConfig of transformers")
        settings = {name: value for name, value in config.to_diff_dict().items() if hasattr(config, name)}
        settings.pop("transformers_version", None)
    chosen = {name: value for name, value in given.items() if name not in (*OURS, "tokenizer", "generation_config")}
    return {"pad_token_id": _pad_token(model, tokenizer)} | DEFAULTS | settings | chosen | FIXED


def _pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Nothing is padded in a batch of one, but `generate` warns where it has no token to pad with."""
    end = model.generation_config.eos_token_id
    end = end[0] if isinstance(end, list) else end
    for token in (model.generation_config.pad_token_id, tokenizer.pad_token_id, end):
        if token is not None:
            return int(token)
    return None


def _streams(settings: GenerationConfig) -> bool:
    """Return True if tokens are final as they come, which those of beams are not."""
    return settings.num_beams in (None, 1)


class _Stream(TextStreamer):
    """Hands text on as it becomes final, and notes when the first and the last token came."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_text: Callable[[str], None] | None) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text
        self.start = self.first = self.last = time.perf_counter()

    def put(self, value: torch.Tensor) -> None:
        if not self.next_tokens_are_prompt:
            self.last = time.perf_counter()
            if self.first == self.start:
                self.first = self.last
        if self.on_text is not None:
            super().put(value)  # type: ignore[no-untyped-call]
        self.next_tokens_are_prompt = False

    def whole(self, tokens: Sequence[int]) -> None:
        """Take a whole answer, whose tokens did not come one by one."""
        self.first = self.last = time.perf_counter()
        if self.on_text is not None:
            self.on_text(str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)))

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text and self.on_text is not None:
            self.on_text(text)
