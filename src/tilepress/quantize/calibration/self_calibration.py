"""Calibration text that the float model writes itself: the prompts, the answers, and which of them are kept.

The model's own text stands for what it was trained on (Liu et al., "LLM-QAT: Data-Free Quantization Aware Training for
Large Language Models", 2023; Williams et al., "Self-calibration for Language Model Quantization and Pruning", 2025).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, GenerationConfig, PreTrainedTokenizerBase
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tilepress.checkpoint import EMBEDDING, FloatCheckpoint
from tilepress.errors import QuantizationError
from tilepress.models.transformers_config import empty_model, generation_config, model_config
from tilepress.quantize.calibration.conversations import Conversation, conversation_of
from tilepress.quantize.calibration.documents import merged, written_records
from tilepress.quantize.calibration.rendering import Renderer, in_plain_text
from tilepress.quantize.calibration.sequences import check_vocabulary, token_sequences
from tilepress.quantize.progress import Clock
from tilepress.quantize.resume import WorkDirectory
from tilepress.text import load_tokenizer, start_token

# Prompts that are answered together: with 32 of them a core writes no faster, and more is written than is needed.
BATCH = 16
# The most tokens of a prompt, and of an answer. Longer answers would be fewer, and at temperature 1 they wander off.
LONGEST_PROMPT, LONGEST_ANSWER = 512, 256
# Prompts of at most so many tokens are not padded to the width of longer ones: keys and values of 700 tokens take
# SmolLM2 longer than its linears.
SHORT = 128
# Tokens of a document that the model goes on from.
OPENING = (32, 64)
# An answer loops from where LOOP tokens in a row are each the same as one token a period before, for a period of LOOP
# tokens or fewer. Rules of tables and indentation are shorter.
LOOP = 64
# Tokens that a looping answer has to have before it repeats itself.
FEWEST_BEFORE = 16
# Share of a batch's answers that have to be of use.
USEFUL = 0.1
# What of generation_config.json decides how tokens are drawn, where it says that they are. Else every token may be
# drawn, at temperature 1.
DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty")
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}

SOURCE = "the calibration set"
# The name by which transformers knows `grouped_attention`.
GROUPED = "tilepress_grouped"


@dataclass(frozen=True)
class Prompt:
    """tokens: what the model goes on from. unwritten: of the first of them, which are not part of the text."""

    tokens: list[int]
    unwritten: int

    def __len__(self) -> int:
        return len(self.tokens)


class Prompts:
    """Prompts from the set written for the purpose, by the tokenizer and chat template of a model.

    A dialogue's is its system message, its tools and its first question, as the chat template renders them before an
    answer. Of any other text it is the first 32 to 64 tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._renderer = Renderer(tokenizer, unanswered=True)
        start = start_token(tokenizer)
        self._start = [] if start is None else [start]

    def turn(self, seed: int, number: int) -> list[Prompt]:
        """Return a prompt of each record, kinds mixed evenly; order and openings are drawn by `seed` and `number`."""
        kinds = []
        for kind, records in written_records().items():
            draw = random.Random(f"{seed} {number} {kind}")
            kinds.append([self._prompt(record, draw) for record in draw.sample(records, len(records))])
        return merged(kinds)

    def _prompt(self, record: dict[str, Any], draw: random.Random) -> Prompt:
        conversation = conversation_of(record, SOURCE, Counter())
        if conversation is None:
            opening = self._tokens(str(record["text"]))[: draw.randint(*OPENING)]
        elif (rendered := self._rendered(conversation.first_question())) is not None:
            return Prompt(self._tokens(rendered), 0)
        else:
            question = conversation.first_question()
            plain = in_plain_text(question.messages, question.tools)
            opening = self._tokens("".join(f"{message['content']}\n\n" for message in plain))
        return Prompt(self._start + opening, len(self._start))

    def _rendered(self, question: Conversation) -> str | None:
        """Return None without a chat template, or where it refuses the question."""
        if self._tokenizer.chat_template is None:
            return None
        try:
            return self._renderer.render(question, SOURCE)
        except QuantizationError:
            return None

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


class Author:
    """A float model that answers prompts. It is in memory as a whole from its first answer until `release`.

    longest: tokens of an answer at most, within half of the model's context. before_reading: called before the weights
    are read, for a check that they fit. Raises QuantizationError where no prompt fits the context.
    """

    def __init__(
        self,
        source: FloatCheckpoint,
        seed: int,
        device: torch.device,
        *,
        longest: int,
        before_reading: Callable[[], None],
    ) -> None:
        self.tokenizer = load_tokenizer(source.path, model_config(source.config, source.path))
        self.vocabulary = source.shape.vocab
        self._source, self._seed, self._device = source, seed, device
        self._before_reading = before_reading
        context = int(source.config["max_position_embeddings"])
        self._longest = max(1, min(longest, LONGEST_ANSWER, context // 2))
        self._longest_prompt = min(LONGEST_PROMPT, context - self._longest)
        self._prompts = Prompts(self.tokenizer)
        self._turns: list[list[Prompt]] = []
        self._model: Any = None
        if not self._turn(0):
            raise QuantizationError(
                f"{source.path}: no prompt of the calibration set fits the model's context of {context} tokens; "
                "give a text with --calib"
            )

    def prompts(self) -> bytes:
        """Return the prompts of the first turn, which stand for tokenizer, chat template and calibration set."""
        return json.dumps([prompt.tokens for prompt in self._turn(0)]).encode()

    def release(self) -> None:
        """Give the model's memory back."""
        self._model = None

    def documents(self, number: int) -> list[list[int]]:
        """Return batch `number` of prompts with their answers, as token ids; the same for one seed and machine.

        An answer that loops is cut where it begins to repeat itself. It is left out where less than 16 tokens are left
        of it, and so is an answer without any text. QuantizationError where less than a tenth of the answers remain.
        """
        prompts = self._batch(number)
        devices = [] if self._device.type == "cpu" else [self._device]
        with torch.random.fork_rng(devices, device_type=self._device.type):
            torch.manual_seed(random.Random(f"{self._seed} {number}").getrandbits(63))
            answers = self._answers(prompts)
        found = zip(prompts, answers, strict=True)
        kept = [prompt.tokens[prompt.unwritten :] + text for prompt, answer in found if (text := self._of_use(answer))]
        if len(kept) < USEFUL * len(prompts):
            raise QuantizationError(
                f"{self._source.path}: only {len(kept)} of {len(prompts)} answers of the model are of use for "
                "calibration, the others are empty or repeat themselves; give a text with --calib"
            )
        return kept

    def _batch(self, number: int) -> list[Prompt]:
        """Return the prompts of a batch; after all of them they come again, in another order and other openings."""
        turn = 0
        while number >= (batches := -(-len(self._turn(turn)) // BATCH)):
            turn, number = turn + 1, number - batches
        return self._turn(turn)[number::batches]

    def _turn(self, number: int) -> list[Prompt]:
        if number == len(self._turns):
            prompts = self._prompts.turn(self._seed, number)
            check_vocabulary((token for prompt in prompts for token in prompt.tokens), self.vocabulary)
            self._turns.append([prompt for prompt in prompts if 0 < len(prompt) <= self._longest_prompt])
        return self._turns[number]

    def _of_use(self, answer: list[int]) -> list[int]:
        """Return the answer as far as it is kept; empty where it is not."""
        text = before_loop(answer)
        if len(text) < len(answer):
            return text if len(text) >= FEWEST_BEFORE else []
        return text if any(token not in self._ends for token in text) else []

    def _answers(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return an answer to each prompt, up to the model's end token, with it."""
        if self._model is None:
            self._before_reading()
            self._model = self._read()
        answers: list[list[int]] = [[] for _ in prompts]
        for short in (True, False):
            places = [place for place, prompt in enumerate(prompts) if (len(prompt) <= SHORT) == short]
            if places:
                for place, answer in zip(places, self._padded([prompts[place] for place in places]), strict=True):
                    answers[place] = self._ended(answer)
        return answers

    def _padded(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return what the model generates, prompts padded on the left to one width."""
        width = max(map(len, prompts))
        tokens = torch.zeros(len(prompts), width, dtype=torch.int64)
        mask = torch.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt) :] = torch.tensor(prompt.tokens)
            mask[row, width - len(prompt) :] = 1
        found = self._model.generate(tokens.to(self._device), attention_mask=mask.to(self._device))
        return found[:, width:].tolist()  # type: ignore[no-any-return]

    def _ended(self, answer: list[int]) -> list[int]:
        end = next((place for place, token in enumerate(answer) if token in self._ends), len(answer))
        return answer[: end + 1]

    @cached_property
    def _ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        stored = generation_config(self._source.path)
        given = [
            self.tokenizer.eos_token_id,
            self._source.config.get("eos_token_id"),
            None if stored is None else stored.eos_token_id,
        ]
        listed = (ids if isinstance(ids, list) else [ids] for ids in given)
        return frozenset(token for ids in listed for token in ids if token is not None)

    def _read(self) -> Any:
        """Return transformers' model in the dtype of `writing_dtype`, on the device."""
        source, dtype = self._source, writing_dtype(self._source, self._device)
        config = model_config(source.config, source.path)
        config.tie_word_embeddings = source.shape.tied
        model = empty_model(config, dtype, source.path).requires_grad_(False)
        model.set_attn_implementation(GROUPED)
        weights = {name: source.read(name).to(self._device, dtype) for name in source.names()}
        model.load_state_dict(weights, strict=False, assign=True)
        model.tie_weights()
        # Rotary frequencies are stored nowhere; they follow from the config.
        model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(self._device)
        model.generation_config = self._settings()
        return model

    def _settings(self) -> GenerationConfig:
        stored = generation_config(self._source.path)
        drawn = stored is not None and stored.do_sample
        drawing = {key: getattr(stored, key) for key in DRAWING} if drawn else PLAIN
        # Rows of the head that no token of the tokenizer belongs to.
        unknown = list(range(len(self.tokenizer), self.vocabulary))
        return GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=True,
            max_new_tokens=self._longest,
            eos_token_id=sorted(self._ends) or None,
            pad_token_id=0,
            suppress_tokens=unknown or None,
            **drawing,
        )


def grouped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention as transformers' "sdpa", which repeats keys and values for each query head that shares them.

    query: [batch, heads, tokens, head_dim]; key, value: [batch, kv heads, positions, head_dim]. For one token the heads
    that share a key are taken as its tokens instead. 24 answers of 96 tokens take SmolLM2 23 s of a core and not 27,
    and longer ones gain more.
    """
    batch, heads, tokens, size = query.shape
    if tokens > 1 or attention_mask is None:
        found: tuple[Tensor, None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, **options
        )
        return found
    shared = key.shape[1]
    attended = nn.functional.scaled_dot_product_attention(
        query.view(batch, shared, heads // shared, size),
        key,
        value,
        attention_mask.expand(batch, shared, heads // shared, key.shape[2]),
        scale=options.get("scaling"),
    )
    return attended.reshape(batch, 1, heads, size), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def writing_dtype(source: FloatCheckpoint, device: torch.device) -> torch.dtype:
    """Return the dtype in which the model writes: float32 on the CPU, elsewhere as it is stored."""
    return torch.float32 if device.type == "cpu" else source.stored(f"{EMBEDDING}.weight").dtype


def before_loop(answer: Sequence[int]) -> list[int]:
    """Return the answer up to the end of the first period of a loop, where it has one.

    From there on LOOP tokens or more are each the same as one token a period before.
    """
    tokens = np.array(answer)
    stops = [len(tokens)]
    for period in range(1, min(LOOP, len(tokens) - LOOP) + 1):
        same = tokens[period:] == tokens[:-period]
        loops = np.flatnonzero(sliding_window_view(same, LOOP).all(axis=1))
        if len(loops):
            stops.append(int(loops[0]) + period)
    return list(answer[: min(stops)])


def self_calibration_tokens(author: Author, work: WorkDirectory, clock: Clock, *, samples: int, length: int) -> Tensor:
    """Return token ids int64 [samples, length] of prompts and answers, as `token_sequences` does.

    Each batch of answers is a stage in `work`; what is there is not written again. The clock ticks once a sequence.
    Raises QuantizationError as `Author.documents` does.
    """
    documents: list[list[int]] = []
    tokens = told = number = 0
    while tokens < samples * length:
        stage = f"answers-{number:05}"
        stored = work.record(stage)
        answered = author.documents(number) if stored is None else stored["documents"]
        documents += answered
        tokens += sum(map(len, answered))
        visits = min(samples, tokens // length) - told
        if stored is None:
            work.commit(stage, {"documents": answered, "seconds": clock.seconds()})
            for _ in range(visits):
                clock.tick()
        else:
            clock.restored(visits, stored["seconds"])
        told += visits
        number += 1
    author.release()
    return token_sequences(
        author.tokenizer, documents, samples=samples, length=length, vocabulary=author.vocabulary, source=SOURCE
    )
