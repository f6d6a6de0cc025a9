"""Tools in, call out, result back in, answer; and tools that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import tilepress
from qwen3_tools import TEMPLATE, WEATHER, Says
from tilepress import UsageError
from tilepress.engines.transformers import Conversation, ToolCall, generate
from tilepress.engines.transformers.generate import render
from tilepress.engines.transformers.generation.tools import tool_schemas

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture(scope="module")
def tiny(tiny_w8a8s: Path) -> Loaded:
    model, tokenizer = tilepress.load(tiny_w8a8s, max_model_len=1024)
    tokenizer.chat_template = TEMPLATE
    return model, tokenizer


def says(tokenizer: PreTrainedTokenizerBase, text: str) -> dict[str, Any]:
    return {"logits_processor": [Says(tokenizer, text)]}


def test_a_round_trip(tiny: Loaded) -> None:
    model, tokenizer = tiny
    conversation = Conversation(model, tokenizer, tools=[WEATHER])
    asked = conversation.say("Weather in Paris?", **says(tokenizer, CALL))
    assert asked.text == CALL
    assert asked.tool_calls == (ToolCall("get_weather", {"city": "Paris"}),)
    assert asked.as_dict()["tool_calls"] == [{"name": "get_weather", "arguments": {"city": "Paris"}}]
    answer = conversation.tool_results([{"celsius": 21}], **says(tokenizer, "It is 21 degrees."))
    assert answer.text == "It is 21 degrees."
    assert answer.tool_calls == ()
    assert answer.cached_tokens >= asked.prompt_tokens + asked.new_tokens - 1  # the call's own tokens too
    assert [message["role"] for message in conversation.messages] == ["user", "assistant", "tool", "assistant"]
    text = tokenizer.decode(render(conversation.messages, tokenizer, None, [WEATHER]))
    assert '"name": "get_weather", "description"' in text
    assert f"<|im_start|>assistant\n{CALL}<|im_end|>" in text
    assert '<|im_start|>user\n<tool_response>\n{"celsius": 21}\n</tool_response><|im_end|>' in text


def test_several_calls_take_several_results(tiny: Loaded) -> None:
    model, tokenizer = tiny
    conversation = Conversation(model, tokenizer, tools=[WEATHER])
    calls = f"Both:\n{CALL}\n{CALL.replace('Paris', 'Rome')}"
    asked = conversation.say("Paris or Rome?", **says(tokenizer, calls))
    assert [call.arguments["city"] for call in asked.tool_calls] == ["Paris", "Rome"]
    for results in ([], ["rain"], ["rain"] * 3):
        with pytest.raises(UsageError, match="for 2 open tool calls; give one for each"):
            conversation.tool_results(results)
    with pytest.raises(UsageError, match="the result of get_weather is neither text nor JSON"):
        conversation.tool_results([object(), "sun"])
    answer = conversation.tool_results(["rain", "sun"], **says(tokenizer, "Rome."))
    assert answer.text == "Rome."
    with pytest.raises(UsageError, match="0 open tool calls"):
        conversation.tool_results(["sun"])
    text = tokenizer.decode(render(conversation.messages, tokenizer, None, [WEATHER]))
    assert f"assistant\n{calls}<|im_end|>" in text
    assert "</tool_response>\n<tool_response>\nsun\n" in text


def test_a_malformed_call_loses_nothing(tiny: Loaded) -> None:
    model, tokenizer = tiny
    conversation = Conversation(model, tokenizer, tools=[WEATHER])
    broken = CALL.replace("}}", "}")
    answer = conversation.say("Weather?", **says(tokenizer, broken))
    assert answer.text == broken
    assert answer.tool_calls == ()
    assert "tool call 1 cannot be read" in answer.tool_errors[0]
    assert conversation.messages[-1] == {"role": "assistant", "content": broken}
    assert conversation.say("Again?", **says(tokenizer, "Sorry.")).text == "Sorry."


def test_generate_takes_tools_and_parses_calls_only_with_them(tiny: Loaded) -> None:
    model, tokenizer = tiny
    answer = generate(model, tokenizer, "Weather?", tools=[WEATHER], **says(tokenizer, CALL))
    assert answer.tool_calls == (ToolCall("get_weather", {"city": "Paris"}),)
    plain = generate(model, tokenizer, "Weather?", **says(tokenizer, CALL))
    assert plain.tool_calls == ()
    assert plain.prompt_tokens < answer.prompt_tokens


def test_a_function_is_a_tool() -> None:
    def get_weather(city: str) -> str:
        """The weather in a city.

        Args:
            city: Its name.
        """
        return city

    def undescribed(city):  # type: ignore[no-untyped-def]
        return city

    (schema,) = tool_schemas([get_weather])
    assert schema["function"]["name"] == "get_weather"
    assert schema["function"]["parameters"]["required"] == ["city"]
    with pytest.raises(UsageError, match="tools: entry 2: no schema can be made of the function"):
        tool_schemas([get_weather, undescribed])


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {**WEATHER["function"], "name": "other", **fields}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("get_weather", "entry 2: is no tool; write it as"),
        (WEATHER["function"], "entry 2: is no tool; write it as"),
        ({"type": "function", "function": "get_weather"}, "entry 2: is no tool"),
        (function(name=""), "entry 2: \"name\" is ''; give the function a name"),
        (function(name=None), 'entry 2: "name" is None'),
        (function(parameters=["city"]), "entry 2: \"parameters\" of 'other' is no JSON schema of an object"),
        (function(parameters={"city": "string"}), "entry 2: \"parameters\" of 'other' is no JSON schema of an object"),
        (function(parameters={"type": "object", "properties": []}), "entry 2: \"properties\" of 'other'"),
        (function(description=3), "entry 2: \"description\" of 'other' is no text"),
        (WEATHER, "entry 2: a tool before it is called 'get_weather' too"),
    ],
)
def test_what_is_no_tool_is_refused(entry: Any, message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        tool_schemas([WEATHER, entry], "tools.json")
    assert str(refusal.value).startswith("tools.json: ")
    assert message in str(refusal.value)


def test_no_tools_and_templates_without_tools_are_refused(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny
    for tools in ([], WEATHER, "get_weather"):
        with pytest.raises(UsageError, match="a list of at least one tool"):
            generate(model, tokenizer, "Hello", tools=tools)  # type: ignore[arg-type]
    for template in (None, "{{ messages[0].content }}"):
        monkeypatch.setattr(tokenizer, "chat_template", template)
        with pytest.raises(UsageError, match="chat template knows no tools; use a model trained to call them"):
            generate(model, tokenizer, "Hello", tools=[WEATHER])


@pytest.mark.parametrize("marks", ["<tool_call> </tool_call>", "<tool_call> </tool_call> <think> </think>"])
def test_marks_that_the_tokenizer_calls_special_are_read_and_not_shown(marks: str, tiny_w8a8s: Path) -> None:
    model, tokenizer = tilepress.load(tiny_w8a8s, max_model_len=1024)
    tokenizer.chat_template = TEMPLATE
    tokenizer.add_special_tokens({"additional_special_tokens": marks.split()})
    said = f"<think>Hm.</think>Now.\n{CALL}"
    conversation = Conversation(model, tokenizer, tools=[WEATHER])
    asked = conversation.say("Weather in Paris?", **says(tokenizer, said))
    assert asked.tool_calls == (ToolCall("get_weather", {"city": "Paris"}),)
    assert asked.tool_errors == ()
    assert "<tool_call>" not in asked.text
    assert "<|im_end|>" not in asked.text
    assert '"get_weather"' in asked.text
    assert conversation.messages[-1]["content"] == "<think>Hm.</think>Now."
    assert conversation.tool_results(["rain"], **says(tokenizer, "Rain.")).text == "Rain."
