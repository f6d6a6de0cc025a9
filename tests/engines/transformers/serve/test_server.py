"""OpenAI's own client against the embedded server."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn

from qwen3_tools import TEMPLATE, WEATHER, Says
from tilepress import load
from tilepress.cli import main
from tilepress.engines.transformers import generate
from tilepress.engines.transformers.serve.answering import Answering
from tilepress.engines.transformers.serve.app import make_app

KEY = "secret"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
QUESTION: Any = [{"role": "user", "content": "Hi"}]


class Running:
    """A server in a thread of this process."""

    def __init__(self, directory: Path, *, streams: int = 2, key: str | None = None) -> None:
        self.model, self.tokenizer = load(directory)
        self.answering = Answering(self.model, self.tokenizer, streams=streams)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = uvicorn.Config(make_app(self.answering, "tiny", key), port=port, log_level="error")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{port}/v1"
        self.client = openai.OpenAI(base_url=self.url, api_key=key or "none", max_retries=0)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


def send(url: str, body: str | None = None, *, key: str | None = None) -> tuple[int, Any]:
    """Return status and content of the answer to a request that no client would send."""
    headers = {"Content-Type": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    request = urllib.request.Request(url, None if body is None else body.encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def server(tiny_w8a8s: Path) -> Iterator[Running]:
    running = Running(tiny_w8a8s)
    yield running
    running.stop()


def test_a_chat_is_what_generate_answers(server: Running) -> None:
    found = server.client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=9, temperature=0)
    expected = generate(server.model, server.tokenizer, "Hi", max_new_tokens=9, do_sample=False, temperature=None)
    assert found.choices[0].message.content == expected.text
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (expected.prompt_tokens, expected.new_tokens)
    assert found.choices[0].finish_reason == ("length" if expected.new_tokens == 9 else "stop")


def test_a_stream_is_the_same_text(server: Running) -> None:
    whole = server.client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=12, temperature=0)
    chunks = list(
        server.client.chat.completions.create(
            model="tiny",
            messages=QUESTION,
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_completions_continue_a_text(server: Running) -> None:
    options: Any = {"model": "tiny", "max_tokens": 8, "temperature": 0}
    whole = server.client.completions.create(**options, prompt="One, two")
    streamed = server.client.completions.create(**options, prompt="One, two", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == whole.choices[0].text
    again = server.client.completions.create(**options, prompt=server.tokenizer("One, two")["input_ids"])
    assert again.choices[0].text == whole.choices[0].text


def test_a_seed_decides_what_is_sampled(server: Running) -> None:
    def ask(seed: int) -> str | None:
        found = server.client.chat.completions.create(
            model="tiny", messages=QUESTION, max_tokens=12, temperature=1.5, seed=seed
        )
        return found.choices[0].message.content

    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(ask, [1, 2, 1, 2]))
    assert texts[:2] == texts[2:]
    assert texts[0] != texts[1]


def test_an_answer_stops_before_a_stop(server: Running) -> None:
    whole = server.client.completions.create(model="tiny", prompt="abc", max_tokens=40, temperature=0).choices[0].text
    stop = next(char for char in whole[2:] if char.isascii() and char not in whole[:2])
    found = server.client.completions.create(model="tiny", prompt="abc", max_tokens=40, temperature=0, stop=stop)
    assert found.choices[0].text == whole[: whole.find(stop)]
    assert found.choices[0].finish_reason == "stop"
    assert found.usage is not None
    assert found.usage.completion_tokens < 40


def test_the_turns_of_a_conversation_are_computed_once(server: Running) -> None:
    messages = [{"role": "system", "content": "Answer. " * 8}, *QUESTION]
    first: Any = server.client.chat.completions.create(model="tiny", messages=messages, max_tokens=6, temperature=0)
    messages += [{"role": "assistant", "content": first.choices[0].message.content}, {"role": "user", "content": "So?"}]
    second: Any = server.client.chat.completions.create(model="tiny", messages=messages, max_tokens=6, temperature=0)
    known = second.usage.prompt_tokens_details.cached_tokens
    assert first.usage.prompt_tokens - 2 <= known < second.usage.prompt_tokens


def test_more_requests_than_streams_wait(server: Running) -> None:
    def ask(text: str) -> str:
        return server.client.completions.create(model="tiny", prompt=text, max_tokens=6, temperature=0).choices[0].text

    prompts = [f"prompt {number}" for number in range(7)]
    with ThreadPoolExecutor(7) as pool:
        assert list(pool.map(ask, prompts)) == [ask(prompt) for prompt in prompts]


def test_a_client_that_leaves_ends_its_answer(tiny_w8a8s: Path) -> None:
    running = Running(tiny_w8a8s, streams=1)
    try:
        stream = running.client.completions.create(model="tiny", prompt="a", max_tokens=480, temperature=0, stream=True)
        next(iter(stream))
        stream.close()
        begun = time.perf_counter()
        running.client.completions.create(model="tiny", prompt="b", max_tokens=1, temperature=0)
        waited = time.perf_counter() - begun
        begun = time.perf_counter()
        running.client.completions.create(model="tiny", prompt="a", max_tokens=480, temperature=0)
        assert waited < 0.5 * (time.perf_counter() - begun)
    finally:
        running.stop()


def test_conversations_side_by_side_keep_their_caches(server: Running) -> None:
    known = []
    for turn in range(3):
        for who in "ab":
            messages: Any = [{"role": "system", "content": who * 60}, {"role": "user", "content": f"turn {turn}"}]
            found: Any = server.client.chat.completions.create(model="tiny", messages=messages, max_tokens=2)
            known.append(found.usage.prompt_tokens_details.cached_tokens)
    assert all(count >= 60 for count in known[2:])


@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_leave_before_the_first_text_end_their_answers(stream: bool, tiny_w8a8s: Path) -> None:
    """The one that is computed, whose text comes late, and the one that waits for it."""
    running = Running(tiny_w8a8s, streams=1)
    body = json.dumps({"prompt": "a", "max_tokens": 480, "stream": stream, "temperature": 0}).encode()
    lines = (
        "POST /v1/completions HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    head = "\r\n".join((*lines, "", ""))
    slow = running.model.forward

    def forward(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.02)
        return slow(*arguments, **options)

    running.model.half()  # by way of forward
    running.model.forward = forward  # type: ignore[method-assign]
    try:
        port = int(running.url.split(":")[2].split("/")[0])
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(head.encode() + body)
                time.sleep(0.3)
        begun = time.perf_counter()
        running.client.completions.create(model="tiny", prompt="b", max_tokens=1, temperature=0)
        assert time.perf_counter() - begun < 3
    finally:
        running.stop()


def test_models_and_health(server: Running) -> None:
    assert [model.id for model in server.client.models.list()] == ["tiny"]
    assert send(server.url.replace("/v1", "/health")) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"content": "x"}]}, 400, "role is None"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "content that is no text"),
        ({"messages": [{"role": "user", "content": "long " * 600}]}, 400, "the model's context is 512"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"),
        ({"n": 2}, 400, "n"),
        ({"logprobs": True}, 400, "logprobs is True"),
        ({"response_format": {"type": "json_object"}}, 400, "text alone"),
        ({"tools": [{"type": "function"}]}, 400, "is no tool"),
        ({"model": "gpt-4"}, 404, "there is 'tiny'"),
        ({"chat_template_kwargs": {"padding": "max_length", "max_length": 20_000_000}}, 400, "padding is no variable"),
        ({"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, 400, "chat_template is no variable"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": 5}]}, 400, "it has to be a list"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "[" * 99999}}]}]},
            400,
            "no JSON",
        ),
        ({"top_k": -2}, 400, "top_k is -2"),
        ({"messages": [{"role": "user", "content": "long " * 600}], "stream": True}, 400, "context"),
    ],
)
def test_requests_that_cannot_be_answered(change: dict[str, Any], status: int, message: str, server: Running) -> None:
    body = {"model": "tiny", "messages": QUESTION, "max_tokens": 4} | change
    found, answer = send(f"{server.url}/chat/completions", json.dumps(body))
    assert found == status
    assert message in answer["error"]["message"]


@pytest.mark.parametrize("prompt", [[-1], [-(2**70)], [320], []])
def test_tokens_that_the_model_does_not_have(prompt: list[int], server: Running) -> None:
    status, answer = send(f"{server.url}/completions", json.dumps({"prompt": prompt}))
    assert status == 400
    assert answer["error"]["message"]


def test_what_clients_send_beside(server: Running) -> None:
    """Null for what is left out, halves of surrogate pairs, and top_k 0 for all tokens."""
    body = {"messages": [{"role": "user", "content": "\ud800 Hi"}], "max_tokens": 2, "top_k": 0, "temperature": 1e-300}
    body |= dict.fromkeys(("stream", "presence_penalty", "chat_template_kwargs", "stop", "tools", "n"))
    status, answer = send(f"{server.url}/chat/completions", json.dumps(body))
    assert (status, answer["usage"]["completion_tokens"]) == (200, 2)
    assert send(f"{server.url}/models/tiny")[1]["id"] == "tiny"
    for path, wanted in (("nowhere", 404), ("models/other", 404)):
        status, answer = send(f"{server.url}/{path}")
        assert (status, bool(answer["error"]["message"])) == (wanted, True)


def test_a_request_that_is_refused_leaves_the_caches(server: Running) -> None:
    prompt = "A long text that is known by now. " * 4
    for _ in range(2):
        found: Any = server.client.completions.create(model="tiny", prompt=prompt, max_tokens=2)
        send(f"{server.url}/completions", json.dumps({"prompt": [-1]}))
    assert found.usage.prompt_tokens_details.cached_tokens > 100


def test_text_that_is_no_json_is_refused(server: Running) -> None:
    status, answer = send(f"{server.url}/completions", "{")
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"


def test_a_key_is_asked_for(tiny_w8a8s: Path) -> None:
    running = Running(tiny_w8a8s, key=KEY)
    try:
        assert running.client.completions.create(model="tiny", prompt="a", max_tokens=1).choices
        for key in ("wrong", "", None):
            status, answer = send(f"{running.url}/completions", "{", key=key)
            assert status == 401
            assert answer["error"]["code"] == "invalid_api_key"
        assert send(running.url.replace("/v1", "/health"))[0] == 200
    finally:
        running.stop()


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called(stream: bool, tool_server: tuple[Running, list[Any]]) -> None:
    server, tools = tool_server
    options: Any = {"model": "tiny", "messages": QUESTION, "max_tokens": 200, "temperature": 0, "tools": tools}
    if not stream:
        choice = server.client.chat.completions.create(**options).choices[0]
        calls, content, reason = choice.message.tool_calls, choice.message.content, choice.finish_reason
    else:
        chunks = list(server.client.chat.completions.create(**options, stream=True))
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks).strip()
        reason = chunks[-1].choices[0].finish_reason
    assert [call.function.name for call in calls] == ["get_weather"]
    assert json.loads(calls[0].function.arguments) == {"city": "Paris"}
    assert content == "I look."
    assert reason == "tool_calls"


@pytest.fixture
def tool_server(tiny_w8a8s: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Running, list[Any]]]:
    """A server whose model calls a tool in every answer."""
    running = Running(tiny_w8a8s)
    tokenizer: Any = running.tokenizer
    tokenizer.chat_template = TEMPLATE
    real = running.answering._answer

    def answer(tokens: Any, on_text: Any, halt: Any, options: dict[str, Any]) -> Any:
        return real(tokens, on_text, halt, options | {"logits_processor": [Says(tokenizer, f"I look. {CALL}")]})

    monkeypatch.setattr(running.answering, "_answer", answer)
    yield running, [WEATHER]
    running.stop()


def test_the_command_line(
    tiny_w8a8s: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = []
    monkeypatch.setattr("uvicorn.run", lambda app, **options: served.append((app, options)))
    assert main(["serve", str(tiny_w8a8s), "--engine", "transformers", "--port", "0", "--name", "mine"]) == 0
    assert served[0][1]["host"] == "127.0.0.1"
    assert main(["serve", str(tiny_w8a8s), "--engine", "transformers", "--tp", "2"]) == 2
    assert "--tp: vLLM's" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", str(tiny_w8a8s), "--engine", "transformers", "--port", port]) == 2
    assert "cannot listen there" in capsys.readouterr().err
