"""Evaluation text by domain: what is taken of manual pages, articles and function calls."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from benchmarks.quality import domains
from benchmarks.quality.text import in_turn


def test_a_manual_page_without_roffs_commands(tmp_path: Path) -> None:
    page = tmp_path / "ls.1.gz"
    roff = '.\\" comment\n.TH LS 1\n.SH "名称"\nls \\- 列出目录内容\n.PP\n用 \\fI-a\\fR 选项\n.B ls\n显示。\n'
    page.write_bytes(gzip.compress(roff.encode()))
    assert domains._manual_page(page) == "名称 ls - 列出目录内容\n用 -a 选项 ls 显示。"


def test_an_articles_prose_without_markup() -> None:
    prose = (
        "The '''river''' [[Elbe|flows]] through [[Dresden]]{{citation|{{nested}}}} and Hamburg<ref name=x>No.</ref>, "
        "where it carries large ships to the sea."
    )
    article = f"{{{{Infobox}}}}\n== Course ==\n{prose}\n* a list\n[[File:map.png|thumb|A [[map]].]]\n"
    (paragraph,) = domains._paragraphs(article)
    assert paragraph == "The river flows through Dresden and Hamburg, where it carries large ships to the sea."


def test_calls_are_written_as_the_field_writes_them() -> None:
    question = {
        "question": [[{"role": "user", "content": "Warm in Oslo?"}]],
        "function": [{"name": "weather", "parameters": {}}],
    }
    files = {"data/BFCL": question, "possible_answer/BFCL": {"ground_truth": [{"weather": {"city": ["Oslo", "oslo"]}}]}}

    def read(name: str) -> bytes:
        return json.dumps(next(found for part, found in files.items() if part in name)).encode()

    ((system, user, answer),) = domains._calls_of(read, "simple")
    assert '"name": "weather"' in system["content"]
    assert user["content"] == "Warm in Oslo?"
    assert answer["content"] == '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def test_the_domains_take_turns() -> None:
    assert list(in_turn([["a", "b"], ["c"], ["d", "e"]])) == ["a", "c", "d", "b", "e"]
