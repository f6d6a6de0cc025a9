"""`tilepress chat`: talk with a model."""

from __future__ import annotations

from tilepress.cli.console import ERR
from tilepress.cli.generation import print_text, print_timing, sampling_options
from tilepress.cli.loading import load_model
from tilepress.cli.options import ComputeType, Device, MaxNewTokens, ModelPath, System, Temperature, TrustRemoteCode


def chat(
    model_path: ModelPath,
    system: System = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    device: Device = "cpu",
    dtype: ComputeType = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Talk with a model over several turns; keys and values are kept between turns. End with Ctrl-D or /exit.

    Example:

        tilepress chat -m Qwen3-8B-w8a8sc --system "Answer in one sentence."
    """
    from tilepress.engines.transformers import Conversation

    sampling = sampling_options(temperature)
    model, tokenizer = load_model(model_path, device, dtype, trust_remote_code)
    conversation = Conversation(model, tokenizer, system=system)
    while (text := _ask()) is not None:
        if not text:
            continue
        try:
            answer = conversation.say(text, max_new_tokens=max_new_tokens, on_text=print_text, **sampling)
        except KeyboardInterrupt:
            ERR.print("\n[dim]stopped; this turn is forgotten[/]")
            continue
        print_timing(answer)


def _ask() -> str | None:
    """The next message; None at the end of the input."""
    try:
        text = input("> " if ERR.is_terminal else "").strip()
    except EOFError:
        return None
    return None if text in ("/exit", "/quit") else text
