"""Speed and memory of a whole model: how fast it reads a prompt, how fast it answers, how much memory it takes."""

from __future__ import annotations

import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tilepress.bench.machine import GIGABYTE, Machine
from tilepress.checkpoint import EMBEDDING, Checkpoint, FloatCheckpoint, W8A8SCCheckpoint, open_checkpoint
from tilepress.engines.transformers import load
from tilepress.engines.transformers.generate import Generation, complete
from tilepress.engines.transformers.generation.kv_cache import PrefixCache
from tilepress.errors import UsageError

GREEDY: dict[str, Any] = {"num_beams": 1, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}


@dataclass(frozen=True)
class ModelSpeed:
    """Medians over rounds, after one round that is not counted.

    streams: answers that are generated at once, each to a prompt of its own. first_token_seconds: one whole prompt and
    one token. prefill_tokens_per_second: prompt_tokens over first_token_seconds. decode_tokens_per_second: of all
    streams together, of the tokens after the first, each with all before it as context. weight_bytes: bytes that every
    token reads: the weight files, without an embedding that is not the head too. gigabytes_per_second: weight_bytes
    read while decoding, once for all streams.
    peak_memory_bytes: of the whole process, mapped weight files included.
    """

    kind: str
    dtype: str
    threads: int
    prompt_tokens: int
    new_tokens: int
    streams: int
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
    streams: int = 1,
    repeats: int = 3,
    dtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelSpeed:
    """Load a float, W8A8S or W8A8SC directory and answer prompts of random tokens, greedily, one for each of `streams`.

    Raises UsageError for fewer than two new tokens, and what `load` and `complete` raise.
    """
    if new_tokens < 2:
        raise UsageError(f"{new_tokens} new tokens have no speed; at least 2 are needed")
    torch.set_num_threads(threads)
    start = time.perf_counter()
    model, tokenizer = load(path, dtype=dtype)
    load_seconds = time.perf_counter() - start
    model.generation_config.eos_token_id = None  # or the answer might end early
    size, generator = (streams, prompt_tokens), torch.Generator().manual_seed(0)
    prompts = torch.randint(0, model.config.vocab_size, size, generator=generator).tolist()
    first_seconds, speeds = [], []
    for done in range(repeats + 1):
        if progress is not None:
            progress(done, repeats + 1)
        if streams == 1:
            answer = complete(model, tokenizer, prompts[0], max_new_tokens=new_tokens, **GREEDY)
            first_seconds.append(answer.first_token_seconds)
            speeds.append(_tokens_per_second(answer))
        else:
            seconds, speed = _several(model, tokenizer, prompts, new_tokens)
            first_seconds.append(seconds)
            speeds.append(speed)
    first, speed = statistics.median(first_seconds[1:]), statistics.median(speeds[1:])
    checkpoint = open_checkpoint(path)
    weight_bytes = _bytes_a_token(checkpoint)
    return ModelSpeed(
        kind=checkpoint.kind,
        dtype=str(model.dtype).removeprefix("torch."),
        threads=threads,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        streams=streams,
        load_seconds=load_seconds,
        first_token_seconds=first,
        prefill_tokens_per_second=prompt_tokens / first,
        decode_tokens_per_second=speed,
        weight_bytes=weight_bytes,
        gigabytes_per_second=weight_bytes * speed / streams / 1e9,
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


def _several(model: Any, tokenizer: Any, prompts: list[list[int]], new_tokens: int) -> tuple[float, float]:
    """Return (seconds to a prompt's first token, tokens a second of all answers together).

    Prompts are read one after the other; then all answers begin at once, each in a thread, as a server has them.
    """
    caches = [PrefixCache() for _ in prompts]
    read = [
        complete(model, tokenizer, prompt, cache=cache, max_new_tokens=1, **GREEDY).first_token_seconds
        for prompt, cache in zip(prompts, caches, strict=True)
    ]
    barrier = threading.Barrier(len(prompts) + 1)

    def answer(prompt: list[int], cache: PrefixCache) -> Generation:
        barrier.wait()
        return complete(model, tokenizer, prompt, cache=cache, max_new_tokens=new_tokens, **GREEDY)

    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = [pool.submit(answer, prompt, cache) for prompt, cache in zip(prompts, caches, strict=True)]
        barrier.wait()
        begun = time.perf_counter()
        tokens = sum(len(answer.result().tokens) for answer in answers)
    return statistics.median(read), tokens / (time.perf_counter() - begun)


def _tokens_per_second(answer: Generation) -> float:
    assert answer.tokens_per_second is not None, "two tokens or more were asked for"
    return answer.tokens_per_second
