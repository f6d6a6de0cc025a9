"""`run` and `chat`: several prompts, drafts, tools and long contexts from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tilepress
from quantized_models import make_w8a8s
from qwen3_tools import TEMPLATE, WEATHER, Says
from tilepress.cli import main
from tilepress.cli.generation import Printer, sampling_options
from tilepress.errors import UsageError

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>'


@pytest.fixture(scope="module")
def model_path(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_w8a8s(tiny_qwen3, tmp_path_factory.mktemp("models") / "w8a8s")


@pytest.fixture
def tools_file(tmp_path: Path) -> Path:
    file = tmp_path / "tools.json"
    file.write_text(json.dumps([WEATHER]), encoding="utf-8")
    return file


@pytest.fixture
def scripted(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with Qwen3's template that calls a tool and then answers."""
    model, tokenizer = tilepress.load(model_path, max_model_len=1024)
    tokenizer.chat_template = TEMPLATE
    for command in ("run", "chat"):
        says = [Says(tokenizer, CALL, "21 degrees.")]
        monkeypatch.setattr(f"tilepress.cli.{command}.load_model", lambda *_, **__: (model, tokenizer))
        monkeypatch.setattr(f"tilepress.cli.{command}.sampling_options", lambda *_, s=says: {"logits_processor": s})


def run(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["run", "--max-new-tokens", "24", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_several_prompts_share_their_beginning(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("How old?\n\nHow far?\n", encoding="utf-8")
    words = ["-m", str(model_path), "--system", "You answer questions about lighthouses."]
    answers = run(capsys, *words, "-p", "How tall?", "--prompts", str(file))
    assert [answer["cached_tokens"] >= 40 for answer in answers] == [False, True, True]
    for question, answer in zip(("How tall?", "How old?", "How far?"), answers, strict=True):
        assert run(capsys, *words, "-p", question)["text"] == answer["text"]
    assert main(["run", *words, "-p", "a", "-p", "b", "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().err.count("new tokens") == 2


def test_drafts_change_no_answer_and_are_counted(
    model_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["-m", str(model_path), "-p", "abcabcabc"]
    plain = run(capsys, *words, "--no-parallel-decoding")
    answer = run(capsys, *words, "--parallel-decoding")
    assert answer["text"] == plain["text"]
    assert answer["drafted"] > plain["drafted"] == 0
    turns = iter(["abcabcabc"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(turns, "/exit"))
    assert main(["chat", "-m", str(model_path), "--max-new-tokens", "24", "--parallel-decoding"]) == 0
    chat = capsys.readouterr()
    assert chat.out == plain["text"] + "\n"
    assert f"{answer['accepted']} of {answer['drafted']} drafts accepted" in chat.err


@pytest.mark.usefixtures("scripted")
def test_run_prints_tool_calls(tools_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-m", "scripted", "-p", "Weather?", "--tools", str(tools_file)]) == 0
    shown = capsys.readouterr()
    assert shown.out == CALL + "\n"
    assert 'call: get_weather {"city": "Köln"}\n' in shown.err


@pytest.mark.usefixtures("scripted")
def test_runs_json_has_tool_calls(tools_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = run(capsys, "-m", "scripted", "-p", "Weather?", "--tools", str(tools_file), "--max-new-tokens", "100")
    assert answer["tool_calls"] == [{"name": "get_weather", "arguments": {"city": "Köln"}}]
    assert answer["tool_errors"] == []


@pytest.mark.usefixtures("scripted")
def test_a_call_that_is_cut_off_is_reported(tools_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "-m", "scripted", "-p", "Weather?", "--tools", str(tools_file), "--max-new-tokens", "30"]
    assert main(words) == 0
    assert "note: tool call 1 cannot be read" in capsys.readouterr().err


@pytest.mark.usefixtures("scripted")
def test_chat_asks_for_results_and_goes_on(
    tools_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = iter(["", "Weather?", "21"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(typed, "/exit"))
    assert main(["chat", "-m", "scripted", "--tools", str(tools_file)]) == 0
    assert capsys.readouterr().out == f"{CALL}\n21 degrees.\n"


def test_a_longer_context_is_said_to_be_yarn(model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "-m", str(model_path), "-p", "abc" * 250, "--max-new-tokens", "2"]
    assert main(words) == 2
    assert "with a longer --max-model-len" in capsys.readouterr().err
    assert main([*words, "--max-model-len", "1024"]) == 0
    assert "YaRN is on: 1024 tokens, 2.00 times the 512" in capsys.readouterr().err
    assert main(["run", "-m", str(model_path), "--max-new-tokens", "2", "--max-model-len", "512"]) == 0
    assert "YaRN" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "give a JSON file with a list of tools"),
        ("[]", "a list of at least one tool"),
        ('[{"name": "get_weather"}]', "entry 1: is no tool; write it as"),
    ],
)
def test_a_file_without_tools_is_refused(
    model_path: Path, content: str, message: str, tools_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tools_file.write_text(content, encoding="utf-8")
    for command in ("run", "chat"):
        assert main([command, "-m", str(model_path), "--tools", str(tools_file)]) == 2
        error = capsys.readouterr().err
        assert f"--tools {tools_file}: " in error
        assert message in error


def test_files_without_prompts_are_refused(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n", encoding="utf-8")
    for file, message in ((empty, "holds no prompt"), (tmp_path / "none.txt", "with a prompt a line")):
        assert main(["run", "-m", str(model_path), "--prompts", str(file)]) == 2
        assert message in capsys.readouterr().err


def test_sampling_is_the_models_unless_told_otherwise() -> None:
    assert sampling_options() == {}
    assert sampling_options(0)["do_sample"] is False
    assert sampling_options(0.7, 0.9) == {"temperature": 0.7, "top_p": 0.9, "do_sample": True}
    assert sampling_options(top_k=5, seed=3) == {"top_k": 5, "do_sample": True, "seed": 3}
    for wrong in ({"top_p": 0.0}, {"top_k": -1}, {"min_p": 2.0}, {"repeat_penalty": 0.0}, {"temperature": -1.0}):
        with pytest.raises(UsageError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
            sampling_options(**wrong)


def test_a_seed_gives_the_same_sample(model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [run(capsys, "-m", str(model_path), "--temperature", "1.5", "--seed", seed)["text"] for seed in "121"]
    assert texts[0] == texts[2] != texts[1]


def test_an_answer_that_was_cut_says_so(model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-m", str(model_path), "-p", "Hi", "--max-new-tokens", "3"]
    assert run(capsys, *words)["finish_reason"] == "length"
    assert main(["run", *words]) == 0
    assert "the answer was cut after 3 tokens" in " ".join(capsys.readouterr().err.split())


def test_an_answer_ends_before_a_stop(model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = run(capsys, "-m", str(model_path), "-p", "Hi", "--max-new-tokens", "30")["text"]
    stop = next(char for char in whole[3:] if char.isascii() and char.isprintable() and char not in whole[:3])
    words = ["-m", str(model_path), "-p", "Hi", "--max-new-tokens", "30", "--stop", stop]
    answer = run(capsys, *words)
    assert answer["text"] == whole[: whole.find(stop)]
    assert answer["finish_reason"] == "stop"
    assert main(["run", *words]) == 0
    assert capsys.readouterr().out == answer["text"] + "\n"


def test_thoughts_are_dim_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for terminal, shown in ((True, "\x1b[2mhm\x1b[0mYes"), (False, "<think>hm</think>Yes")):
        monkeypatch.setattr("sys.stdout.isatty", lambda terminal=terminal: terminal)
        printer = Printer(None)
        for piece in ("<thi", "nk>hm", "</think>Y", "es"):
            printer(piece)
        printer.end()
        assert capsys.readouterr().out == shown
