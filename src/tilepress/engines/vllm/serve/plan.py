"""All that is decided before the server starts: its command line, its environment and what the user should know."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

from tilepress.checkpoint import Checkpoint, open_checkpoint
from tilepress.engines.long_context import context_length, stretched
from tilepress.engines.vllm.serve.checks import check_installed, check_model_files, check_port, check_ranks, is_local
from tilepress.engines.vllm.serve.command import ModelFacts, chat_template, command_line, reasoning_parser, tool_parser
from tilepress.engines.vllm.serve.environment import binding, environment, find_openmp, physical_cores
from tilepress.engines.vllm.serve.memory import KeyValueMemory, choose_context, key_value_bytes, room
from tilepress.engines.vllm.serve.options import ServeOptions
from tilepress.engines.vllm.serve.unchanged import digest_of
from tilepress.errors import UsageError
from tilepress.machine.memory import available_bytes


@dataclass(frozen=True)
class ServePlan:
    """command: words; environment: variables beside those of this process; notes: sentences for the user."""

    command: list[str]
    environment: dict[str, str]
    notes: list[str]

    def shown_environment(self) -> dict[str, str]:
        """The environment without the key."""
        return {name: "..." if name == "VLLM_API_KEY" else value for name, value in self.environment.items()}

    def start(self, options: ServeOptions) -> NoReturn:
        """Replace this process by the server, which gets signals and gives the exit status. Errors as in `checks`."""
        check_installed(options.parallel_decoding)
        check_port(options.host, options.port)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(self.command[0], self.command, {**os.environ, **self.environment})


def make_plan(
    path: str,
    options: ServeOptions,
    *,
    current: Mapping[str, str] = os.environ,
    cpu: bool | None = None,
    available: int | None = None,
) -> ServePlan:
    """Return the plan for a directory, or a hub id, which is downloaded.

    current: the environment; cpu: where vLLM computes, found if None; available: bytes of memory, found if None.
    Raises CheckpointError and UsageError for what cannot be served.
    """
    cpu = not torch.cuda.is_available() if cpu is None else cpu
    checkpoint = open_checkpoint(path)
    check_ranks(checkpoint, options.tp)
    check_model_files(checkpoint)
    model, notes = _facts(path, checkpoint, options, cpu, available_bytes() if available is None else available)
    openmp = find_openmp() if cpu else None
    variables = environment(
        current,
        binding=binding(physical_cores(), options.tp) if cpu else None,
        openmp=openmp,
        offline=Path(path).expanduser().exists(),
        api_key=options.api_key,
        digest=digest_of(checkpoint.path),
    )
    if not is_local(options.host) and not (options.api_key or current.get("VLLM_API_KEY")):
        notes.append(f"whoever reaches {options.host} can use the server: there is no --api-key")
    return ServePlan(command_line(options, model, cpu=cpu), variables, notes)


def _facts(
    path: str, checkpoint: Checkpoint, options: ServeOptions, cpu: bool, available: int
) -> tuple[ModelFacts, list[str]]:
    """Return what the command line needs, and notes for the user."""
    config, notes = checkpoint.path / "config.json", []
    given = context_length(checkpoint.config, config)
    asked, cache = options.max_model_len, None
    context = asked or given
    overrides = stretched(checkpoint.config, config, context)
    if overrides is not None:
        rope = overrides["rope_parameters"]
        trained = rope["original_max_position_embeddings"]
        if "--hf-overrides" in options.extra:
            raise UsageError(f"--max-model-len {asked} needs --hf-overrides for YaRN; leave yours out, or stay below")
        notes.append(f"{context} tokens are more than the model takes ({given}): YaRN by {rope['factor']:.3g} is on")
        notes.append(f"YaRN stretches {trained} trained tokens and changes short texts too; measure what it costs")
    if cpu:
        per_token = key_value_bytes(checkpoint.shape, options.tp, options.dtype)
        memory = KeyValueMemory(per_token, options.kv_cache or room(checkpoint, options.tp, options.dtype, available))
        context = choose_context(memory, asked=asked, given=given)
        if context < given and asked is None:
            notes.append(f"contexts are cut to {context} tokens of the model's {given}: more do not fit into memory")
        cache = (options.kv_cache or memory.cache(context)) // options.tp
    template = chat_template(checkpoint.path)
    parser = tool_parser(template)
    if parser is None and options.tools and "--tool-call-parser" not in options.extra:
        raise UsageError(
            f"--tools: no parser of vLLM is known to fit the chat template of {checkpoint.path}; "
            "name one, -- --enable-auto-tool-choice --tool-call-parser NAME"
        )
    if parser is None and options.tools is None:
        notes.append("tool calls are off: no parser of vLLM is known to fit this chat template")
    facts = ModelFacts(
        path=checkpoint.path,
        name=options.name or (checkpoint.path.resolve().name if Path(path).expanduser().exists() else path),
        context=context,
        overrides=overrides,
        tool_parser=parser,
        reasoning_parser=reasoning_parser(checkpoint.architecture.name, template),
        named=checkpoint.kind == "float" or "quantization_config" in checkpoint.config,
        cache=cache,
    )
    return facts, notes
