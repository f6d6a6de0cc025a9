"""A float model in transformers as it comes, with nothing of ours: JSON with the fields of `tilepress bench model`.

python -m benchmarks.peers.plain_transformers DIR --dtype float32 --prompt 128 --new 64 --threads 2 --repeats 3
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import torch
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer
from transformers.utils.logging import disable_progress_bar


class Clock(BaseStreamer):
    """When each token came; the first entry is the prompt's."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="float32")
    for name, default in (("prompt", 128), ("new", 64), ("threads", 2), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    disable_progress_bar()
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
    load_seconds = time.perf_counter() - start
    prompt = torch.randint(0, model.config.vocab_size, (1, options.prompt), generator=torch.Generator().manual_seed(0))
    first, speed = [], []
    for _ in range(options.repeats + 1):
        clock, start = Clock(), time.perf_counter()
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            streamer=clock,
            min_new_tokens=options.new,
            max_new_tokens=options.new,
            do_sample=False,
            pad_token_id=0,
        )
        first.append(clock.times[1] - start)
        speed.append((options.new - 1) / (clock.times[-1] - clock.times[1]))
    first_token_seconds = statistics.median(first[1:])
    print(
        json.dumps(
            {
                "load_seconds": load_seconds,
                "first_token_seconds": first_token_seconds,
                "prefill_tokens_per_second": options.prompt / first_token_seconds,
                "decode_tokens_per_second": statistics.median(speed[1:]),
                "weight_bytes": sum(parameter.nbytes for parameter in model.parameters()),
                "peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            }
        )
    )


if __name__ == "__main__":
    main()
