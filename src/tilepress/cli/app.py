"""The program: its commands, and how an error becomes one line and exit status 2."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import tilepress
from tilepress import _native
from tilepress.cli.bench import bench
from tilepress.cli.chat import chat
from tilepress.cli.compress import compress
from tilepress.cli.console import print_error, print_note
from tilepress.cli.convert import convert
from tilepress.cli.decompress import decompress
from tilepress.cli.eval import evaluate
from tilepress.cli.export import export
from tilepress.cli.inspect import inspect
from tilepress.cli.plan import plan
from tilepress.cli.quant import quant
from tilepress.cli.reshard import reshard
from tilepress.cli.run import run
from tilepress.cli.serve import serve
from tilepress.errors import TilepressError, TilepressWarning, UsageError

EPILOG = "Options may be spelled with - or _. --debug, anywhere, shows the traceback of an error."


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tilepress {tilepress.__version__}")
        raise typer.Exit


app = typer.Typer(
    name="tilepress",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    # The vendor's command lines spell options with underscores.
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Make large language models small and fast: sparse int8 weights, compressed, run from the compressed bytes."""


app.command()(plan)
app.command()(quant)
app.command()(compress)
app.command()(convert)
app.command()(decompress)
app.command()(export)
app.command()(reshard)
app.command()(run)
app.command()(chat)
app.command()(serve)
app.command("eval")(evaluate)
app.command()(inspect)
app.add_typer(bench, name="bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and give its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = _with_repeated_tags(_with_plain_flags([word for word in words if word != "--debug"]))
    # The time that torch's threads spin before they sleep; read when torch is imported. Where the decoder called torch
    # and the kernels between, on these threads, SmolLM2 on two idle cores generated 138 tokens/s with this, 140 with
    # libgomp's own 300,000, 121 with 1,000; on cores that other processes kept busy libgomp's own left 1 to 10.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # of a character that the terminal's encoding lacks
    # On SIGTERM a command cleans up after itself as it does on Ctrl-C.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _check_instruction_set()
        with warnings.catch_warnings():
            _show_as_notes()
            return app(words, prog_name="tilepress", standalone_mode=True) or 0
    except SystemExit as exit_:
        if isinstance(exit_.code, str):  # Python prints it, too, where nobody catches the exception
            print_error(exit_.code)
        return exit_.code if isinstance(exit_.code, int) else 1
    except TilepressError as error:
        if debug:
            raise
        print_error(str(error))
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_as_notes() -> None:
    """Show each warning of tilepress once, as a note; show all other warnings as before."""
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, TilepressWarning):
            print_note(str(message))
        else:
            others(message, category, *where)

    warnings.showwarning = show  # type: ignore[assignment]
    warnings.simplefilter("once", TilepressWarning)


def _check_instruction_set() -> None:
    try:
        _native.isa()
    except RuntimeError as error:
        raise UsageError(str(error)) from error


def _with_plain_flags(words: list[str]) -> list[str]:
    """Turn the vendor's `--trust_remote_code True`, or with =, into a flag, and drop it where the value is False."""
    flags = ["--trust_remote_code", "--trust-remote-code"]
    flags += ["-r", "--is_chat_model", "--is-chat-model", "-c"] if words[:1] == ["run"] else []
    folded: list[str] = []
    i = 0
    while i < len(words):
        word, joined, value = words[i].partition("=")
        if word in flags and not joined and i + 1 < len(words) and words[i + 1].lower() in ("true", "false"):
            i += 1
            joined, value = "=", words[i]
        if word not in flags or value.lower() not in ("", "true", "false"):
            folded.append(words[i])
        elif value.lower() != "false":
            folded.append(word)
        i += 1
    return folded


def _with_repeated_tags(words: list[str]) -> list[str]:
    """Turn the vendor's `quant --tag mindie Atlas_A2_Inference` into one --tag for each word."""
    if words[:1] != ["quant"]:
        return words
    repeated: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        tags = repeated[-2:-1] == ["--tag"] and before != "--tag"
        repeated += ["--tag", word] if tags and _is_tag(word) else [word]
    return repeated


def _is_tag(word: str) -> bool:
    """Return whether a word is one of the vendor's tags, and no model or option."""
    return word.lower() in ("mindie", "vllm", "cpu", "npu") or word.lower().startswith("atlas_")
