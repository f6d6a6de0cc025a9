"""`tilepress chat`: talk with a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilepress.cli.console import ERR, print_error
from tilepress.cli.generation import draft_tokens, load_model, print_text, print_timing, read_tools, sampling_options
from tilepress.cli.options import (
    ComputeType,
    Device,
    KeyValues,
    MaxModelLen,
    MaxNewTokens,
    Model,
    ModelPath,
    ParallelDecoding,
    Resident,
    System,
    Temperature,
    Tools,
    TrustRemoteCode,
    chosen_model,
)
from tilepress.errors import UsageError

if TYPE_CHECKING:
    from tilepress.engines.transformers import ToolCall


def chat(
    model_argument: Model = None,
    model_path: ModelPath = None,
    system: System = None,
    tools: Tools = None,
    max_new_tokens: MaxNewTokens = 512,
    max_model_len: MaxModelLen = None,
    parallel_decoding: ParallelDecoding = False,
    temperature: Temperature = 0.0,
    device: Device = "cpu",
    dtype: ComputeType = None,
    resident: Resident = None,
    kv: KeyValues = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Talk with a model over several turns; keys and values are kept between turns. End with Ctrl-D or /exit.

    Where the model calls a tool, you are asked for its result.

    Examples:

        tilepress chat -m Qwen3-8B-w8a8sc --system "Answer in one sentence."

        tilepress chat -m Qwen3-8B-w8a8sc --tools tools.json --parallel-decoding
    """
    from tilepress.engines.transformers import Conversation

    sampling = sampling_options(temperature) | {"prompt_lookup_num_tokens": draft_tokens(parallel_decoding)}
    schemas = read_tools(tools)
    path = chosen_model(model_argument, model_path)
    model, tokenizer = load_model(path, device, dtype, trust_remote_code, max_model_len, resident, kv)
    conversation = Conversation(model, tokenizer, system=system, tools=schemas)
    calls: Sequence[ToolCall] = ()
    while (texts := _ask(calls)) is not None:
        try:
            if calls:
                answer = conversation.tool_results(texts, max_new_tokens=max_new_tokens, on_text=print_text, **sampling)
            else:
                answer = conversation.say(texts[0], max_new_tokens=max_new_tokens, on_text=print_text, **sampling)
        except KeyboardInterrupt:
            ERR.print("\n[dim]stopped; this turn is forgotten[/]")
            continue
        except UsageError as error:  # one message that is too long need not end the conversation
            print_error(str(error))
            continue
        print_timing(answer)
        calls = answer.tool_calls


def _ask(calls: Sequence[ToolCall]) -> list[str] | None:
    """Ask for the result of each call, or else for the next message; return None at the end of the input."""
    prompts = [f"{call.name} {json.dumps(call.arguments, ensure_ascii=False)} = " for call in calls] or ["> "]
    texts: list[str] = []
    while len(texts) < len(prompts):
        try:
            text = input(prompts[len(texts)] if ERR.is_terminal else "").strip()
        except EOFError:
            return None
        if text in ("/exit", "/quit"):
            return None
        if text:
            texts.append(text)
    return texts
