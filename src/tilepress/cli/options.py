"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelPath = Annotated[
    str,
    typer.Option("--model-path", "-m", help="Model directory, or a hub id such as Qwen/Qwen3-8B.", show_default=False),
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:N, npu or npu:N.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let the checkpoint bring Python code of its own.")
]
Restart = Annotated[
    bool, typer.Option("--restart", help="Start over instead of going on with what an unfinished run has left.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ComputeType = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="Type of activations: float32, bfloat16 or float16.", show_default="the engine's choice"
    ),
]
System = Annotated[str | None, typer.Option("--system", help="System message.")]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", help="Stop after so many tokens.")]
Temperature = Annotated[float, typer.Option("--temperature", help="Of the sampling; 0 takes the likeliest token.")]
ParallelDecoding = Annotated[
    bool,
    typer.Option(
        "--parallel-decoding/--no-parallel-decoding",
        help="Draft tokens from earlier text that ended alike and check several at once: faster where answers repeat "
        "the prompt, and no other answer.",
    ),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        "--max-model-len",
        help="Tokens of prompt and answer; more than the model was trained for switch YaRN on.",
        show_default="the trained length",
    ),
]
Tools = Annotated[
    Path | None,
    typer.Option("--tools", help="JSON file with a list of tools, as OpenAI describes them, that the model may call."),
]
