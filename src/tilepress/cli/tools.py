"""The file of `--tools`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tilepress.errors import UsageError


def read_tools(path: Path | None) -> list[Any] | None:
    """Schemas from a JSON file; None for None. Raises UsageError that names the file, and the entry that is no tool."""
    from tilepress.engines.transformers.tools import tool_schemas

    if path is None:
        return None
    try:
        tools = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--tools {path}: {error}; give a JSON file with a list of tools") from error
    return tool_schemas(tools, f"--tools {path}")
