"""`tilepress serve`: an OpenAI-compatible server, on vLLM or on the embedded engine."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from typing import Annotated

import typer

from tilepress.cli.console import parse_bytes, print_json, print_note
from tilepress.cli.options import ComputeType, Device, Json, KeyValues, Resident
from tilepress.errors import UsageError

VLLM, EMBEDDED = "vllm", "transformers"
STREAMS = 8


def serve(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Float, W8A8S or W8A8SC directory, or a hub id.")],
    vllm_options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- VLLM OPTIONS]", help="Everything after -- goes to vLLM.")
    ] = None,
    tp: Annotated[int, typer.Option("--tp", min=1, help="Tensor-parallel ranks.")] = 1,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="VLLM_API_KEY", help="Key that clients have to send.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What clients call the model.", show_default="the directory's name")
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(
            "--max-model-len",
            help="Tokens of prompt and answer; beyond the model's own number YaRN is switched on.",
            show_default="the model's, or what memory allows",
        ),
    ] = None,
    kv_cache: Annotated[
        str | None,
        typer.Option(
            "--kv-cache", help="On the CPU: memory for keys and values, such as 4GB.", show_default="from free memory"
        ),
    ] = None,
    dtype: ComputeType = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", help="vllm, or transformers: the embedded one.", show_default="vllm where it is installed"
        ),
    ] = None,
    device: Device = "cpu",
    resident: Resident = None,
    kv: KeyValues = None,
    streams: Annotated[
        int, typer.Option("--streams", min=1, help="Of the embedded engine: answers at once; others wait.")
    ] = STREAMS,
    parallel_decoding: Annotated[
        str,
        typer.Option(
            "--parallel-decoding",
            help="Drafts: ngram, from prompt and answer; memory, from earlier answers too; or off.",
        ),
    ] = "off",
    prefix_cache: Annotated[
        bool, typer.Option("--prefix-cache/--no-prefix-cache", help="Compute common beginnings of prompts once.")
    ] = True,
    tools: Annotated[
        bool | None,
        typer.Option("--tools/--no-tools", help="Parse tool calls.", show_default="where the parser is known"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print command and environment only.")] = False,
    json: Json = False,
) -> None:
    """Serve a model by OpenAI's protocol: with vLLM where it is installed, else with the embedded engine.

    For vLLM parsers, memory and threads are chosen for model and machine. The embedded engine needs `pip install
    'tilepress[serve]'`; --device, --resident, --kv and --streams are its own, --tp, --kv-cache, --parallel-decoding and
    what follows -- are vLLM's.

    Examples:

        tilepress serve Qwen3-8B-w8a8sc

        tilepress serve Qwen3-8B-w8a8sc --engine transformers --streams 4

        tilepress serve Qwen3-8B-w8a8sc --tp 2 --parallel-decoding ngram --max-model-len 131072

        tilepress serve Qwen3-8B-w8a8sc --host 0.0.0.0 --api-key SECRET -- --max-num-seqs 32
    """
    if json and not dry_run:
        raise UsageError("--json prints what --dry-run finds; give both")
    if api_key == "":
        raise UsageError("--api-key is empty; leave it out, or give a key")
    if engine not in (None, VLLM, EMBEDDED):
        raise UsageError(f"--engine {engine}: use {VLLM} or {EMBEDDED}")
    vllms = {"--tp": tp > 1, "--kv-cache": kv_cache, "--parallel-decoding": parallel_decoding != "off"}
    vllms |= {"--no-prefix-cache": not prefix_cache, "--no-tools": tools is False, "--": bool(vllm_options)}
    wanted = [name for name, given in vllms.items() if given]
    if engine == EMBEDDED or (engine is None and not dry_run and not wanted and find_spec("vllm") is None):
        if wanted or dry_run:
            raise UsageError(f"{' '.join(wanted) or '--dry-run'}: vLLM's, which --engine {EMBEDDED} does without")
        from tilepress.engines.transformers.serve import EmbeddedServer, start_embedded

        start_embedded(
            EmbeddedServer(directory, host, port, name, api_key, device, dtype, max_model_len, resident, kv, streams),
            note=print_note,
        )
        return
    ours = {"--device": device != "cpu", "--resident": resident, "--kv": kv, "--streams": streams != STREAMS}
    if given := [option for option, value in ours.items() if value]:
        raise UsageError(f"{' '.join(given)}: of the embedded engine alone, --engine {EMBEDDED}")
    from tilepress.engines.vllm.serve import ServeOptions, make_plan

    options = ServeOptions(
        tp=tp,
        host=host,
        port=port,
        name=name,
        max_model_len=max_model_len,
        kv_cache=None if kv_cache is None else parse_bytes("--kv-cache", kv_cache),
        dtype=dtype,
        parallel_decoding=parallel_decoding,
        prefix_cache=prefix_cache,
        tools=tools,
        api_key=api_key,
        extra=tuple(vllm_options or ()),
    )
    plan = make_plan(directory, options)
    if json:
        print_json({"command": plan.command, "environment": plan.shown_environment(), "notes": plan.notes})
        return
    for note in plan.notes:
        print_note(note)
    if dry_run:
        words = [f"{name}={shlex.quote(value)}" for name, value in plan.shown_environment().items()]
        print(" ".join([*words, shlex.join(plan.command)]))
    else:
        plan.start(options)
