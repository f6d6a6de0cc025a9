"""Conversations as published data sets write them: what reaches the text, and what is said of the rest."""

from __future__ import annotations

import contextlib
import json
import warnings
from typing import Any

import pytest

from tilepress.errors import QuantizationError, TilepressWarning
from tilepress.quantize.calibration.records import documents_of
from tiny_models import CHAT_TEMPLATE, byte_level_tokenizer

ASK = {"role": "user", "content": "Warm in Oslo?"}
ANSWER = {"role": "assistant", "content": "Nine degrees."}
RESULT = {"role": "tool", "content": '{"degrees": 9}'}
ARGUMENTS = {"city": "Oslo"}
WEATHER = {"name": "weather", "description": "of a city", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": WEATHER}]
CALLS = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": json.dumps(ARGUMENTS)}}]
CALL = {"role": "assistant", "content": None, "tool_calls": CALLS}
SHAREGPT_CALL = json.dumps({"name": "weather", "arguments": ARGUMENTS})
OBSERVATION = {"from": "observation", "value": RESULT["content"]}
GPT = [{"from": "human", "value": "Warm in Oslo?"}, {"from": "gpt", "value": "Nine degrees."}]

# What families of real templates do.
EACH = "{% for m in messages %}"
WRITE = "<{{ m.role }}>{{ m.content }}{% endfor %}"
NATIVE = (  # Qwen3: writes everything, but thoughts only after the last question
    "{% if tools %}T{{ tools | tojson }}{% endif %}" + EACH + "<{{ m.role }}>"
    "{% if m.reasoning_content and loop.last %}?{{ m.reasoning_content }}?{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls %}!{{ c.function | tojson }}{% endfor %}{% endfor %}"
)  # fmt: skip
QUOTING = NATIVE.replace("{{ m.content }}", "{{ m.content | tojson if m.role == 'tool' else m.content }}")
NO_CRITIC = NATIVE.replace("<{{", "{% if m.role == 'critic' %}{% continue %}{% endif %}<{{")
TOOLS_ONLY = "{% if tools %}{{ tools | tojson }}{% endif %}" + EACH + WRITE  # SmolLM3: no calls
THREE_ROLES = EACH + "{% if m.role in ['system', 'user', 'assistant'] %}" + WRITE.replace("{% end", "{% endif %}{% end")
NO_SYSTEM = EACH + "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + WRITE  # Gemma 2
ALTERNATING = (  # Gemma 3
    "{{ messages[0].content if messages[0].role == 'system' }}{% for m in messages if m.role != 'system' %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}" + WRITE
)
THINKING = EACH + "{{ raise_exception('tool') if m.role == 'tool' }}{{ m.reasoning_content }}" + WRITE
SPLITTING = EACH + "{{ m.content.split('</think>') | map('trim') | join('</think>\n\n') }}{% endfor %}"


def read(record: object, template: str | None = CHAT_TEMPLATE) -> tuple[str, str]:
    """The text of a record, and the warning, empty where there is none."""
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = template
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (text,) = documents_of([("set.jsonl, line 1", record)], tokenizer, "set.jsonl")
    assert all(warning.category is TilepressWarning for warning in caught)
    return text, " ".join(str(warning.message) for warning in caught)


def openai(*messages: Any, **beside: object) -> dict[str, Any]:
    return {"messages": list(messages), **beside}


@pytest.mark.parametrize(
    "record",
    [
        openai(ASK, ANSWER, prompt_id="7"),  # UltraChat 200k
        {"conversations": [{**entry, "weight": None} for entry in GPT], "system_prompt": None},  # OpenHermes
        openai({"role": "user", "content": [{"type": "text", "text": "Warm in Oslo?"}]}, ANSWER),
        openai({**ASK, "name": None}, {**ANSWER, "tool_calls": None, "reasoning_content": None}, tools=None, system=""),
        {"conversations": [{"role": None, "content": None, **entry} for entry in GPT]},  # columns of two sets in one
        {"messages": [], "conversations": GPT},
        {"text": "", "conversations": GPT},
        {"conversations": [{**GPT[0], "from": "Human"}, {**GPT[1], "from": "Assistant"}]},
    ],
)
def test_one_conversation_in_the_forms_of_published_sets(record: object) -> None:
    text = "<|im_start|>user\nWarm in Oslo?<|im_end|>\n<|im_start|>assistant\nNine degrees.<|im_end|>\n"
    assert read(record) == (text, "")


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (CALL, RESULT),
        ({**CALL, "content": "", "tool_calls": json.dumps(CALLS)}, RESULT),
        ({**CALL, "tool_calls": [{"name": "weather", "arguments": ARGUMENTS}]}, RESULT),
        ({"role": "assistant", "content": None, "function_call": CALLS[0]["function"]}, {**RESULT, "role": "function"}),
        ({"from": "function_call", "value": SHAREGPT_CALL}, OBSERVATION),  # glaive in LLaMA-Factory's form
        ({"from": "function_call", "value": f"[{SHAREGPT_CALL}]"}, OBSERVATION),  # several calls at once there
        ({"role": "tool_call", "content": SHAREGPT_CALL}, {**RESULT, "role": "tool_response"}),  # ms-swift
    ],
)
def test_calls_in_every_form_reach_a_template_that_writes_them(call: Any, result: Any) -> None:
    text, warning = read(openai(ASK, call, result, ANSWER, tools=TOOLS), NATIVE)

    written = '!{"name": "weather", "arguments": {"city": "Oslo"}}<tool>{"degrees": 9}'
    assert text == f"T{json.dumps(TOOLS)}<user>Warm in Oslo?<assistant>{written}<assistant>Nine degrees."
    assert not warning


@pytest.mark.parametrize("tools", [json.dumps(TOOLS), [json.dumps(tool) for tool in TOOLS], TOOLS[0]])
def test_definitions_in_every_form_reach_it(tools: Any) -> None:
    assert read(openai(ASK, tools=tools), NATIVE) == (f"T{json.dumps(TOOLS)}<user>Warm in Oslo?", "")


def test_a_template_without_tools_is_given_them_in_plain_text() -> None:
    text, warning = read(openai(ASK, CALL, RESULT, ANSWER, tools=TOOLS), THREE_ROLES)

    assert f"<tools>\n{json.dumps(TOOLS[0])}\n</tools>" in text.split("<user>")[0]
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>' in text
    assert '<user><tool_response>\n{"degrees": 9}\n</tool_response>' in text
    assert warning.endswith("1 conversations have them in Hermes' form")  # and nothing is left out


@pytest.mark.parametrize(
    ("record", "template", "parts"),
    [
        (openai(ASK, CALL, RESULT, RESULT, ANSWER, tools=TOOLS), ALTERNATING, ["of a city", '"Oslo"', '": 9']),
        (openai(ASK, {**CALL, "reasoning_content": "Hm."}, RESULT, ANSWER), THINKING, ["Hm.", '"Oslo"', '": 9']),
        (openai(ASK, CALL, RESULT, ANSWER, tools=TOOLS), TOOLS_ONLY, ['"Oslo"']),  # the definition has the call's name
        (openai({**ASK, "content": "weather"}, tools=TOOLS), CHAT_TEMPLATE, ["of a city"]),  # the question has it
        (openai({**ASK, "role": "developer"}, ASK), THREE_ROLES, ["<system>Warm"]),
    ],
)
def test_what_a_template_refuses_or_ignores_reaches_the_text(record: Any, template: str, parts: list[str]) -> None:
    text, _ = read(record, template)
    assert [part for part in parts if part not in text] == []


def test_where_plain_text_is_refused_the_template_s_own_text_stands() -> None:
    text, warning = read(openai(ASK, ANSWER, tools=TOOLS), NO_SYSTEM)
    assert "<assistant>Nine degrees." in text
    assert "of a city" in text or "1 tool definitions" in warning


SILENT: dict[str, tuple[dict[str, Any], str]] = {
    "second system": (openai({"role": "system", "content": "One."}, ASK, system="Be kind."), "kind"),
    "system in parts": (openai(ASK, system=[{"type": "text", "text": "Be kind."}]), "kind"),
    "OpenHermes' system": ({"conversations": GPT, "system_prompt": "Be kind."}, "kind"),
    "tools in words": (openai(ASK, tools="weather: of a city"), "of a city"),
    "OpenAI's old functions": (openai(ASK, functions=[WEATHER]), "of a city"),
    "one call": (openai(ASK, {**CALL, "content": "", "tool_calls": CALLS[0]}), '"Oslo"'),
    "Llama 3's parameters": (openai(ASK, {**CALL, "tool_calls": [{"name": "f", "parameters": ARGUMENTS}]}), '"Oslo"'),
    "gpt-oss": (openai(ASK, {**ANSWER, "thinking": "Deep."}), "Deep"),
    "vLLM": (openai(ASK, {**ANSWER, "reasoning": "Deep."}), "Deep"),
    "thoughts in parts": (openai(ASK, {**ANSWER, "reasoning_content": [{"type": "text", "text": "Deep."}]}), "Deep"),
    "earlier thoughts": (openai(ASK, {**ANSWER, "reasoning_content": "Deep."}, ASK, ANSWER), "Deep"),
    "words found elsewhere": (openai(ASK, {"role": "critic", "content": "Oslo"}), "<critic>"),
    "preferred answer": ({"conversations": GPT[:1], "chosen": GPT[1], "rejected": GPT[1]}, "Nine"),
    "preferred text": ({"conversations": GPT[:1], "chosen": "Nine degrees."}, "Nine"),
    "preferred conversation": ({"conversations": GPT[:1], "chosen": GPT}, "Nine"),
    "images beside": (openai(ASK, images=["a.png"]), "a.png"),
    "tools of the system message": (openai({"role": "system", "content": "Hi.", "tools": TOOLS}, ASK), "of a city"),
    "two lists": ({"messages": [ASK], "conversations": GPT}, "Nine"),
    "an empty content beside a value": (openai({"role": "user", "content": "", "value": "Warm?"}), "Warm?"),
    "arguments that are false": (openai(ASK, {**CALL, "tool_calls": [{"name": "f", "arguments": 0}]}), ": 0"),
}


@pytest.mark.parametrize(("record", "part"), SILENT.values(), ids=SILENT)
def test_nothing_is_dropped_in_silence(record: object, part: str) -> None:
    text, warning = read(record, NO_CRITIC)
    assert part in text or "left out" in warning


@pytest.mark.parametrize(
    ("record", "template"),
    [
        (openai(ASK, CALL, RESULT, ANSWER, tools=TOOLS), QUOTING),  # Llama 3.1, Phi-4: a result as a string of JSON
        (openai(ASK, {**ANSWER, "content": "<think>Hm.</think>Nine."}), SPLITTING),
        (openai(ASK, ANSWER, tools=[{"name": 'the "weather"'}]), NATIVE),
    ],
)
def test_no_warning_where_a_template_only_writes_it_otherwise(record: object, template: str) -> None:
    assert read(record, template)[1] == ""


def test_thoughts_alone_are_not_reported_as_tool_calls() -> None:
    text, warning = read(openai(ASK, {**ANSWER, "reasoning_content": "Hm."}))
    assert "<think>\nHm.\n</think>" in text
    assert "tool calls" not in warning


def test_the_text_is_the_same_at_another_time() -> None:
    template = "{{ strftime_now('%f') }}" + CHAT_TEMPLATE  # Llama 3.2 writes the date: a resumed job finds another text
    assert read(openai(ASK, ANSWER), template) == read(openai(ASK, ANSWER), template)


@pytest.mark.parametrize(
    "record",
    [
        openai("hello"), openai([ASK]), openai({"role": 3, "content": "x"}), openai({"role": "user", "content": 3}),
        openai({"role": "user", "content": None}), openai(ASK, {**CALL, "tool_calls": [None]}), openai(),
        openai(ASK, {**CALL, "tool_calls": [{"function": {"arguments": "{}"}}]}), {"prompt": "x"}, 7, None,
        openai(ASK, system=42),
    ],
)  # fmt: skip
@pytest.mark.parametrize("template", [CHAT_TEMPLATE, NATIVE])
def test_a_malformed_record_is_refused_with_its_line(record: object, template: str) -> None:
    with pytest.raises(QuantizationError, match=r"set\.jsonl, line 1"):
        read(record, template)


@pytest.mark.parametrize("tools", [[{"function": None}], [{"function": "weather"}], [None], "[" * 9000, "1" * 5000])
def test_definitions_of_no_known_form_raise_nothing_else(tools: object) -> None:
    with contextlib.suppress(QuantizationError):
        assert "Nine degrees." in read(openai(ASK, ANSWER, tools=tools), NATIVE)[0]
