"""A chat model behind `tilepress serve`, asked through the client of openai: answers, a known beginning, 32 streams.

    make vllm
    .venv-vllm/bin/python -m benchmarks.speed.serve_streams W8A8SC_DIR --seconds 60 [--json]

Starts the server, asks it some questions, asks twice behind one long text, with another beginning in between, and then
keeps 32 streams open at once. A stream that fails or ends without a token is an error; the exit status says if any did.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI, OpenAIError

QUESTIONS = ("What is the capital of France?", "Name three fruits.", "Why is the sky blue? Answer in two sentences.")
STREAMS = 32
# Some 1,300 tokens of SmolLM2's.
LONG = " ".join(f"Shelf {shelf} holds {shelf * 7 % 50} boxes of type {shelf * 11 % 26}." for shelf in range(90))


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    """The URL of a server of its own, with the options that it finds by itself, and drafts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["-m", "tilepress", "serve", str(directory), "--port", str(port), "--parallel-decoding", "ngram"]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            while not _healthy(url):
                if process.poll() is not None:
                    sys.exit(f"the server ended with {process.returncode}; try: tilepress serve {directory}")
                time.sleep(0.5)
            yield url
        finally:
            process.send_signal(signal.SIGINT)


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def ask(client: OpenAI, model: str, content: str, tokens: int) -> dict[str, Any]:
    """One streamed answer: text, seconds to the first token, tokens that came and that were known, or an error."""
    start = time.perf_counter()
    result: dict[str, Any] = {"text": "", "first_token_seconds": None, "tokens": 0, "cached": 0, "error": None}
    try:
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],
            max_tokens=tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                result["first_token_seconds"] = result["first_token_seconds"] or time.perf_counter() - start
                result["text"] += chunk.choices[0].delta.content
            if chunk.usage is not None:
                result["tokens"] = chunk.usage.completion_tokens
                result["cached"] = getattr(chunk.usage.prompt_tokens_details, "cached_tokens", 0)
    except (OpenAIError, httpx.HTTPError) as error:
        result["error"] = repr(error)
    if not result["tokens"] and result["error"] is None:
        result["error"] = "no token came"
    return result


def known_beginning(client: OpenAI, model: str, rounds: int = 3) -> dict[str, float]:
    """Seconds to the first token behind a text that is new and behind one that was asked about before, medians."""
    new, known, cached = [], [], 0
    for number in range(rounds):
        text = f"List {number}. {LONG}"
        first = ask(client, model, f"{text} How many boxes are on shelf 3?", 4)
        second = ask(client, model, f"{text} What is on shelf 8?", 4)
        new.append(first["first_token_seconds"])
        known.append(second["first_token_seconds"])
        cached = second["cached"]
    new_seconds, known_seconds = statistics.median(new), statistics.median(known)
    return {"new_s": new_seconds, "known_s": known_seconds, "ratio": new_seconds / known_seconds, "cached": cached}


def streams(client: OpenAI, model: str, seconds: float) -> dict[str, Any]:
    """What 32 clients get, each asking again as soon as it has been answered, until the time is over."""
    end = time.monotonic() + seconds

    def keep_asking(number: int) -> list[dict[str, Any]]:
        answers = []
        while time.monotonic() < end:
            question = QUESTIONS[(number + len(answers)) % len(QUESTIONS)]
            answers.append(ask(client, model, f"I am client {number}. {question}", 64))
        return answers

    start = time.monotonic()
    with ThreadPoolExecutor(STREAMS) as pool:
        answers = [answer for of_client in pool.map(keep_asking, range(STREAMS)) for answer in of_client]
    return {
        "streams": STREAMS,
        "answers": len(answers),
        "tokens_per_second": sum(answer["tokens"] for answer in answers) / (time.monotonic() - start),
        "errors": [answer["error"] for answer in answers if answer["error"] is not None],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with serving(options.directory) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300, max_retries=0)
        (model,) = (model.id for model in client.models.list().data)
        answers = {question: ask(client, model, question, 64)["text"] for question in QUESTIONS}
        beginning = known_beginning(client, model)
        crowd = streams(client, model, options.seconds)
    if options.json:
        print(json.dumps({"answers": answers, "known_beginning": beginning, "streams": crowd}, indent=1))
    else:
        for question, answer in answers.items():
            print(f"{question}\n  {answer}")
        print("first token behind a new text {new_s:.2f} s, a known one {known_s:.2f} s".format(**beginning))
        print("{streams} streams: {answers} answers, {tokens_per_second:.0f} tokens/s".format(**crowd))
        print(f"errors: {crowd['errors'] or 'none'}")
    sys.exit(1 if crowd["errors"] else 0)


if __name__ == "__main__":
    main()
