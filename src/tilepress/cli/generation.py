"""How answers are asked for and shown, in `run` and `chat`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from tilepress.cli.console import ERR, print_note
from tilepress.errors import UsageError

if TYPE_CHECKING:
    from tilepress.engines.transformers import Generation

# Of --parallel-decoding: of 3, 5 and 10 the one that lost nowhere and gained nearly the most where answers repeat the
# prompt (docs/engines.md).
DRAFT_TOKENS = 5


def sampling_options(temperature: float) -> dict[str, Any]:
    """Temperature 0 takes the likeliest token each time, whatever the model's generation_config.json prefers."""
    if temperature < 0:
        raise UsageError(f"--temperature {temperature}: it has to be 0 or more")
    if temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "num_beams": 1}
    return {"do_sample": True, "temperature": temperature}


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
    ERR.print(
        f"[dim]{answer.prompt_tokens} prompt tokens{known}, first token after {answer.first_token_seconds:.2f} s; "
        f"{answer.new_tokens} new tokens{speed}{drafts}[/]",
        highlight=False,
        soft_wrap=True,
    )
