"""The seed document's own command lines, on a tiny Qwen3, with the program's name changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tilepress.checkpoint.targets import VENDOR, refusals
from tilepress.cli import main
from tilepress.cli.console import print_json


@pytest.fixture(scope="module")
def road(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Float, W8A8S and W8A8SC (two parts) directories of one model, made from the command line."""
    folder = tmp_path_factory.mktemp("road")
    quantized, compressed = folder / "w8a8s", folder / "w8a8sc"
    status = main(
        f"quant --model_path {tiny_qwen3} --save_path {quantized} --device cpu --model_type Qwen3-8B "
        "--quant_type w8a8s --trust_remote_code=true --samples 4 --sequence_length 64".split()
    )
    assert status == 0
    assert main(f"compress --model_path {quantized} --save_directory {compressed} --tp 2".split()) == 0
    return {"float": tiny_qwen3, "w8a8s": quantized, "w8a8sc": compressed}


def test_the_vendors_line_makes_the_vendors_form(road: dict[str, Path]) -> None:
    assert refusals(road["w8a8s"], VENDOR) == []
    assert refusals(road["w8a8sc"], VENDOR)


def test_run_asks_the_seeds_question(road: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    status = main(f"run -m {road['w8a8sc']} --trust_remote_code true --max-new-tokens 8 --json".split())
    answer = json.loads(capsys.readouterr().out)
    assert status == 0
    assert 1 <= answer["new_tokens"] <= 8
    # <|im_start|>user\nWhat's deep learning?<|im_end|>\n<|im_start|>assistant\n, a token a byte
    assert answer["prompt_tokens"] == len("user\nWhat's deep learning?\nassistant\n") + 3


def test_run_streams_the_answer_alone_to_standard_output(
    road: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"run -m {road['w8a8sc']} --max-new-tokens 8"
    assert main([*command.split(), "--prompt", "Hi"]) == 0
    streamed = capsys.readouterr()
    assert main([*command.split(), "--prompt", "Hi", "--json"]) == 0
    assert streamed.out == json.loads(capsys.readouterr().out)["text"] + "\n"
    assert "tokens/s" in streamed.err


def test_w8a8s_and_w8a8sc_answer_alike(road: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for kind in ("w8a8s", "w8a8sc"):
        assert main(f"run -m {road[kind]} --max-new-tokens 16 --json".split()) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1]


def test_head_and_embedding_are_quantized_where_asked(
    road: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quantized, compressed = tmp_path / "w8a8s", tmp_path / "w8a8sc"
    command = f"quant --model_path {road['float']} --save_path {quantized} --samples 4 --sequence_length 64"
    assert main(f"{command} --head --embeddings --json".split()) == 0
    linears = json.loads(capsys.readouterr().out)["linears"]
    assert [linear["name"] for linear in linears[-2:]] == ["lm_head", "model.embed_tokens"]
    assert main(f"compress --model_path {quantized} --save_directory {compressed} --tp 2".split()) == 0
    assert main(f"inspect --verify {quantized} {compressed}".split()) == 0
    capsys.readouterr()
    assert main(f"run -m {compressed} --max-new-tokens 8 --json".split()) == 0
    assert json.loads(capsys.readouterr().out)["new_tokens"] >= 1


@pytest.mark.slow
def test_torchrun_makes_the_same_bytes_as_one_process(road: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "by-torchrun"
    torchrun = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node 2"
    command = f"{torchrun} -m tilepress.compress --model_path {road['w8a8s']} --save_directory {out}"
    subprocess.run(command.split(), check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)
    for rank in range(2):
        weights = Path(f"part{rank}-of-2") / "quant_model_weight_w8a8sc.safetensors"
        assert (out / weights).read_bytes() == (road["w8a8sc"] / weights).read_bytes()


def test_reshard_makes_what_compress_would_have(
    road: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = "quant_model_weight_w8a8sc.safetensors"
    one, back = tmp_path / "one", tmp_path / "back"
    assert main(f"reshard {road['w8a8sc']} --tp 1 --save_directory {one} --json".split()) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["before"], made["tp"], made["save_directory"]) == (2, 1, str(one))
    assert 0 < made["encoded"] <= made["tiles"]  # the tiny model is smaller than a tile
    assert made["bytes"] == (one / "part0-of-1" / weights).stat().st_size
    assert main(f"reshard {one} --tp 2 --save-directory {back}".split()) == 0
    shown = capsys.readouterr().out
    assert "2 of 1" in shown
    assert "encoded again" in shown
    for part in ("part0-of-2", "part1-of-2"):
        assert (back / part / weights).read_bytes() == (road["w8a8sc"] / part / weights).read_bytes()
    assert main(["inspect", "--verify", str(road["w8a8s"]), str(one)]) == 0


def test_reshard_names_the_sizes_that_work(
    road: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(f"reshard {road['w8a8sc']} --tp 3 --save_directory {tmp_path / 'c'}".split()) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("choose one of 1, 2, 4, 8")
    assert list(tmp_path.iterdir()) == []


def test_inspect_describes_every_kind(road: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for kind, path in road.items():
        assert main(["inspect", str(path), "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["kind"] == kind
        assert summary["layers"] == 2
        assert summary["activations"] == (None if kind == "float" else "static")
        assert summary["loads_in"] == (["tilepress", "vendor"] if kind == "w8a8s" else ["tilepress"])
        assert main(["inspect", str(path)]) == 0
        shown = capsys.readouterr().out
        assert "Qwen3ForCausalLM, 2 layers" in shown
        assert ("static" in shown) == (kind != "float")


def test_inspect_verifies_that_compression_lost_nothing(
    road: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "--verify", str(road["w8a8s"]), str(road["w8a8sc"])]) == 0
    assert "14 linears" in capsys.readouterr().out


def test_eval_measures_the_distance_from_the_float_model(
    road: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"eval -m {road['w8a8sc']} --against {road['float']} --tokens 512 --window 128 --json"
    assert main(command.split()) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["tokens"] == 4 * 127
    assert 0 < result["kl"] < 0.5
    assert result["perplexity"] == pytest.approx(result["reference_perplexity"], rel=0.2)


def test_eval_of_several_texts_names_the_worst(
    road: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [tmp_path / "prose.txt", tmp_path / "numbers.txt"]
    texts[0].write_text("The quick brown fox jumps over the lazy dog. " * 4)
    texts[1].write_text("3141592653589793 " * 8)
    command = f"eval -m {road['w8a8sc']} --against {road['float']} --text {texts[0]} --text {texts[1]} --window 64"
    assert main([*command.split(), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [found["text"] for found in result["texts"]] == [str(text) for text in texts]
    worst = max(result["texts"], key=lambda found: found["kl"])
    assert result["worst_text"] == worst["text"]
    assert result["mean_kl"] < result["worst_kl"] == pytest.approx(worst["kl"], abs=1e-5)
    assert main(command.split()) == 0
    assert f"{result['worst_kl']}" in capsys.readouterr().out


def test_eval_names_a_text_without_anything_to_measure_before_it_measures_others(
    road: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full, empty = tmp_path / "full.txt", tmp_path / "empty.txt"
    full.write_text("The quick brown fox. " * 100)
    empty.touch()
    assert main(f"eval -m {road['w8a8sc']} --text {full} --text {empty}".split()) == 2
    said = capsys.readouterr()
    assert f"{empty}: the text is shorter than two tokens" in said.err
    assert "perplexity" not in said.out


def test_eval_reads_no_more_tokens_than_asked_for(road: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"eval -m {road['w8a8sc']} --tokens 20 --json".split()) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] < 20


def test_chat_keeps_the_cache_between_turns(
    road: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter(["Hello", "And again", "/exit"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(turns))
    assert main(f"chat -m {road['w8a8sc']} --max-new-tokens 4".split()) == 0
    first, second = (line for line in capsys.readouterr().err.splitlines() if "prompt tokens" in line)
    assert "cached" not in first
    assert "cached" in second


def test_the_model_is_an_argument_too(road: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for words in (["-m", str(road["w8a8sc"])], [str(road["w8a8sc"])]):
        assert main(["run", *words, "--max-new-tokens", "8", "--json"]) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1]
    assert main(["run", str(road["w8a8sc"]), "-m", "other"]) == 2
    assert "is given twice" in capsys.readouterr().err
    assert main(["run"]) == 2
    assert "no model is given" in capsys.readouterr().err


def test_decompress_gives_back_what_was_compressed(
    road: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decompress", str(road["w8a8sc"]), "-o", str(tmp_path / "back")]) == 0
    assert main(["inspect", "--verify", str(tmp_path / "back"), str(road["w8a8sc"])]) == 0
    assert main(["decompress", str(road["w8a8s"]), "-o", str(tmp_path / "none")]) == 2
    assert "is not compressed" in capsys.readouterr().err


def test_run_takes_the_words_of_the_vendors_script(
    road: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}", encoding="utf-8")
    line = f"run -m {road['w8a8sc']} -c true -t {template} -r true --max_output_length 4 --input_texts Hi --json"
    assert main(line.split()) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["prompt_tokens"], answer["new_tokens"] <= 4) == (2, True)
    assert main(f"run -m {road['w8a8sc']} -t {tmp_path / 'none'}".split()) == 2
    assert "--chat-template" in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tilepress ")


def test_json_keeps_characters_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": "你好"})
    assert capsys.readouterr().out == '{\n  "text": "你好"\n}\n'
