"""The documentation holds together: both READMEs say the same, links lead somewhere, commands and files exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from docs.pages import (
    PAGES,
    READMES,
    ROOT,
    anchors,
    blocks,
    code_spans,
    commands,
    lines_of,
    links,
    name_of,
    table_rows,
    text_of,
    without_blocks,
    words_of,
)
from tilepress.cli.app import app

ENGLISH, CHINESE = (text_of(page) for page in READMES)
PROGRAMS = ("make", "tilepress", "pip", "python", "torchrun")
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?|\.\d+")
# Modules that run under torchrun, and the commands whose options they take.
MODULES = {"tilepress.quantize": "quant", "tilepress.compress": "compress"}
# A page, and the heading in quotation marks behind it, as comments in the sources name them.
REFERENCE = re.compile(r'(?<![\w/-])(docs/[\w/-]+\.md)(?:,\s(?://\s)?"([^"\n]+)")?')
FILE = re.compile(r"(?:[\w.-]+/)+[\w.-]+\.(?:py|hpp|cpp|md|toml|json|service|svg)")

each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


# The two READMEs


def test_both_readmes_have_the_same_commands() -> None:
    english = [words for words in commands(ENGLISH) if words[0] in PROGRAMS]
    assert english == [words for words in commands(CHINESE) if words[0] in PROGRAMS]
    assert len(english) > 10
    assert {words[0] for words in english} >= {"make", "pip", "tilepress"}


def test_both_readmes_have_the_same_code() -> None:
    def statements(text: str) -> list[str]:
        lines = [line.partition("#")[0].rstrip() for block in blocks(text, "python") for line in lines_of(block.text)]
        return [line for line in lines if line]

    assert statements(ENGLISH) == statements(CHINESE)
    assert statements(ENGLISH)


def test_both_readmes_have_the_same_figures() -> None:
    def figures(text: str) -> list[list[str]]:
        return [sorted(NUMBER.findall(row)) for row in table_rows(text)]

    english, chinese = table_rows(ENGLISH), table_rows(CHINESE)
    assert len(english) == len(chinese) > 20
    assert sum(map(len, figures(ENGLISH))) > 100
    for numbers, others, row, translated in zip(figures(ENGLISH), figures(CHINESE), english, chinese, strict=True):
        assert numbers == others, f"{row}\n{translated}"


def test_both_readmes_reproduce_results_by_the_same_commands() -> None:
    english, chinese = ([code_spans(row) for row in table_rows(text)] for text in (ENGLISH, CHINESE))
    assert english == chinese
    assert sum(map(len, english)) > 5


def test_both_readmes_link_to_the_same_pages_and_to_each_other() -> None:
    assert "README.zh-CN.md" in links(ENGLISH.partition("\n## ")[0])
    assert "README.md" in links(CHINESE.partition("\n## ")[0])
    in_chinese = [link.replace(".zh-CN.md", ".md") for link in links(CHINESE) if link != "README.md"]
    assert [link for link in links(ENGLISH) if "README.zh" not in link] == in_chinese


def test_both_readmes_have_as_many_sections() -> None:
    assert ENGLISH.count("\n## ") == CHINESE.count("\n## ") > 2


# Links


@each_page
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(text_of(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), f"{name_of(page)}: {link} leads out of the repository"
        assert target.exists(), f"{name_of(page)}: {link} leads nowhere"
        if anchor:
            assert target.suffix == ".md", f"{name_of(page)}: {link} has an anchor into something that is no page"
            assert anchor in anchors(text_of(target)), f"{name_of(page)}: {link} leads to no heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_has_the_marks_of_a_conflict(page: Path) -> None:
    assert not re.search(r"^(<{7} |={7}$|>{7} )", text_of(page), re.MULTILINE)


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in links(text_of(index))}
    pages = {page for page in PAGES if page.is_relative_to(index.parent)} - {index}
    assert not {name_of(page) for page in pages - listed}


def test_headings_become_anchors_as_on_github() -> None:
    text = "# What `tilepress serve` decides\n## A, b & c-d\n```sh\n# no heading\n```\n## A, b & c-d\n"
    assert anchors(text) == {"what-tilepress-serve-decides", "a-b--c-d", "a-b--c-d-1"}


# Commands


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help",
        "-h",
        "--debug",
    }


def complaint(words: list[str]) -> str | None:
    """What is wrong with the words behind `tilepress`: a command that there is not, or an option."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        if not words or words[0].isupper() or words[0] == "…":
            return None  # a placeholder
        if words[0] not in command.commands:
            return f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    known = options_of(command)
    for word in words[: words.index("--")] if "--" in words else words:
        option = word.partition("=")[0].replace("_", "-")
        if re.match(r"--?[a-zA-Z]", option) and option not in known:
            return f"{command.name} has no option {word}"
    return None


def arguments_of(line: str) -> list[str] | None:
    """What a line gives to the tilepress program, if it runs it, directly or as a module."""
    words = words_of(line)
    for i, word in enumerate(words):
        if word == "tilepress" or word.endswith("/tilepress"):
            # Only a program, not an argument such as the name of an image, or a path that ends alike.
            return words[i + 1 :] if i == 0 else None
        if word == "-m" and words[i + 1 : i + 2] and words[i + 1] in MODULES:
            return [MODULES[words[i + 1]], *words[i + 2 :]]
    return None


def command_lines(page: Path) -> list[str]:
    """The lines of shell blocks, and inline code that begins as a command line does."""
    text = text_of(page)
    spans = [span for span in code_spans(text) if re.match(r"(\S+/)?(tilepress|torchrun|python|make) ", span)]
    return [line for block in blocks(text, "sh", "text") for line in lines_of(block.text)] + spans


@each_page
def test_every_tilepress_command_exists_with_its_options(page: Path) -> None:
    for line in command_lines(page):
        arguments = arguments_of(line)
        if arguments is not None:
            assert complaint(arguments) is None, f"{name_of(page)}: {line}: {complaint(arguments)}"


def test_the_documentation_shows_every_command() -> None:
    tree: Any = typer.main.get_command(app)
    shown = {
        arguments[0] for page in PAGES for line in command_lines(page) if (arguments := arguments_of(line)) is not None
    }
    assert set(tree.commands) <= shown


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("tilepress quant --model_path a --save-path b --bits=4 -h # --nonsense", None),
        ("tilepress serve a --tp 2 -- --max-num-seqs 32", None),
        (".venv/bin/tilepress bench kernel --quick", None),
        ("tilepress COMMAND --help", None),
        ("tilepress squeeze a", "no command squeeze"),
        ("tilepress bench disk", "no command disk"),
        ("tilepress run -m a --beams 4", "no option --beams"),
        ("torchrun --nproc_per_node 4 -m tilepress.compress --model_path a --squeeze", "no option --squeeze"),
    ],
)
def test_wrong_commands_would_be_found(line: str, wrong: str | None) -> None:
    found = complaint(arguments_of(line) or [])
    assert found is None if wrong is None else found is not None and wrong in found


@each_page
def test_every_benchmark_exists_with_its_options(page: Path) -> None:
    for line in command_lines(page):
        words = words_of(line)
        module = next((word for word in words if word.startswith("benchmarks.")), None)
        if module is None:
            continue
        file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        assert file.exists(), f"{name_of(page)}: {line}: there is no {name_of(file)}"
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in text_of(file), f"{name_of(page)}: {line}: {name_of(file)} has no {option}"


@each_page
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = {words[1] for line in command_lines(page) if (words := words_of(line))[:1] == ["make"] and len(words) > 1}
    assert not named - targets, name_of(page)


# Files


def repository_files() -> list[Path]:
    """Files of the working tree that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def test_every_source_file_that_is_named_exists() -> None:
    names = [f"/{name_of(file)}" for file in repository_files()]
    for page in PAGES:
        for span in filter(FILE.fullmatch, code_spans(text_of(page))):
            assert any(name.endswith(f"/{span}") for name in names), f"{name_of(page)}: there is no {span}"


def test_code_refers_to_pages_and_headings_that_exist() -> None:
    referring = [file for file in repository_files() if file.suffix in (".py", ".hpp", ".cpp", ".toml")]
    found = 0
    for file in (*referring, ROOT / "Makefile", ROOT / "CONTRIBUTING.md"):
        for page, heading in REFERENCE.findall(text_of(file)):
            found += 1
            assert (ROOT / page).exists(), f"{name_of(file)}: there is no {page}"
            headings = re.findall(r"^#+ (.*)$", text_of(ROOT / page), re.MULTILINE)
            assert not heading or heading in headings, f'{name_of(file)}: {page} has no heading "{heading}"'
    assert found > 20


@each_page
def test_prose_has_one_sentence_a_line(page: Path) -> None:
    """No line of prose holds the end of a sentence and the beginning of the next one."""
    end_and_beginning = r"[。！？] *\S" if page.name == "README.zh-CN.md" else r"[a-z0-9x]{2}[.!?] +[A-Z]"
    for line in without_blocks(text_of(page)).splitlines():
        if not line.strip() or line.startswith(("|", "#", "    ", "!")):
            continue
        prose = re.sub(r"\([^()]*\)|（[^（）]*）|\"[^\"]*\"|`[^`]*`|\[[^]]*\]", "x", line)
        assert not re.search(end_and_beginning, prose), f"{name_of(page)}: {line}"
