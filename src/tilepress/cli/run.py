"""`tilepress run`: ask a model one question."""

from __future__ import annotations

from typing import Annotated

import typer

from tilepress.cli.console import print_json
from tilepress.cli.generation import print_text, print_timing, sampling_options
from tilepress.cli.loading import load_model
from tilepress.cli.options import (
    ComputeType,
    Device,
    Json,
    MaxNewTokens,
    ModelPath,
    System,
    Temperature,
    TrustRemoteCode,
)


def run(
    model_path: ModelPath,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to ask.")] = "What's deep learning?",
    system: System = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the sampling.")] = 0,
    device: Device = "cpu",
    dtype: ComputeType = None,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Answer a prompt from a float, W8A8S or W8A8SC directory; the text streams to standard output.

    Examples:

        tilepress run -m Qwen3-8B-w8a8sc

        tilepress run -m Qwen3-8B-w8a8sc --prompt "Why is the sky blue?" --max-new-tokens 100
    """
    import torch

    from tilepress.engines.transformers import generate

    sampling = sampling_options(temperature)
    model, tokenizer = load_model(model_path, device, dtype, trust_remote_code)
    torch.manual_seed(seed)
    answer = generate(
        model,
        tokenizer,
        prompt,
        system=system,
        max_new_tokens=max_new_tokens,
        on_text=None if json else print_text,
        **sampling,
    )
    if json:
        print_json(answer.as_dict())
    else:
        print_timing(answer)
