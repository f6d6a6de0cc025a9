"""How answers are asked for and shown, in `run` and `chat`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tilepress.cli.console import ERR
from tilepress.errors import UsageError

if TYPE_CHECKING:
    from tilepress.engines.transformers import Generation


def sampling_options(temperature: float) -> dict[str, Any]:
    """Temperature 0 takes the likeliest token each time, whatever the model's generation_config.json prefers."""
    if temperature < 0:
        raise UsageError(f"--temperature {temperature}: it has to be 0 or more")
    if temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": True, "temperature": temperature}


def print_text(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def print_timing(answer: Generation) -> None:
    """End the streamed line; counts and speed go to standard error, so that standard output is the answer alone."""
    print_text("\n")
    speed = "" if answer.tokens_per_second is None else f", {answer.tokens_per_second:.1f} tokens/s"
    known = f" ({answer.cached_tokens} cached)" if answer.cached_tokens else ""
    ERR.print(
        f"[dim]{answer.prompt_tokens} prompt tokens{known}, first token after {answer.first_token_seconds:.2f} s; "
        f"{answer.new_tokens} new tokens{speed}[/]",
        highlight=False,
    )
