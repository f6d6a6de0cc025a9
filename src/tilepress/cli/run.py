"""`tilepress run`: ask a model one question, or several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tilepress.cli.console import print_json
from tilepress.cli.generation import (
    SEED,
    Printer,
    draft_tokens,
    load_model,
    print_timing,
    read_prompts,
    read_tools,
    sampling_options,
    seed_torch,
    template_variables,
)
from tilepress.cli.options import (
    ComputeType,
    Device,
    Json,
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
    chosen_model,
)


def run(
    model_argument: Model = None,
    model_path: ModelPath = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", "--input-texts", help="What to ask; may be repeated.", show_default=SEED),
    ] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="UTF-8 file with a prompt a line.")] = None,
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
    chat_template: Annotated[
        Path | None, typer.Option("--chat-template", "-t", help="Jinja file to take in place of the model's template.")
    ] = None,
    is_chat_model: Annotated[
        bool, typer.Option("--is-chat-model", "-c", help="Taken as the vendor's; the template decides.", hidden=True)
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", "-r", help="Let the checkpoint bring Python code of its own.")
    ] = False,
    json: Json = False,
) -> None:
    """Answer prompts from a float, W8A8S or W8A8SC directory; the text streams to standard output.

    A beginning that several prompts share, such as the system message, is computed once. With --json several prompts
    give a list.

    Examples:

        tilepress run -m Qwen3-8B-w8a8sc

        tilepress run -m Qwen3-8B-w8a8sc --prompt "Why is the sky blue?" --max-new-tokens 100

        tilepress run -m Qwen3-8B-w8a8sc --system "Answer in one word." -p "Capital of France?" -p "Of Italy?"

        tilepress run -m Qwen3-8B-w8a8sc --prompt "Weather in Paris?" --tools tools.json --json

        tilepress run -m Qwen3-8B-w8a8sc --prompt "$(cat book.txt)" --max-model-len 131072 --parallel-decoding
    """
    from tilepress.engines.transformers import PrefixCache, generate

    sampling = sampling_options(temperature, top_p, top_k, min_p, repeat_penalty, stop, seed)
    questions = read_prompts(prompt, prompts)
    schemas = read_tools(tools)
    path = chosen_model(model_argument, model_path)
    model, tokenizer = load_model(
        path, device, dtype, trust_remote_code, max_model_len, resident, kv, chat_template=chat_template
    )
    seed_torch(seed)
    cache = PrefixCache()
    answers = []
    for question in questions:
        printer = None if json else Printer(stop)
        answer = generate(
            model,
            tokenizer,
            question,
            system=system,
            max_new_tokens=max_new_tokens,
            on_text=printer,
            template_variables=template_variables(thinking),
            tools=schemas,
            cache=cache,
            prompt_lookup_num_tokens=draft_tokens(parallel_decoding),
            **sampling,
        )
        answers.append(answer.as_dict())
        if printer is not None:
            printer.end()
            print_timing(answer)
    if json:
        print_json(answers if len(questions) > 1 else answers[0])
