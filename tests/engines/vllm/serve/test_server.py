"""`tilepress serve` with a real vLLM on the CPU: one server that answers, calls tools and outlives bad requests.

`make test-vllm` runs these, in an environment that has vLLM.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import tilepress
from quantized_directories import edit_json
from quantized_models import make_w8a8s
from tilepress.compress import compress_directory
from tiny_models import make_tiny_qwen3

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here; `make test-vllm` runs these tests", allow_module_level=True)

import httpx
from openai import OpenAI

KEY, MODEL = "secret", "tiny"
TRAINED = 512  # tokens of the tiny models' context; the server is asked for 1024
START_SECONDS = 600
# As Qwen3's: tools as JSON lines, calls and results in tags.
TEMPLATE = """\
{%- if tools %}<|im_start|>system
<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>
Answer with <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor -%}
<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Bonn", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
# Thoughts first would leave a model with random weights free to write anything in them.
PLAIN: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
# JSON may have any number of blanks, and random weights may choose nothing else; repetition is made dear.
CALL: dict[str, Any] = {"max_tokens": 256, "temperature": 0, "frequency_penalty": 2}


@dataclass(frozen=True)
class Server:
    directory: Path
    url: str

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, headers={"Authorization": f"Bearer {KEY}"}, timeout=300)

    def post(self, path: str, **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx.post(self.url + path, json={"model": MODEL, **body}, headers=headers, timeout=300)

    def chat(self, content: str, **body: Any) -> httpx.Response:
        asked = {"messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0} | PLAIN
        return self.post("/v1/chat/completions", **asked | body)

    def drafts(self) -> float:
        """Tokens drafted so far."""
        return self._counted("draft_tokens")

    def accepted_drafts(self) -> float:
        return self._counted("accepted_tokens")

    def _counted(self, what: str) -> float:
        (count,) = re.findall(rf"^vllm:spec_decode_num_{what}_total\S* (\S+)", self.get("/metrics").text, re.M)
        return float(count)

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=KEY, timeout=300)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server, as a user starts it; Ctrl-C ends it."""
    models = tmp_path_factory.mktemp("models")
    source = make_tiny_qwen3(models / "float", heads=4, kv_heads=2, head_dim=32, hidden=128)
    (source / "chat_template.jinja").write_text(TEMPLATE)
    directory = models / MODEL
    compress_directory(make_w8a8s(source, models / "w8a8s", activations="overflow"), directory, tp=1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = f"-m tilepress serve {directory} --port {port} --api-key {KEY} --dtype float32 --kv-cache 64MB"
    words += " --max-model-len 1024 --parallel-decoding ngram -- --max-num-seqs 4"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    log = models / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, *words.split()], env=inherited, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            running = Server(directory, f"http://127.0.0.1:{port}")
            _wait(running, process, log)
            yield running
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if server.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def test_it_answers_those_who_have_the_key(server: Server) -> None:
    answer = server.chat("Hello").json()
    assert answer["model"] == MODEL
    assert answer["usage"]["completion_tokens"] == 8
    assert httpx.get(f"{server.url}/v1/models", timeout=60).status_code == 401
    (model,) = server.get("/v1/models").json()["data"]
    assert (model["id"], model["max_model_len"]) == (MODEL, 1024)


def test_a_tool_call_and_its_result(server: Server) -> None:
    messages: list[Any] = [{"role": "user", "content": "How is the weather in Rome?"}]
    options: dict[str, Any] = {"model": MODEL, "tools": [WEATHER], "extra_body": PLAIN}
    choice = {"type": "function", "function": {"name": "weather"}}
    create = server.client().chat.completions.create
    message = create(messages=messages, tool_choice=choice, **CALL, **options).choices[0].message
    (call,) = message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Bonn", "Rome")
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    answer = create(messages=[*messages, message.model_dump(), result], tool_choice="none", max_tokens=8, **options)
    assert answer.choices[0].finish_reason in ("length", "stop")


def test_a_streamed_tool_call(server: Server) -> None:
    stream = server.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "How is the weather in Bonn?"}],
        tools=[WEATHER],
        tool_choice="required",
        stream=True,
        extra_body=PLAIN,
        **CALL,
    )
    functions = [call.function for chunk in stream for call in chunk.choices[0].delta.tool_calls or []]
    assert [function.name for function in functions if function.name] == ["weather"]
    assert json.loads("".join(function.arguments or "" for function in functions))["city"] in ("Bonn", "Rome")


def test_a_common_beginning_is_computed_once(server: Server) -> None:
    beginning = "0123456789" * 20
    cached = [
        server.chat(beginning + end).json()["usage"]["prompt_tokens_details"]["cached_tokens"] for end in ("a", "b")
    ]
    assert cached[0] < 32
    assert cached[1] >= 192


def test_all_at_once(server: Server) -> None:
    """A forced call, streamed, with drafts, behind 1.5 times the trained length of prompt whose beginning is known."""
    options: dict[str, Any] = CALL | {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 192}
    beginning = "How is the weather? " * 23
    first = server.chat(beginning + "In Rome?", **options).json()
    assert first["usage"]["prompt_tokens"] > 1.5 * TRAINED
    drafted = server.drafts()
    stream = server.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": beginning + "In Bonn?"}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body=PLAIN,
        **options,
    )
    *chunks, last = stream
    functions = [call.function for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert functions[0].name == "weather"
    assert json.loads("".join(function.arguments or "" for function in functions))["city"] in ("Bonn", "Rome")
    assert last.usage.prompt_tokens_details.cached_tokens > TRAINED
    assert server.drafts() > drafted


def test_drafts_are_taken_and_change_no_greedy_token(server: Server, tmp_path: Path) -> None:
    accepted = server.accepted_drafts()
    prompt = [256, *range(60, 80), *range(60, 80)]
    asked = {"prompt": prompt, "max_tokens": 96, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    (choice,) = server.post("/v1/completions", **asked).json()["choices"]
    tokens = choice["token_ids"]
    assert len(tokens) == 96
    assert server.accepted_drafts() > accepted
    # The same model with the YaRN that a context of 1024 has switched on.
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512, "rope_theta": 10000.0}
    stretched = {"max_position_embeddings": 1024, "rope_parameters": yarn}
    shutil.copytree(server.directory, tmp_path / "yarn")
    edit_json(tmp_path / "yarn/config.json", lambda config: config.update(stretched))
    model, _ = tilepress.load(tmp_path / "yarn", dtype="float32")
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]
    # Sums in another order turn one choice between near equals at most, as in test_vllm.py.
    assert int((logits.argmax(-1) == torch.tensor(tokens)).sum()) >= 95


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "nonsense"},
        {"type": "object", "properties": [1, 2]},
        {"type": "object", "properties": {"city": {"$ref": "#/nowhere"}}},
        {"type": "object", "properties": {"city": {"type": "string", "pattern": "(["}}},
        "text",
    ],
    ids=["type", "properties", "reference", "pattern", "text"],
)
@pytest.mark.parametrize("choice", ["required", "auto"])
def test_a_malformed_tool_schema_is_refused_and_the_server_lives_on(
    choice: str, parameters: Any, server: Server
) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    assert 400 <= server.chat("Hello", tools=[tool], tool_choice=choice).status_code < 500
    assert server.chat("Hello").status_code == 200


def test_a_prompt_of_4_megabytes_is_refused_and_the_server_lives_on(server: Server) -> None:
    refused = server.chat("word " * 800_000)
    assert 400 <= refused.status_code < 500
    assert "context length" in refused.json()["error"]["message"]
    assert server.chat("Hello").status_code == 200


def test_a_second_server_on_its_port_is_refused(server: Server) -> None:
    words = [
        "-m",
        "tilepress",
        "serve",
        str(server.directory),
        "--kv-cache",
        "64MB",
        "--port",
        server.url.rpartition(":")[2],
    ]
    result = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300)
    assert result.returncode == 2
    assert "in use" in result.stderr
