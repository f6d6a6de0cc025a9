"""Choice of the recipe for a model: the user's own, or the shipped one for its config.json."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tilepress.errors import UsageError
from tilepress.quantize.recipe.recipe import Recipe, engine_needs
from tilepress.quantize.recipe.recipe_file import RecipeFile, read_recipe_file

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class RecipeChoice:
    """file: None where no recipe fits. notes: the user's wishes that were not followed, and why."""

    file: RecipeFile | None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str | None:
        return None if self.file is None else self.file.name

    def recipe(self, chosen: Mapping[str, Any]) -> Recipe:
        """Return the settings of `chosen`, completed from the file or the defaults. Raises UsageError like `Recipe`."""
        return Recipe(**chosen) if self.file is None else self.file.recipe(chosen)


@functools.cache
def shipped_recipes() -> tuple[RecipeFile, ...]:
    """The recipes that come with tilepress, sorted by name."""
    return tuple(sorted((read_recipe_file(path) for path in FOLDER.glob("*.toml")), key=lambda file: file.name))


def choose_recipe(
    config: Mapping[str, Any], *, file: Path | None = None, model_type: str | None = None
) -> RecipeChoice:
    """Choose the recipe for a checkpoint with this config.json.

    file: the user's own recipe, which is taken. model_type: the name of a shipped recipe, such as "Qwen3-8B" or
    "Qwen/Qwen3-8B", in upper or lower case. The config decides: where the recipe of that name is for another model, or
    does not exist, the result is the shipped recipe that fits the config, if any, with a note. Raises UsageError where
    `file` cannot be read or is for another model.
    """
    if file is not None:
        own = read_recipe_file(file)
        if (difference := own.disagreement(config)) is not None:
            raise UsageError(f"{file}: is for another model: {difference}; choose another recipe, or correct [model]")
        return RecipeChoice(own)
    fitting = next((recipe for recipe in shipped_recipes() if recipe.disagreement(config) is None), None)
    if model_type is None or (fitting is not None and _same(fitting.name, model_type)):
        return RecipeChoice(fitting)
    return RecipeChoice(fitting, (_note(config, model_type),))


def _note(config: Mapping[str, Any], model_type: str) -> str:
    """Explain why the name given by the user is not followed."""
    decides = "config.json decides"
    family = str(config.get("model_type"))
    if family not in model_type.lower():
        return f"--model-type is {model_type}, but config.json says {family}; {decides}"
    names = {recipe.name.lower(): recipe for recipe in shipped_recipes()}
    named = names.get(_bare(model_type))
    if named is not None:
        return f"--model-type is {model_type}, but {named.disagreement(config)}; {decides}"
    near = get_close_matches(_bare(model_type), names, n=1)
    remedy = f", the nearest is {names[near[0]].name}" if near else ""
    return f"--model-type {model_type}: there is no recipe of that name{remedy}; {decides}"


def _same(name: str, given: str) -> bool:
    return name.lower() == _bare(given)


def _bare(name: str) -> str:
    return name.rpartition("/")[2].lower()


def for_engine(engine: str | None, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return `chosen` with what a directory for that engine needs, where nothing else was chosen.

    engine: the name of a target; None: as a recipe or the defaults have it. Raises UsageError for another name.
    """
    return dict(chosen) if engine is None else engine_needs(engine) | dict(chosen) | {"engine": engine}
