"""Asking for answers and showing them, in `run` and `chat`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilepress.cli.console import ERR, print_note
from tilepress.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tilepress.engines.transformers import Generation


# Tokens that --parallel-decoding drafts: of 3, 5 and 10 this was nowhere slower, and gained nearly the most where
# answers repeat the prompt (docs/reference/engines.md).
DRAFT_TOKENS = 5


def sampling_options(
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    repeat_penalty: float | None = None,
    stop: Sequence[str] | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Return options of `generate`; what is None comes from the model's generation_config.json, a seed from the system.

    Temperature 0 takes the likeliest token each time, whatever that file prefers. Raises UsageError for a value out of
    range.
    """
    ranges = {
        "--temperature": (temperature, temperature is None or temperature >= 0, "0 or more"),
        "--top-p": (top_p, top_p is None or 0 < top_p <= 1, "above 0 and up to 1"),
        "--top-k": (top_k, top_k is None or top_k >= 0, "0 or more"),
        "--min-p": (min_p, min_p is None or 0 <= min_p <= 1, "from 0 to 1"),
        "--repeat-penalty": (repeat_penalty, repeat_penalty is None or repeat_penalty > 0, "above 0"),
    }
    for name, (value, right, wanted) in ranges.items():
        if not right:
            raise UsageError(f"{name} {value}: it has to be {wanted}")
    chosen = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
    options: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    if temperature == 0:
        options = {"do_sample": False, "num_beams": 1, **dict.fromkeys(chosen)}
    elif options:
        options["do_sample"] = True
    if repeat_penalty is not None:
        options["repetition_penalty"] = repeat_penalty
    if stop:
        options["stop_strings"] = list(stop)
    if seed is not None:
        options["seed"] = seed
    return options


def seed_torch(seed: int | None) -> None:
    """Seed what is drawn elsewhere than token by token; None leaves torch the seed that it has."""
    import torch

    if seed is not None:
        torch.manual_seed(seed % 2**63)


class Printer:
    """Prints an answer as it comes, without the text that ends it. On a terminal thoughts are dim, without marks."""

    def __init__(self, stops: Sequence[str] | None) -> None:
        from tilepress.engines.transformers.generation.pieces import THOUGHTS, Pieces

        self._thoughts = THOUGHTS
        self._pieces = Pieces(stops or (), thoughts=None if sys.stdout.isatty() else False)

    def __call__(self, text: str) -> None:
        self._print(text, end=False)

    def end(self) -> None:
        self._print("", end=True)

    def _print(self, text: str, *, end: bool) -> None:
        for kind, piece in self._pieces.put(text, end=end):
            print_text(f"\x1b[2m{piece}\x1b[0m" if kind == self._thoughts else piece)


def draft_tokens(parallel_decoding: bool) -> int:
    return DRAFT_TOKENS if parallel_decoding else 0


def print_text(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def print_timing(answer: Generation) -> None:
    """End the streamed line; calls, counts and speed go to standard error: standard output is the answer alone."""
    print_text("\n")
    speed = "" if answer.tokens_per_second is None else f", {answer.tokens_per_second:.1f} tokens/s"
    known = f" ({answer.cached_tokens} cached)" if answer.cached_tokens else ""
    drafts = f", {answer.accepted} of {answer.drafted} drafts accepted" if answer.drafted else ""
    for call in answer.tool_calls:
        ERR.print(f"call: {call.name} {json.dumps(call.arguments, ensure_ascii=False)}", markup=False, soft_wrap=True)
    for error in answer.tool_errors:
        print_note(error)
    if answer.finish_reason == "length":
        print_note(
            f"the answer was cut after {answer.new_tokens} tokens; --max-new-tokens or --max-model-len allow more"
        )
    ERR.print(
        f"[dim]{answer.prompt_tokens} prompt tokens{known}, first token after {answer.first_token_seconds:.2f} s; "
        f"{answer.new_tokens} new tokens{speed}{drafts}[/]",
        highlight=False,
        soft_wrap=True,
    )


def load_model(
    path: str,
    device: str,
    dtype: str | None,
    trust_remote_code: bool,
    max_model_len: int | None = None,
    resident: str | None = None,
    kv: str | None = None,
    *,
    chat_template: Path | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load as `tilepress.load` does, with a status line in place of transformers' bar, and a note about YaRN.

    chat_template: a file to take in place of the tokenizer's.
    """
    from transformers.utils.logging import disable_progress_bar

    from tilepress.engines.transformers import loading

    template = None if chat_template is None else _read_template(chat_template)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    with ERR.status(f"loading {path}"):
        model, tokenizer = loading.load_model(
            path,
            device=device,
            dtype=dtype,
            max_model_len=max_model_len,
            trust_remote_code=trust_remote_code,
            template_needed=template is None,
            resident=resident,
            kv=kv,
        )
    if template is not None:
        tokenizer.chat_template = template
    if max_model_len is not None and max_model_len == model.config.max_position_embeddings:
        rotary = model.config.rope_parameters
        if rotary.get("rope_type") == "yarn":
            print_note(
                f"YaRN is on: {max_model_len} tokens, {rotary['factor']:.2f} times the "
                f"{rotary['original_max_position_embeddings']} that the model was trained for; leave "
                "--max-model-len out where prompts are short"
            )
    return model, tokenizer


def _read_template(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--chat-template {file}: {error}; give a UTF-8 file with a Jinja template") from error


def template_variables(thinking: bool | None) -> dict[str, bool] | None:
    return None if thinking is None else {"enable_thinking": thinking}


SEED = "What's deep learning?"


def read_prompts(prompts: Sequence[str] | None, file: Path | None) -> list[str]:
    """Return the prompts of the command line, then those of the file, one a line; SEED where there are none.

    Raises UsageError for a file that cannot be read or holds no prompt.
    """
    if file is None:
        return list(prompts or [SEED])
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompts {file}: {error}; give a UTF-8 text file with a prompt a line") from error
    if not lines:
        raise UsageError(f"--prompts {file}: holds no prompt; write one a line")
    return [*(prompts or []), *lines]


def read_tools(path: Path | None) -> list[Any] | None:
    """Return the schemas in a JSON file; None for None. UsageError names the file, and the entry that is no tool."""
    from tilepress.engines.transformers.generation.tools import tool_schemas

    if path is None:
        return None
    try:
        tools = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--tools {path}: {error}; give a JSON file with a list of tools") from error
    return tool_schemas(tools, f"--tools {path}")
