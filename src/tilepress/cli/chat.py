"""`tilepress chat`: talk with a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilepress.cli.console import ERR, print_error
from tilepress.cli.generation import (
    Printer,
    draft_tokens,
    load_model,
    print_timing,
    read_tools,
    sampling_options,
    seed_torch,
    template_variables,
)
from tilepress.cli.options import (
    ComputeType,
    Device,
    KeyValues,
    MaxModelLen,
    MaxNewTokens,
    MinP,
    Model,
    ModelPath,
    ParallelDecoding,
    RepeatPenalty,
    Resident,
    SampleSeed,
    Stop,
    System,
    Temperature,
    Thinking,
    Tools,
    TopK,
    TopP,
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
    max_new_tokens: MaxNewTokens = None,
    max_model_len: MaxModelLen = None,
    parallel_decoding: ParallelDecoding = False,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    repeat_penalty: RepeatPenalty = None,
    seed: SampleSeed = None,
    stop: Stop = None,
    thinking: Thinking = None,
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

    sampling = sampling_options(temperature, top_p, top_k, min_p, repeat_penalty, stop)
    sampling["prompt_lookup_num_tokens"] = draft_tokens(parallel_decoding)
    schemas = read_tools(tools)
    path = chosen_model(model_argument, model_path)
    model, tokenizer = load_model(path, device, dtype, trust_remote_code, max_model_len, resident, kv)
    seed_torch(seed)
    conversation = Conversation(
        model, tokenizer, system=system, tools=schemas, template_variables=template_variables(thinking)
    )
    calls: Sequence[ToolCall] = ()
    while (texts := _ask(calls)) is not None:
        printer = Printer(stop)
        try:
            if calls:
                answer = conversation.tool_results(texts, max_new_tokens=max_new_tokens, on_text=printer, **sampling)
            else:
                answer = conversation.say(texts[0], max_new_tokens=max_new_tokens, on_text=printer, **sampling)
        except KeyboardInterrupt:
            ERR.print("\n[dim]stopped; this turn is forgotten[/]")
            continue
        except UsageError as error:  # one message that is too long need not end the conversation
            print_error(str(error))
            continue
        printer.end()
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
