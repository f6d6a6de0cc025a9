"""A recipe as a TOML file: the model that it is for, and the settings of its quantization."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tilepress.checkpoint import ModelShape
from tilepress.checkpoint.targets import TILEPRESS
from tilepress.errors import UsageError
from tilepress.quantize.recipe.recipe import TARGETS, Recipe, engine_needs

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 1 << 20

AUTO = "auto"
_NUMBER, _INTEGER, _SWITCH, _TEXT = "a number", "an integer", "true or false", "a string"
_TEXTS = "a list of strings"
_COUNT = f'an integer or "{AUTO}"'
_TYPES: dict[str, tuple[type, ...]] = {
    _NUMBER: (int, float),
    _INTEGER: (int,),
    _COUNT: (int,),
    _SWITCH: (bool,),
    _TEXT: (str,),
    _TEXTS: (list,),
}

_KINDS = {"float": _NUMBER, "int": _INTEGER, "bool": _SWITCH, "str": _TEXT, "tuple[str, ...]": _TEXTS}


def _settings() -> dict[str, str]:
    """Name -> type, of the fields of `Recipe`. AUTO leaves a count to model and machine, as None does in `Recipe`."""
    kinds = {}
    for field in fields(Recipe):
        kind, _, rest = str(field.type).partition(" | ")
        kinds[field.name] = _COUNT if kind == "int" and rest and field.name not in TARGETS else _KINDS[kind]
    return kinds


# These keys are documented in docs/guides/recipes.md.
SETTINGS = _settings()
MODEL = {
    "model_type": _TEXT,
    "hidden_size": _INTEGER,
    "intermediate_size": _INTEGER,
    "num_hidden_layers": _INTEGER,
    "num_attention_heads": _INTEGER,
    "num_key_value_heads": _INTEGER,
    "head_dim": _INTEGER,
    "vocab_size": _INTEGER,
    "tie_word_embeddings": _SWITCH,
}
_KEYS = ("name", "model", "settings")


@dataclass(frozen=True)
class RecipeFile:
    """name: of the recipe. model: values of config.json that it requires, if any. settings: of `Recipe`, by name."""

    name: str
    path: Path
    model: Mapping[str, int | bool | str]
    settings: Mapping[str, Any]

    def recipe(self, chosen: Mapping[str, Any]) -> Recipe:
        """Return the file's settings, overridden by `chosen`. A target in `chosen` replaces any target of the file.

        Raises UsageError for a value out of range.
        """
        kept = dict(self.settings)
        if any(target in chosen for target in TARGETS):
            kept = {key: value for key, value in kept.items() if key not in TARGETS}
        return Recipe(**{**engine_needs(kept.get("engine", TILEPRESS.name)), **kept, **chosen})

    def disagreement(self, config: Mapping[str, Any]) -> str | None:
        """Return the first difference between `config`, which is known to be valid, and `model`; None without any."""
        of_config = {"model_type": config.get("model_type"), **ModelShape.from_config(config).to_config()}
        for key, wanted in self.model.items():
            if of_config[key] != wanted:
                return f"{key} is {_shown(of_config[key])} in config.json and {_shown(wanted)} in the recipe"
        return None


def read_recipe_file(path: Path) -> RecipeFile:
    """Read and check a recipe file. Raises UsageError naming the file, the key, its value and what is allowed."""
    content = _read(path)
    _check_keys(path, content, _KEYS, "")
    name = content.get("name")
    if not isinstance(name, str) or not name:
        raise UsageError(f"{path}: name is {_shown(name)}; it has to be a string, such as {_shown('Qwen3-8B')}")
    if "settings" not in content:
        raise UsageError(f"{path}: settings is missing; write a table [settings], such as with bits = 4.0")
    model = _table(path, content.get("model", {}), MODEL, "model")
    settings = _table(path, content["settings"], SETTINGS, "settings")
    file = RecipeFile(name, path, model, {key: _value(value) for key, value in settings.items()})
    try:
        file.recipe({})
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return file


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES >> 20} MiB, no recipe")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; give a recipe, as docs/guides/recipes.md describes it") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # tomllib.TOMLDecodeError is a ValueError
        raise UsageError(f"{path}: not valid TOML ({error})") from None


def _table(path: Path, table: object, allowed: Mapping[str, str], where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {where} is {_shown(table)}; it has to be a table, [{where}]")
    _check_keys(path, table, tuple(allowed), f"[{where}] ")
    for key, value in table.items():
        wanted = allowed[key]
        texts = wanted != _TEXTS or (isinstance(value, list) and all(isinstance(text, str) for text in value))
        is_switch = isinstance(value, bool) and wanted != _SWITCH  # bool is an int to Python
        right = texts and not is_switch and isinstance(value, _TYPES[wanted])
        if not right and not (wanted == _COUNT and value == AUTO):
            raise UsageError(f"{path}: [{where}] {key} is {_shown(value)}; it has to be {wanted}")
    return table


def _value(value: Any) -> Any:
    """Return a setting as `Recipe` has it."""
    if isinstance(value, list):
        return tuple(value)
    return None if value == AUTO else value


def _check_keys(path: Path, table: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in allowed:
            near = get_close_matches(key.lower().replace("-", "_"), allowed, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"choose of {', '.join(allowed)}"
            raise UsageError(f"{path}: {where}{key} is no key of a recipe; {remedy}")


def _shown(value: object) -> str:
    """Format a value as TOML does."""
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
