"""Which of vLLM's parsers understands how a model writes tool calls and thoughts: its chat template tells."""

from __future__ import annotations

from pathlib import Path

from tilepress.jobs.json_files import read_object


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
    """vLLM's --tool-call-parser for a template, None where none is known to fit.

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
    """vLLM's --reasoning-parser. It takes what comes before </think> for thoughts, so the model has to think.

    Qwen3's Instruct models of 2507 do not, and their template does not know the tag.
    """
    return "qwen3" if architecture == "Qwen3ForCausalLM" and "<think>" in template else None
