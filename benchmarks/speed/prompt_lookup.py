"""What prompt lookup gains where answers repeat the prompt, and costs where they do not.

Processor time of one thread for each answer's tokens after the first, so that other work on the machine matters little.
Usage: python -m benchmarks.speed.prompt_lookup DIRECTORY [--drafts 3 5 10] [--new-tokens 96] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch

import tilepress
from tilepress.engines.transformers import Generation, generate

GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}

CODE = """def mean(values):
    total = 0
    for value in values:
        total = total + value
    return total / len(values)


def variance(values):
    center = mean(values)
    total = 0
    for value in values:
        total = total + (value - center) ** 2
    return total / len(values)
"""
REPORT = """The lighthouse of Kap Arkona was built in 1827 by Karl Friedrich Schinkel. It stands on the northern tip of
the island of Rügen, is 19 metres high, and was in use until 1905. A second lighthouse, 35 metres high, was built beside
it in 1902 and is in use to this day. Both can be visited, and from the top of the second one the Danish island of Møn
can be seen on clear days."""
PROMPTS = {
    "code edit": f"Rename the variable total to amount in this code and give the whole code back:\n\n{CODE}",
    "summary": f"Summarize this text in three sentences:\n\n{REPORT}",
    "story": "Tell a short story about a fox who wants to learn to swim.",
}


def answer(model: Any, tokenizer: Any, prompt: str, new_tokens: int, drafts: int) -> tuple[Generation, float]:
    """With the processor time in milliseconds of a token after the first."""
    times: list[float] = []
    result = generate(
        model,
        tokenizer,
        prompt,
        max_new_tokens=new_tokens,
        prompt_lookup_num_tokens=drafts,
        stopping_criteria=[lambda ids, _: times.append(time.thread_time()) or torch.zeros(1, dtype=torch.bool)],
        **GREEDY,
    )
    return result, 1e3 * (times[-1] - times[0]) / (len(times) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_path", metavar="DIRECTORY")
    parser.add_argument("--drafts", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = tilepress.load(arguments.model_path)
    generate(model, tokenizer, "Hello", max_new_tokens=8, **GREEDY)
    rows = []
    for name, prompt in PROMPTS.items():
        plain, without = answer(model, tokenizer, prompt, arguments.new_tokens, 0)
        for drafts in arguments.drafts:
            drafted, milliseconds = answer(model, tokenizer, prompt, arguments.new_tokens, drafts)
            rows.append(
                {
                    "prompt": name,
                    "draft_tokens": drafts,
                    "new_tokens": drafted.new_tokens,
                    "drafted": drafted.drafted,
                    "accepted": drafted.accepted,
                    "ms_without": without,
                    "ms": milliseconds,
                    "same": drafted.tokens == plain.tokens,
                }
            )
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['prompt']:10} {row['draft_tokens']:3} drafts: {row['accepted']:3} of {row['drafted']:3} accepted in "
            f"{row['new_tokens']} tokens; {row['ms_without']:.1f} -> {row['ms']:.1f} ms a token"
            f"{'' if row['same'] else ', another answer'}"
        )


if __name__ == "__main__":
    main()
