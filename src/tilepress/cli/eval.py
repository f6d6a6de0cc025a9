"""`tilepress eval`: how good a model is on a held-out text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tilepress.cli.console import print_json, print_table, progress_bar
from tilepress.cli.generation import load_model
from tilepress.cli.options import ComputeType, Device, Json, ModelPath, TrustRemoteCode
from tilepress.errors import UsageError


def evaluate(
    model_path: ModelPath,
    against: Annotated[
        str | None,
        typer.Option("--against", help="The float model: adds its perplexity and the KL divergence from it."),
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text", help="A UTF-8 text file.", show_default="Python's language reference")
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="At most so many tokens of the text.")] = 32768,
    window: Annotated[int, typer.Option("--window", help="Tokens that are seen together.")] = 512,
    device: Device = "cpu",
    dtype: ComputeType = None,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Perplexity of a float, W8A8S or W8A8SC directory on English text, and its divergence from the float model.

    Examples:

        tilepress eval -m Qwen3-8B-w8a8sc --against Qwen3-8B

        tilepress eval -m Qwen3-8B-w8a8sc --text novel.txt --tokens 100000 --json
    """
    from tilepress.evaluate import divergence, held_out_english, perplexity

    content = held_out_english() if text is None else _read(text)
    model, tokenizer = load_model(model_path, device, dtype, trust_remote_code)
    windows = max(1, tokens // window)
    if against is None:
        with progress_bar("evaluate") as progress:
            alone = perplexity(model, tokenizer, content, window=window, max_windows=windows, progress=progress)
        rows = [("perplexity", f"{alone.perplexity:.3f}"), ("tokens", str(alone.tokens))]
        result = alone.as_dict()
    else:
        reference, _ = load_model(against, device, dtype, trust_remote_code)
        with progress_bar("evaluate") as progress:
            pair = divergence(
                model, reference, tokenizer, content, window=window, max_windows=windows, progress=progress
            )
        rows = [
            ("perplexity", f"{pair.perplexity:.3f}"),
            ("perplexity of the reference", f"{pair.reference_perplexity:.3f}"),
            ("ratio", f"{pair.perplexity / pair.reference_perplexity:.4f}"),
            ("KL divergence", f"{pair.kl:.4f} nats"),
            ("same first choice", f"{pair.same_top:.1%}"),
            ("tokens", str(pair.tokens)),
        ]
        result = pair.as_dict()
    if json:
        print_json(result)
    else:
        print_table(rows)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--text {path}: {error}; give a UTF-8 text file") from error
