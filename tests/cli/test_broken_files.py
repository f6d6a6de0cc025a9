"""Every broken file of a model directory, given to every command: it works, or is one line and status 2 at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from quantized_models import make_w8a8s
from tilepress.cli import main
from tilepress.compress import compress_directory

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 11422654\n"


def writing(name: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda model: (model / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def setting(name: str, **fields: object) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        content = json.loads((model / name).read_text()) if (model / name).exists() else {}
        (model / name).write_text(json.dumps(content | fields))

    return change


def removing(*patterns: str) -> Callable[[Path], None]:
    return lambda model: [file.unlink() for pattern in patterns for file in model.glob(pattern)] and None


def other_tokenizer(model: Path) -> None:
    content = json.loads((model / "tokenizer.json").read_text())
    content["model"]["type"] = "BPEv9"
    (model / "tokenizer.json").write_text(json.dumps(content))


def sentencepiece(model: Path) -> None:
    removing("tokenizer.json")(model)
    writing("tokenizer.model", b"\x0a\x0b\x0a\x05<unk>\x15\0\0\0\0\x18\x02")(model)
    setting("tokenizer_config.json", tokenizer_class="LlamaTokenizer")(model)


REFUSES = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('a system message is needed') }}{% endif %}x"
GENERATION = "generation_config.json"
BROKEN: dict[str, Callable[[Path], object]] = {
    "config.json is a git-lfs pointer": writing("config.json", POINTER),
    "config.json is empty": writing("config.json", ""),
    "config.json: another class": setting("config.json", model_type="bert"),
    "config.json: no such activation": setting("config.json", hidden_act="swoosh"),
    "config.json: heads are text": setting("config.json", num_attention_heads="8"),
    "config.json: rope of another kind": setting("config.json", rope_parameters={"rope_type": "spiral"}),
    "tokenizer.json is a git-lfs pointer": writing("tokenizer.json", POINTER),
    "tokenizer.json of another version": other_tokenizer,
    "tokenizer.json is cut short": lambda model: writing(
        "tokenizer.json", (model / "tokenizer.json").read_bytes()[:99]
    )(model),
    "tokenizer_config.json is no JSON": writing("tokenizer_config.json", "{"),
    "no tokenizer": removing("token*", "special*"),
    "tokenizer.model without sentencepiece": sentencepiece,
    "the template refuses": writing("chat_template.jinja", REFUSES),
    "the template is broken": writing("chat_template.jinja", "{% if %}"),
    "the template is empty": writing("chat_template.jinja", ""),
    "generation_config.json is a git-lfs pointer": writing(GENERATION, POINTER),
    "generation_config.json is a list": writing(GENERATION, "[]"),
    "generation_config.json: early_stopping": setting(GENERATION, early_stopping="sometimes"),
}
BROKEN |= {
    "config.json: a pad token beyond the vocabulary": setting("config.json", pad_token_id=32000),
    "config.json: an epsilon of text": setting("config.json", rms_norm_eps="1e-6"),
    "config.json: layer types of another length": setting("config.json", layer_types=["full_attention"]),
    "special_tokens_map.json is no JSON": writing("special_tokens_map.json", "{"),
    "a further template is a git-lfs pointer": lambda model: (
        (model / "additional_chat_templates").mkdir(),
        writing("additional_chat_templates/rag.jinja", POINTER)(model),
    ),
    "the template is no UTF-8": writing("chat_template.jinja", b"\xff\xfe{{ messages }}"),
    "tokenizer.json is a link to nothing": lambda model: (
        (model / "tokenizer.json").unlink(),
        (model / "tokenizer.json").symlink_to("../blobs/0123"),
    ),
}
FINE: dict[str, Callable[[Path], object]] = {
    "stop_strings": setting(GENERATION, stop_strings=["e", "\n"]),
    "num_beams": setting(GENERATION, num_beams=2),
    "cache_implementation": setting(GENERATION, cache_implementation="static"),
    "return_dict_in_generate": setting(GENERATION, return_dict_in_generate=True, output_scores=True),
    "use_cache": setting(GENERATION, use_cache=False),
    "prompt_lookup_num_tokens": setting(GENERATION, prompt_lookup_num_tokens=3),
    "several answers": setting(GENERATION, num_return_sequences=2, do_sample=True),
    "unknown keys": setting(GENERATION, warp_factor=9, chat_format="chatml"),
    "temperature without sampling": setting(GENERATION, do_sample=False, temperature=0.6, top_p=0.9),
    "max_length": setting(GENERATION, max_length=20),
    "no generation_config.json": removing(GENERATION),
    "pad token of -1": setting("config.json", pad_token_id=-1),
    "unknown keys of config.json": setting("config.json", unsloth_fixed=True, **{"transformers.js_config": {"a": 1}}),
    "return_dict of config.json": setting("config.json", return_dict=False, output_hidden_states=True),
    "no chat template": removing("chat_template.jinja"),
    "a tokenizer class that does not exist": setting("tokenizer_config.json", tokenizer_class="NoSuchTokenizer"),
}

QUICK = "--samples 2 --sequence-length 48 --distill-steps 0"
COMMANDS = {
    "plan": "plan {float}",
    "quant": f"quant -m {{float}} -o {{out}} --calib {{text}} {QUICK}",
    "compress": "compress -m {w8a8s} -o {out}",
    "reshard": "reshard {w8a8sc} --tp 2 -o {out}",
    "run float": "run -m {float} --max-new-tokens 2",
    "run": "run -m {w8a8sc} --max-new-tokens 2",
    "chat": "chat -m {w8a8sc} --max-new-tokens 2",
    "eval": "eval -m {w8a8sc} --tokens 64 --window 32",
    "inspect": "inspect {w8a8s}",
    "serve": "serve {w8a8sc} --dry-run",
    "bench": "bench model -m {w8a8sc} --prompt 8 --new 2 --repeats 1",
}


EVERY = [pytest.param(name, marks=pytest.mark.slow) if name == "bench" else name for name in COMMANDS]


@pytest.fixture(scope="module")
def kinds(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    quantized = make_w8a8s(tiny_qwen3, folder / "w8a8s")
    compress_directory(quantized, folder / "w8a8sc", tp=1)
    return {"float": tiny_qwen3, "w8a8s": quantized, "w8a8sc": folder / "w8a8sc"}


def status_of(
    command: str,
    change: Callable[[Path], object],
    kinds: dict[str, Path],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> int:
    """Runs the command on a copy with the change; an exception that leaks is what a user sees as a traceback."""
    places = {"out": folder / "out", "text": folder / "text.txt"}
    places["text"].write_text("Text that a tiny model reads, and does not understand.\n\n" * 4)
    for kind, original in kinds.items():
        if f"{{{kind}}}" in COMMANDS[command]:
            places[kind] = Path(shutil.copytree(original, folder / kind))
            change(places[kind])
    lines = iter(["hello"])
    monkeypatch.setattr("builtins.input", lambda *_: next(lines, None) or (_ for _ in ()).throw(EOFError))
    return main(COMMANDS[command].format(**places).split())


@pytest.mark.parametrize("command", EVERY)
@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_one_line_or_no_obstacle(
    broken: str,
    command: str,
    kinds: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = status_of(command, BROKEN[broken], kinds, tmp_path, monkeypatch)
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    if status == 0:
        assert not lines
    else:
        assert status == 2
        assert len(lines) == 1, said
        assert str(tmp_path) in lines[0], "the file is named"
        assert not (tmp_path / "out").exists()
    if command in ("quant", "run", "chat", "eval", "serve"):
        assert status == 2, "all of them need all of these files"


@pytest.mark.parametrize("command", EVERY)
@pytest.mark.parametrize("fine", FINE)
def test_what_is_unusual_works(
    fine: str,
    command: str,
    kinds: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = status_of(command, FINE[fine], kinds, tmp_path, monkeypatch)
    said = capsys.readouterr().err
    if command == "chat" and fine == "no chat template":
        assert status == 2
        assert "no chat template" in said
    else:
        assert status == 0, said
