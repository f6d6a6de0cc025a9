"""Speed and memory of a whole model: how fast it reads a prompt, how fast it answers, how much memory it takes."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tilepress.bench.machine import GIGABYTE, Machine
from tilepress.checkpoint import EMBEDDING, Checkpoint, FloatCheckpoint, W8A8SCCheckpoint, open_checkpoint
from tilepress.engines.transformers import load
from tilepress.engines.transformers.generate import Generation, complete
from tilepress.errors import UsageError

GREEDY: dict[str, Any] = {"num_beams": 1, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}


@dataclass(frozen=True)
class ModelSpeed:
    """Medians over rounds, after one round that is not counted.

    first_token_seconds: the whole prompt and one token. prefill_tokens_per_second: prompt_tokens over
    first_token_seconds. decode_tokens_per_second: of the tokens after the first, each with all before it as context.
    weight_bytes: bytes that every token reads: the weight files, without an embedding that is not the head too.
    gigabytes_per_second: weight_bytes read while decoding.
    peak_memory_bytes: of the whole process, mapped weight files included.
    """

    kind: str
    dtype: str
    threads: int
    prompt_tokens: int
    new_tokens: int
    load_seconds: float
    first_token_seconds: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    weight_bytes: int
    gigabytes_per_second: float
    peak_memory_bytes: int

    def of_bandwidth(self, machine: Machine) -> float:
        """Return gigabytes_per_second as a share of what as many threads read from memory."""
        return self.gigabytes_per_second * GIGABYTE / machine.bandwidth[self.threads]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    path: str | Path,
    *,
    threads: int,
    prompt_tokens: int = 128,
    new_tokens: int = 64,
    repeats: int = 3,
    dtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelSpeed:
    """Load a float, W8A8S or W8A8SC directory and answer a prompt of random tokens, greedily, batch 1.

    Raises UsageError for fewer than two new tokens, and what `load` and `complete` raise.
    """
    if new_tokens < 2:
        raise UsageError(f"{new_tokens} new tokens have no speed; at least 2 are needed")
    torch.set_num_threads(threads)
    start = time.perf_counter()
    model, tokenizer = load(path, dtype=dtype)
    load_seconds = time.perf_counter() - start
    model.generation_config.eos_token_id = None  # or the answer might end early
    prompt = torch.randint(0, model.config.vocab_size, (prompt_tokens,), generator=torch.Generator().manual_seed(0))
    answers = []
    for done in range(repeats + 1):
        if progress is not None:
            progress(done, repeats + 1)
        answers.append(complete(model, tokenizer, prompt.tolist(), max_new_tokens=new_tokens, **GREEDY))
    first, speed = _median(answers[1:], lambda a: a.first_token_seconds), _median(answers[1:], _tokens_per_second)
    checkpoint = open_checkpoint(path)
    weight_bytes = _bytes_a_token(checkpoint)
    return ModelSpeed(
        kind=checkpoint.kind,
        dtype=str(model.dtype).removeprefix("torch."),
        threads=threads,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        load_seconds=load_seconds,
        first_token_seconds=first,
        prefill_tokens_per_second=prompt_tokens / first,
        decode_tokens_per_second=speed,
        weight_bytes=weight_bytes,
        gigabytes_per_second=weight_bytes * speed / 1e9,
        peak_memory_bytes=peak_memory_bytes(),
    )


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _bytes_a_token(checkpoint: Checkpoint) -> int:
    total = sum(file.stat().st_size for file in checkpoint.files())
    if checkpoint.shape.tied:
        return total
    if isinstance(checkpoint, FloatCheckpoint):
        return total - checkpoint.tensor(f"{EMBEDDING}.weight").nbytes
    if checkpoint.shares_table:
        return total
    if not checkpoint.is_quantized(EMBEDDING):
        return total - checkpoint.float_tensor(f"{EMBEDDING}.weight").nbytes
    if isinstance(checkpoint, W8A8SCCheckpoint):
        return total - checkpoint.compressed_embedding().nbytes
    return total - checkpoint.embedding().nbytes


def _median(answers: list[Generation], value: Callable[[Generation], float]) -> float:
    return statistics.median(value(answer) for answer in answers)


def _tokens_per_second(answer: Generation) -> float:
    assert answer.tokens_per_second is not None, "two tokens or more were asked for"
    return answer.tokens_per_second
