"""Recipes as files: those that come with tilepress, a user's own, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tilepress.cli import main
from tilepress.errors import UsageError
from tilepress.quantize import Recipe, choose_recipe
from tilepress.quantize.recipe.choose import shipped_recipes
from tilepress.quantize.recipe.recipe_file import MODEL, SETTINGS, RecipeFile, read_recipe_file

SIZES = ["Qwen3-0.6B", "Qwen3-1.7B", "Qwen3-4B", "Qwen3-8B", "Qwen3-14B", "Qwen3-32B"]
QWEN3_8B = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
QWEN3_4B = {
    "model_type": "qwen3",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


def test_there_is_one_for_every_dense_qwen3() -> None:
    assert sorted(recipe.name for recipe in shipped_recipes()) == sorted(SIZES)


@pytest.mark.parametrize("recipe", shipped_recipes(), ids=lambda recipe: recipe.name)
def test_each_is_found_by_the_shape_and_by_the_name_and_says_all_that_matters(recipe: RecipeFile) -> None:
    assert recipe.path.name == f"{recipe.name.lower()}.toml"
    assert set(recipe.model) == set(MODEL)
    assert set(recipe.settings) == set(SETTINGS) - {"size", "loss", "seed"}
    for model_type in (None, recipe.name, recipe.name.lower(), f"Qwen/{recipe.name}"):
        choice = choose_recipe(recipe.model, model_type=model_type)
        assert (choice.file, choice.notes) == (recipe, ())
    settings = recipe.recipe({})
    assert settings.head
    assert settings.embeddings, "a tied table has to be quantized at both ends"


def test_head_dim_may_be_left_to_follow_from_the_others(tmp_path: Path) -> None:
    config = {key: value for key, value in QWEN3_8B.items() if key != "head_dim"}
    assert choose_recipe(config).name == "Qwen3-8B"


def test_tied_models_are_told_from_untied_ones() -> None:
    assert choose_recipe(QWEN3_4B).name == "Qwen3-4B"
    assert choose_recipe({**QWEN3_4B, "tie_word_embeddings": False}).name is None


def test_the_config_decides_where_the_name_says_something_else() -> None:
    choice = choose_recipe(QWEN3_8B, model_type="Qwen3-4B")
    assert choice.name == "Qwen3-8B"
    assert "hidden_size is 4096 in config.json and 2560 in the recipe; config.json decides" in choice.notes[0]
    choice = choose_recipe({**QWEN3_8B, "num_hidden_layers": 2}, model_type="Qwen3-8B")
    assert choice.name is None
    assert "num_hidden_layers is 2 in config.json and 36 in the recipe" in choice.notes[0]
    choice = choose_recipe(QWEN3_8B, model_type="Llama-3-8B")
    assert "but config.json says qwen3" in choice.notes[0]


def test_an_unknown_name_gets_the_nearest_known_one() -> None:
    choice = choose_recipe(QWEN3_8B, model_type="Qwen3-8BB")
    assert choice.name == "Qwen3-8B"
    assert choice.notes == (
        "--model-type Qwen3-8BB: there is no recipe of that name, the nearest is Qwen3-8B; config.json decides",
    )


def test_options_win_over_the_recipe() -> None:
    choice = choose_recipe(QWEN3_8B)
    assert choice.recipe({}).bits == 4.0
    chosen = choice.recipe({"size": 5 * 10**9, "head": False, "samples": 3})
    assert (chosen.bits, chosen.size) == (None, 5 * 10**9), "another target takes the place of the recipe's"
    assert (chosen.head, chosen.embeddings, chosen.samples) == (False, True, 3)


def test_without_a_recipe_the_defaults_are_those_of_the_class() -> None:
    assert choose_recipe({**QWEN3_8B, "num_hidden_layers": 2}).recipe({"seed": 3}) == Recipe(seed=3)


def write(path: Path, settings: str, model: str = "") -> Path:
    path.write_text(f'name = "mine"\n{model}\n[settings]\n{settings}\n', encoding="utf-8")
    return path


def test_a_recipe_of_the_users_own(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.toml", 'loss = 0.05\nhead = true\nsamples = "auto"\nsequence_length = 256')
    choice = choose_recipe(QWEN3_8B, file=file)
    assert choice.recipe({}) == Recipe(loss=0.05, head=True, samples=None, sequence_length=256)
    assert choice.recipe({"bits": 3.0}) == Recipe(bits=3.0, head=True, sequence_length=256)


def test_a_recipe_for_another_model_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.toml", "bits = 4.0", "[model]\nhidden_size = 5120")
    with pytest.raises(UsageError, match=r"mine\.toml: is for another model: hidden_size is 4096 in config\.json"):
        choose_recipe(QWEN3_8B, file=file)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('bits = "four"', '[settings] bits is "four"; it has to be a number'),
        ("bits = true", "[settings] bits is true; it has to be a number"),
        ("bits = 9.0", "bits is 9.0; choose a number from 1 to 7.5 (bits a weight)"),
        ("bits = nan", "bits is nan; choose a number from 1 to 7.5"),
        ("bits = 4.0\nsize = 1000", "bits and size are given; choose one target"),
        ("size = 4e9", "[settings] size is 4000000000.0; it has to be an integer"),
        ("head = 1", "[settings] head is 1; it has to be true or false"),
        ('activations = "exact"', "activations is 'exact'; choose one of overflow, static, per-token, dynamic"),
        ('samples = "many"', '[settings] samples is "many"; it has to be an integer or "auto"'),
        ("samples = 0", "samples is 0; at least 1 calibration sequence is needed"),
        ("damping = 0", "damping is 0; choose a share above 0 and up to 1"),
        ("sample = 3", "[settings] sample is no key of a recipe; did you mean samples?"),
        ("distill-steps = 3", "[settings] distill-steps is no key of a recipe; did you mean distill_steps?"),
        ("zzz = 3", "[settings] zzz is no key of a recipe; choose of bits, size, loss, head"),
    ],
)
def test_a_mistake_names_the_file_the_key_and_what_is_allowed(settings: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.toml", settings)
    with pytest.raises(UsageError, match=re.escape(f"{file}: {message}")):
        read_recipe_file(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bits = 4.0", "bits is no key of a recipe; choose of name, model, settings"),
        ("[settings]", 'name is missing; it has to be a string, such as "Qwen3-8B"'),
        ('name = "mine"', "settings is missing; write a table [settings]"),
        ('name = "mine"\nsettings = 3', "settings is 3; it has to be a table, [settings]"),
        ('name = "mine"\n[setings]\nbits = 4.0', "setings is no key of a recipe; did you mean settings?"),
        ('name = "mine"\n[model]\nhidden = 3\n[settings]', "[model] hidden is no key of a recipe; did you mean"),
        ('name = "mine"\n[model]\nhidden_size = "3"\n[settings]', '[model] hidden_size is "3"; it has to be an int'),
        ("bits: 4.0", "not valid TOML"),
    ],
)
def test_a_file_that_is_no_recipe_says_why(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=re.escape(f"{file}: {message}")):
        read_recipe_file(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: no such file"):
        choose_recipe(QWEN3_8B, file=tmp_path / "none.toml")


def test_every_key_is_a_setting_and_is_documented() -> None:
    assert set(SETTINGS) == {field.name for field in fields(Recipe)}
    page = (Path(__file__).parents[3] / "docs" / "guides" / "recipes.md").read_text(encoding="utf-8")
    undocumented = [key for key in (*SETTINGS, *MODEL) if f"`{key}`" not in page]
    assert undocumented == []


def test_the_command_uses_the_recipe_and_says_so(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write(tmp_path / "mine.toml", "bits = 5.0\nhead = true\nsamples = 4\nsequence_length = 64")
    command = f"quant -m {tiny_qwen3} -o {tmp_path / 'out'} --calib {calibration} --recipe {recipe} --json"
    assert main([*command.split(), "--bits", "4.5", "--no-head"]) == 0
    shown = capsys.readouterr()
    report: dict[str, Any] = json.loads(shown.out)
    assert "recipe mine" in shown.err.replace("\n", " ")
    assert report["recipe_name"] == "mine"
    assert (report["recipe"]["bits"], report["recipe"]["head"]) == (4.5, False)
    assert (report["samples"], report["sequence_length"]) == (4, 64)
