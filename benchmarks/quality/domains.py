"""Evaluation text of six kinds, none of which calibration reads: all from packages of Debian and Python.

`domain_table.py` writes and measures them.

`technical` is the benchmark's text of old (`text.py`). `encyclopedia` are articles of the English Wikipedia that gensim
carries for its tests; `chinese` the manual pages of manpages-zh; `code` C++ of fmt and nlohmann-json and JavaScript of
express and underscore; `reasoning` the worked examples of BIG-Bench Hard that lm-eval carries; `dialogue` questions
with tool definitions and calls of the Berkeley function calling leaderboard and small talk of chatterbot-corpus.
"""

from __future__ import annotations

import bz2
import gzip
import html
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from benchmarks.quality.packages import debian_package, wheel
from benchmarks.quality.text import evaluation_text, in_turn, sentences
from transformers import PreTrainedTokenizerBase

from tilepress.text import is_prose

CHARACTERS = 120_000
CODE = {
    "nlohmann-json3-dev": ("usr/include/nlohmann", ".hpp"),
    "node-express": ("usr/share/nodejs/express/lib", ".js"),
    "libfmt-dev": ("usr/include/fmt", ".h"),
    "libjs-underscore": ("usr/share/javascript/underscore", "underscore.js"),
}
LINES = 40  # of a file in turn
WIKIPEDIA = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
TOOL_CALLS = ("simple_python", "live_parallel_multiple", "multiple")
HERMES = (
    "You are a function calling AI model. You may call one or more functions to assist with the user query. "
    "Here are the available tools:\n<tools>\n{}\n</tools>\nFor each function call return a JSON object with function "
    "name and arguments within <tool_call></tool_call> tags."
)


def domain_texts(cache: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The text of each domain, some 120 thousand characters. Dialogues are rendered by the tokenizer's template."""
    return {
        "technical": evaluation_text(cache)[:CHARACTERS],
        "encyclopedia": _joined(_encyclopedia(cache)),
        "chinese": _joined(_chinese(cache)),
        "code": _joined(_code(cache)),
        "reasoning": _joined(_reasoning(cache)),
        "dialogue": _joined(_dialogues(cache, tokenizer)),
    }


def _joined(parts: Iterable[str]) -> str:
    text = []
    length = 0
    for part in parts:
        if length >= CHARACTERS:
            break
        text.append(part)
        length += len(part)
    return "\n\n".join(text)


def _encyclopedia(cache: Path) -> Iterator[str]:
    """The first paragraphs of each article, then the next ones."""
    dump = bz2.decompress(wheel(cache, "gensim==4.4.0").read(WIKIPEDIA)).decode()
    articles = (html.unescape(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", dump, flags=re.DOTALL))
    return in_turn(_paragraphs(article) for article in articles if not article.startswith("#REDIRECT"))


def _paragraphs(article: str) -> list[str]:
    """Prose without markup."""
    text = re.sub(r"<!--.*?-->|<ref[^>/]*/>|<ref.*?</ref>|<math.*?</math>", "", article, flags=re.DOTALL)
    for _ in range(6):  # templates are nested
        text = re.sub(r"\{\{[^{}]*\}\}|\{\|[^{}]*\|\}", "", text)
    text = re.sub(r"\[\[(?:File|Image):(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]", "", text)
    text = re.sub(r"\[\[(?:[^\]|]*\|)?([^\]]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?:\S+ ?([^\]]*)\]|'{2,}|<[^>]+>", r"\1", text)
    return sentences(paragraph.strip() for paragraph in text.split("\n") if is_prose(paragraph))


def _chinese(cache: Path) -> Iterator[str]:
    folder = debian_package(cache, "manpages-zh") / "usr/share/man/zh_CN"
    pages = sorted(page for page in folder.rglob("*.gz") if not page.is_symlink())
    random.Random(0).shuffle(pages)
    return (text for text in map(_manual_page, pages) if len(re.findall(r"[\u4e00-\u9fff]", text)) > len(text) / 4)


def _manual_page(file: Path) -> str:
    """A page's paragraphs without roff's commands, at most 2000 characters of it."""
    lines = []
    for line in gzip.decompress(file.read_bytes()).decode(errors="replace").split("\n"):
        if line.startswith((".SH", ".SS", ".PP", ".TP", ".LP", ".IP", ".P")):
            lines.append("\n")
        command = re.match(r"[.'](SH|SS|B|I|BR|IR|RB|RI|BI|IB|TP|IP)\b", line)
        if command or not line.startswith((".", "'")):
            lines.append(line[command.end() :] if command else line)
    text = re.sub(r"\\f.|\\[&|^]|\\\(l[qs]|\\\(r[qs]", "", "\n".join(lines).replace("\\-", "-").replace('"', ""))
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)[:2000]


def _code(cache: Path) -> Iterator[str]:
    """Forty lines of each package in turn."""
    return in_turn(_excerpts(debian_package(cache, package) / path, end) for package, (path, end) in CODE.items())


def _excerpts(folder: Path, end: str) -> Iterator[str]:
    for file in sorted(file for file in folder.rglob("*") if file.name.endswith(end) and file.is_file()):
        lines = file.read_text(errors="replace").split("\n")
        for start in range(0, len(lines), LINES):
            yield "\n".join(lines[start : start + LINES])


def _reasoning(cache: Path) -> Iterator[str]:
    archive = wheel(cache, "lm-eval==0.4.13")
    tasks = sorted(name for name in archive.namelist() if re.search(r"bbh/cot_fewshot/[a-z].*\.yaml$", name))
    return in_turn(_examples(archive.read(name).decode()) for name in tasks)


def _examples(task: str) -> list[str]:
    """A task's examples: a question with its worked answer each. The file's own tags are not resolved."""
    found = yaml.load(re.sub(r"!function \S+", "''", task), Loader=yaml.SafeLoader)
    samples = (found.get("fewshot_config") or {}).get("samples") or []
    return [f"Q: {sample['input'].strip()}\nA: {sample['target'].strip()}" for sample in samples]


def _dialogues(cache: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    def rendered(messages: list[dict[str, Any]]) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))

    return map(rendered, in_turn([_tool_calls(cache), _small_talk(cache)]))


def _tool_calls(cache: Path) -> Iterator[list[dict[str, Any]]]:
    """Questions with their calls, in the form that Qwen's and Hermes' templates give them."""
    archive = wheel(cache, "bfcl-eval==2026.3.23")
    return in_turn([_calls_of(archive.read, kind) for kind in TOOL_CALLS])


def _calls_of(read: Callable[[str], bytes], kind: str) -> Iterator[list[dict[str, Any]]]:
    questions = read(f"bfcl_eval/data/BFCL_v4_{kind}.json").decode().splitlines()
    answers = read(f"bfcl_eval/data/possible_answer/BFCL_v4_{kind}.json").decode().splitlines()
    for question, answer in zip(map(json.loads, questions), map(json.loads, answers), strict=True):
        tools = "\n".join(json.dumps({"type": "function", "function": tool}) for tool in question["function"])
        calls = [
            {"name": name, "arguments": {key: value[0] for key, value in arguments.items() if value}}
            for call in answer["ground_truth"]
            for name, arguments in call.items()
        ]
        said = "\n".join(f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls)
        system = {"role": "system", "content": HERMES.format(tools)}
        yield [system, *question["question"][0], {"role": "assistant", "content": said}]


def _small_talk(cache: Path) -> Iterator[list[dict[str, Any]]]:
    archive = wheel(cache, "chatterbot-corpus==1.3.3")
    files = sorted(name for name in archive.namelist() if re.search(r"data/english/.*\.yml$", name))
    talks = [yaml.safe_load(archive.read(name))["conversations"] for name in files]
    for talk in in_turn(talks):
        roles = ("user", "assistant")
        yield [{"role": roles[turn % 2], "content": str(said)} for turn, said in enumerate(talk)]
