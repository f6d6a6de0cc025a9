"""The tools that a model may call: OpenAI's JSON schemas, or Python functions that transformers makes schemas of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import (
    DocstringParsingException,
    TypeHintParsingException,
    get_json_schema,
)

from tilepress.errors import UsageError

Tool = Mapping[str, Any] | Callable[..., Any]

EXAMPLE = '{"type": "function", "function": {"name": …, "description": …, "parameters": {"type": "object", …}}}'


def tool_schemas(tools: Sequence[Tool], source: str = "tools") -> list[Any]:
    """Schemas for the chat template. Functions need type hints and a docstring that describes each argument.

    source: what messages call the list, such as the name of its file. Raises UsageError that names the entry, counted
    from 1, for one that is no schema and for two of one name.
    """
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes) or not tools:
        raise UsageError(f"{source}: has to be a list of at least one tool: [{EXAMPLE}, …]")
    schemas = [_schema(tool, f"{source}: entry {i}") for i, tool in enumerate(tools, 1)]
    names = [schema["function"]["name"] for schema in schemas]
    for i, name in enumerate(names, 1):
        if name in names[: i - 1]:
            raise UsageError(
                f"{source}: entry {i}: a tool before it is called {name!r} too; give each a name of its own"
            )
    return schemas


def check_template(tokenizer: PreTrainedTokenizerBase, schemas: list[Any]) -> None:
    """Raises UsageError for a chat template that would leave tools out."""
    if tokenizer.chat_template is None or "tools" not in tokenizer.get_chat_template(tools=schemas):
        raise UsageError("the model's chat template knows no tools; use a model trained to call them, such as Qwen3")


def _schema(tool: Tool, entry: str) -> Any:
    if callable(tool):
        try:
            return get_json_schema(tool)
        except (DocstringParsingException, TypeHintParsingException) as error:
            raise UsageError(f"{entry}: no schema can be made of the function: {error}") from error
    if not isinstance(tool, Mapping) or tool.get("type") != "function" or not isinstance(tool.get("function"), Mapping):
        raise UsageError(f"{entry}: is no tool; write it as {EXAMPLE}")
    function = tool["function"]
    name, parameters = function.get("name"), function.get("parameters", {"type": "object"})
    if not isinstance(name, str) or not name:
        raise UsageError(f'{entry}: "name" is {name!r}; give the function a name: {EXAMPLE}')
    if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
        raise UsageError(
            f'{entry}: "parameters" of {name!r} is no JSON schema of an object; write {{"type": "object", '
            '"properties": {…}, "required": […]}'
        )
    if not isinstance(parameters.get("properties", {}), Mapping):
        raise UsageError(f'{entry}: "properties" of {name!r} is no object; write {{"argument": {{"type": …}}, …}}')
    if not isinstance(function.get("description", ""), str):
        raise UsageError(f'{entry}: "description" of {name!r} is no text')
    return dict(tool)
