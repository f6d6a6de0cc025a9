"""`tilepress eval`: how good a model is on held-out texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilepress.cli.console import print_json, print_table, progress_bar
from tilepress.cli.generation import load_model
from tilepress.cli.options import ComputeType, Device, Json, Model, ModelPath, TrustRemoteCode, chosen_model
from tilepress.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tilepress.evaluate import Divergence, Perplexity

REFERENCE = "Python's language reference"
Rows = list[tuple[str, str]]


def evaluate(
    model_argument: Model = None,
    model_path: ModelPath = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="The float model: adds its perplexity and the KL divergence from it."),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", help="A UTF-8 text file; may be given several times.", show_default=REFERENCE),
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="At most so many tokens of each text.")] = 32768,
    window: Annotated[int, typer.Option("--window", help="Tokens of each window of the text.")] = 512,
    device: Device = "cpu",
    dtype: ComputeType = None,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Perplexity of a float, W8A8S or W8A8SC directory on a text, and its divergence from the float model.

    Several texts are measured one by one; with --against the mean and the worst divergence are shown too.

    Examples:

        tilepress eval -m Qwen3-8B-w8a8sc --against Qwen3-8B

        tilepress eval -m Qwen3-8B-w8a8sc --against Qwen3-8B --text chinese.txt --text code.txt

        tilepress eval -m Qwen3-8B-w8a8sc --text novel.txt --tokens 100000 --json
    """
    from tilepress.evaluate import divergence, held_out_english, perplexity

    texts = {str(file): _read(file) for file in text} if text else {REFERENCE: held_out_english()}
    path = chosen_model(model_argument, model_path)
    model, tokenizer = load_model(path, device, dtype, trust_remote_code)
    reference = None if against is None else load_model(against, device, dtype, trust_remote_code)[0]
    window = min(window, tokens)
    for name, content in texts.items():  # before any is measured
        _check(model, tokenizer, name, content, window)
    windows = tokens // window
    alone: dict[str, Perplexity] = {}
    pairs: dict[str, Divergence] = {}
    for name, content in texts.items():
        with progress_bar("evaluate" if len(texts) == 1 else f"evaluate {name}") as progress:
            if reference is None:
                alone[name] = perplexity(
                    model, tokenizer, content, window=window, max_windows=windows, progress=progress
                )
            else:
                pairs[name] = divergence(
                    model, reference, tokenizer, content, window=window, max_windows=windows, progress=progress
                )
    if json:
        print_json(_as_dict(alone or pairs, _overall(pairs)))
    else:
        rows: Rows = []
        for name in texts:
            rows += [("text", name)] if len(texts) > 1 else []
            rows += _rows(pairs[name]) if pairs else _perplexity_rows(alone[name])
        print_table(rows + [(key.replace("_", " "), str(value)) for key, value in _overall(pairs).items()])


def _overall(pairs: dict[str, Divergence]) -> dict[str, Any]:
    """The mean and the worst divergence of several texts; nothing for one."""
    if len(pairs) < 2:
        return {}
    worst = max(pairs, key=lambda name: pairs[name].kl)
    mean = sum(pair.kl for pair in pairs.values()) / len(pairs)
    return {"mean_kl": round(mean, 6), "worst_kl": round(pairs[worst].kl, 6), "worst_text": worst}


def _as_dict(measured: dict[str, Perplexity] | dict[str, Divergence], overall: dict[str, Any]) -> dict[str, Any]:
    """The figures of one text; of several a list of them, and `overall`."""
    each = [{"text": name} | found.as_dict() for name, found in measured.items()]
    return each[0] if len(each) == 1 else {"texts": each} | overall


def _perplexity_rows(found: Perplexity) -> Rows:
    return [("perplexity", f"{found.perplexity:.3f}"), ("tokens", str(found.tokens))]


def _rows(pair: Divergence) -> Rows:
    names = {0.5: "median", 1.0: "worst"}
    quantiles = (f"{names.get(share, f'{share:.1%}')} {kl:.4f}" for share, kl in pair.quantiles.items())
    return [
        ("perplexity", f"{pair.perplexity:.3f}"),
        ("perplexity of the reference", f"{pair.reference_perplexity:.3f}"),
        ("ratio", f"{pair.perplexity / pair.reference_perplexity:.4f}"),
        ("KL divergence", f"{pair.kl:.4f} nats"),
        ("of single predictions", ", ".join(quantiles)),
        ("same first choice", f"{pair.same_top:.1%}"),
        ("tokens", str(pair.tokens)),
    ]


def _check(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, content: str, window: int) -> None:
    """Raises UsageError, naming the text, where it cannot be measured."""
    from tilepress.evaluate.windows import token_windows

    try:
        token_windows(model, tokenizer, content, window, 1)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--text {path}: {error}; give a UTF-8 text file") from error
