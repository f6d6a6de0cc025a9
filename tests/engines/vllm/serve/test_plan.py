"""`tilepress serve` up to the start of vLLM: its command line and environment, and refusals. It needs no vLLM."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from quantized_directories import edit_json
from quantized_models import make_w8a8s
from tilepress import CheckpointError, UsageError
from tilepress.cli import main
from tilepress.compress import compress_directory
from tilepress.engines.long_context import stretched
from tilepress.engines.vllm.serve import ServeOptions, ServePlan, make_plan
from tilepress.engines.vllm.serve.checks import check_installed, check_port, is_local
from tilepress.engines.vllm.serve.command import MODULE, chat_template, reasoning_parser, tool_parser
from tilepress.engines.vllm.serve.environment import binding, environment, physical_cores
from tilepress.engines.vllm.serve.unchanged import VARIABLE, check_unchanged, digest_of
from tiny_models import make_tiny_qwen3

QWEN = "<tools>{{ tools }}</tools> <tool_call>{{ name }}</tool_call> <think></think>"
LLAMA = '<|start_header_id|> Respond in the format {"name": function name, "parameters": dictionary}'
PER_TOKEN = 2 * 2 * 4 * 16 * 2  # keys and values, 2 layers, 4 kv heads of 16, 2 bytes


def plan(directory: Path, *, cpu: bool = True, available: int = 8 << 30, **options: Any) -> ServePlan:
    return make_plan(str(directory), ServeOptions(**options), current={}, cpu=cpu, available=available)


def value(served: ServePlan, option: str) -> str | None:
    words = served.command
    return words[words.index(option) + 1] if option in words else None


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float Qwen3 whose chat template knows tools and thoughts; tests only read it."""
    directory = make_tiny_qwen3(tmp_path_factory.mktemp("models") / "tiny")
    (directory / "chat_template.jinja").write_text(QWEN)
    return directory


def test_defaults_on_the_cpu(qwen3: Path) -> None:
    served = plan(qwen3)
    assert served.command[:3] == [sys.executable, "-m", MODULE]
    assert (value(served, "--model"), value(served, "--served-model-name")) == (str(qwen3), "tiny")
    assert (value(served, "--host"), value(served, "--port")) == ("127.0.0.1", "8000")
    assert (value(served, "--max-model-len"), value(served, "--block-size")) == ("512", "32")
    assert (value(served, "--tool-call-parser"), value(served, "--reasoning-parser")) == ("hermes", "qwen3")
    assert int(value(served, "--kv-cache-memory-bytes") or 0) == (16 * 512 + 32) * PER_TOKEN
    assert {"--enforce-eager", "--enable-auto-tool-choice", "--enable-prompt-tokens-details"} <= set(served.command)
    absent = {"--hf-overrides", "--speculative-config", "--tensor-parallel-size", "--no-enable-prefix-caching"}
    assert not absent & set(served.command)
    assert served.environment["HF_HUB_OFFLINE"] == "1"
    assert "VLLM_API_KEY" not in served.environment
    assert served.notes == []


def test_on_a_gpu_vllm_finds_memory_and_threads_itself(qwen3: Path) -> None:
    served = plan(qwen3, cpu=False)
    assert not {"--enforce-eager", "--block-size", "--kv-cache-memory-bytes"} & set(served.command)
    assert not {"LD_PRELOAD", "VLLM_CPU_OMP_THREADS_BIND"} & set(served.environment)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tp": 2}, ["--tensor-parallel-size", "2"]),
        ({"host": "::1", "port": 81}, ["--host", "::1", "--port", "81"]),
        ({"name": "small"}, ["--served-model-name", "small"]),
        ({"dtype": "float32"}, ["--dtype", "float32"]),
        ({"kv_cache": 1 << 20}, ["--kv-cache-memory-bytes", str(1 << 20)]),
        ({"kv_cache": 1 << 20, "tp": 2}, ["--kv-cache-memory-bytes", str(1 << 19)]),
        ({"max_model_len": 64}, ["--max-model-len", "64"]),
        ({"prefix_cache": False}, ["--no-enable-prefix-caching"]),
        ({"extra": ("--max-num-seqs", "3")}, ["--max-num-seqs", "3"]),
    ],
)
def test_options_become_words(options: dict[str, Any], words: list[str], qwen3: Path) -> None:
    served = plan(qwen3, **options).command
    assert any(served[i : i + len(words)] == words for i in range(len(served)))


@pytest.mark.parametrize(("asked", "method"), [("ngram", "ngram"), ("memory", "suffix")])
def test_parallel_decoding(asked: str, method: str, qwen3: Path) -> None:
    served = plan(qwen3, parallel_decoding=asked)
    assert json.loads(value(served, "--speculative-config") or "")["method"] == method


def test_without_tools(qwen3: Path) -> None:
    assert "--tool-call-parser" not in plan(qwen3, tools=False).command


def test_an_unknown_template_serves_without_tools_and_says_so(tiny_qwen3: Path) -> None:
    served = plan(tiny_qwen3)
    assert "--enable-auto-tool-choice" not in served.command
    assert "tool calls are off" in served.notes[0]
    with pytest.raises(UsageError, match="--tool-call-parser NAME"):
        plan(tiny_qwen3, tools=True)
    plan(tiny_qwen3, tools=True, extra=("--tool-call-parser", "pythonic"))


@pytest.mark.parametrize(
    ("template", "parser"),
    [(QWEN, "hermes"), (LLAMA, "llama3_json"), ("<tool_call><function=x>", None), ("<|im_start|>", None), ("", None)],
)
def test_the_template_tells_the_tool_parser(template: str, parser: str | None) -> None:
    assert tool_parser(template) == parser


def test_only_models_that_think_have_a_reasoning_parser() -> None:
    assert reasoning_parser("Qwen3ForCausalLM", QWEN) == "qwen3"
    assert reasoning_parser("Qwen3ForCausalLM", "<tool_call>") is None
    assert reasoning_parser("LlamaForCausalLM", QWEN) is None


def test_templates_in_the_tokenizers_config(tmp_path: Path) -> None:
    assert chat_template(tmp_path) == ""
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({"chat_template": [{"name": "tool_use", "template": QWEN}]}))
    assert chat_template(tmp_path) == QWEN
    file.write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        chat_template(tmp_path)


def test_quantized_directories_need_nothing_of_their_own(qwen3: Path, tmp_path: Path) -> None:
    quantized = make_w8a8s(qwen3, tmp_path / "w8a8s")
    compress_directory(quantized, tmp_path / "w8a8sc", tp=2)
    for directory in (quantized, tmp_path / "w8a8sc"):
        assert "--quantization" not in plan(directory, tp=2).command
    edit_json(quantized / "config.json", lambda config: config.pop("quantization_config"))  # as the vendor's tool does
    assert value(plan(quantized), "--quantization") == "tilepress"


def test_a_longer_context_switches_yarn_on_and_says_so(qwen3: Path) -> None:
    served = plan(qwen3, max_model_len=2048)
    overrides = json.loads(value(served, "--hf-overrides") or "")
    assert overrides == {
        "max_position_embeddings": 2048,
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 512,
            "rope_theta": 10000.0,
        },
    }
    assert value(served, "--max-model-len") == "2048"
    assert "YaRN by 4 is on" in served.notes[0]
    with pytest.raises(UsageError, match="--hf-overrides"):
        plan(qwen3, max_model_len=2048, extra=("--hf-overrides", "{}"))


def test_yarn_starts_from_what_was_trained() -> None:
    qwen3 = {"architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 40960, "rope_theta": 1e6}
    assert stretched(qwen3, Path("config.json"), 40960) is None
    made = stretched(qwen3, Path("config.json"), 131072)
    assert made is not None
    assert (made["rope_parameters"]["factor"], made["rope_parameters"]["rope_theta"]) == (4.0, 1e6)
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32768, "beta_fast": 16}
    made = stretched({"max_position_embeddings": 65536, "rope_scaling": yarn}, Path("config.json"), 98304)
    assert made is not None
    assert (made["rope_parameters"]["factor"], made["rope_parameters"]["beta_fast"]) == (3.0, 16)
    llama = {"max_position_embeddings": 131072, "rope_parameters": {"rope_type": "llama3"}}
    with pytest.raises(UsageError, match="llama3 scaling, which YaRN cannot stretch; give at most 131072"):
        stretched(llama, Path("config.json"), 200000)
    with pytest.raises(CheckpointError, match="max_position_embeddings is None"):
        stretched({}, Path("config.json"), 1)


def test_a_context_beyond_memory_is_refused_with_the_number_that_fits(qwen3: Path) -> None:
    with pytest.raises(UsageError, match="give at most 224"):
        plan(qwen3, max_model_len=256, kv_cache=256 * PER_TOKEN)
    assert value(plan(qwen3, max_model_len=224, kv_cache=256 * PER_TOKEN), "--max-model-len") == "224"
    with pytest.raises(UsageError, match="free memory"):
        plan(qwen3, available=1 << 30)


def test_a_context_that_nobody_asked_for_is_cut_to_memory(qwen3: Path) -> None:
    served = plan(qwen3, kv_cache=256 * PER_TOKEN)
    assert value(served, "--max-model-len") == "224"
    assert "cut to 224 tokens" in served.notes[0]


def test_float32_takes_twice_the_memory(qwen3: Path) -> None:
    with pytest.raises(UsageError, match="give at most 96"):
        plan(qwen3, max_model_len=224, kv_cache=256 * PER_TOKEN, dtype="float32")


def test_ranks_that_do_not_divide_the_model_are_refused(
    qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r"3 tensor-parallel parts do not fit 8 heads.*choose one of 1, 2, 4, 8"):
        plan(qwen3, tp=3)
    with pytest.raises(CheckpointError, match="choose one of 1, 2, 4, 8"):
        plan(make_w8a8s(qwen3, tmp_path / "w8a8s"), tp=3)
    monkeypatch.setattr(tiny_models, "VOCABULARY", 300)
    odd = make_w8a8s(make_tiny_qwen3(tmp_path / "odd", heads=6, kv_heads=3, intermediate=96), tmp_path / "odd-w8a8s")
    plan(odd)
    with pytest.raises(UsageError, match="vLLM does not split a vocabulary of 320 rows into so many parts"):
        plan(odd, tp=3)


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:  # as vLLM itself listens
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"--port {port}: Address already in use"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)
    with pytest.raises(UsageError, match="give an address of this machine"):
        check_port("no.such.host.invalid", port)


def test_an_open_server_without_a_key_is_pointed_out(qwen3: Path) -> None:
    assert "no --api-key" in plan(qwen3, host="0.0.0.0").notes[0]
    assert plan(qwen3, host="0.0.0.0", api_key="secret").notes == []
    assert is_local("127.0.0.1")
    assert not is_local("0.0.0.0")


def test_missing_packages_are_named_with_what_installs_them() -> None:
    with pytest.raises(UsageError, match=r"make vllm.*pip install vllm"):
        check_installed("off", lambda name: None)
    with pytest.raises(UsageError, match="pip install arctic-inference"):
        check_installed("memory", lambda name: None if name == "arctic_inference" else socket.__spec__)
    check_installed("ngram", lambda name: None if name == "arctic_inference" else socket.__spec__)


def test_what_the_user_has_set_stays() -> None:
    fixed: dict[str, Any] = {"openmp": Path("/lib/libiomp5.so"), "offline": True, "api_key": None, "digest": "s"}
    made = environment({}, binding="0,1", **fixed)
    assert made["LD_PRELOAD"] == "/lib/libiomp5.so"
    assert made["VLLM_CPU_OMP_THREADS_BIND"] == "0,1"
    mine = {"VLLM_CPU_OMP_THREADS_BIND": "7", "HF_HUB_OFFLINE": "0", "LD_PRELOAD": "/lib/libtcmalloc.so"}
    made = environment(mine, binding="0,1", **fixed)
    assert not {"VLLM_CPU_OMP_THREADS_BIND", "HF_HUB_OFFLINE"} & set(made)
    assert made["LD_PRELOAD"] == "/lib/libiomp5.so:/lib/libtcmalloc.so"
    assert "LD_PRELOAD" not in environment({"LD_PRELOAD": "/lib/libgomp.so.1"}, binding="0", **fixed)
    assert environment({"OMP_NUM_THREADS": "1"}, binding="0,1", **fixed)["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert "HF_HUB_OFFLINE" not in environment({}, binding="0", **fixed | {"offline": False})


def test_the_key_is_no_word_of_the_command_line(qwen3: Path) -> None:
    served = plan(qwen3, api_key="secret")
    assert served.environment["VLLM_API_KEY"] == "secret"
    assert "secret" not in served.command
    assert "secret" not in served.shown_environment().values()


@pytest.mark.parametrize(
    ("cores", "tp", "bound"),
    [
        (2, 1, "0,1"),
        (2, 2, "0|1"),
        (1, 2, "nobind"),
        (8, 1, "0,1,2,3,4,5,6"),
        (8, 2, "0,1,2|4,5,6"),
        (7, 2, "0,1,2|3,4,5"),
    ],
)
def test_each_rank_has_cores_of_its_own(cores: int, tp: int, bound: str) -> None:
    assert binding(list(range(cores)), tp) == bound


def test_one_thread_a_core(tmp_path: Path) -> None:
    for cpu, (package, core) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1), (0, 0), (1, 0)]):
        topology = tmp_path / f"cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
        (topology / "core_id").write_text(f"{core}\n")
    assert physical_cores(tmp_path, range(6)) == [0, 2, 1, 3]
    assert physical_cores(tmp_path, {4, 5}) == [4, 5]
    assert physical_cores(tmp_path / "none", {0, 1}) == [0, 1]


def test_a_directory_that_changes_during_the_start_is_refused(
    qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_w8a8s(qwen3, tmp_path / "w8a8s")
    monkeypatch.setenv(VARIABLE, digest_of(directory))
    check_unchanged(directory)
    check_unchanged(qwen3)  # another model, such as one for drafts
    os.utime(directory / "config.json", (1, 1))
    with pytest.raises(CheckpointError, match="changed while the server was starting"):
        check_unchanged(directory)
    monkeypatch.delenv(VARIABLE)
    check_unchanged(directory)


def test_a_truncated_directory_is_refused_at_the_start(qwen3: Path, tmp_path: Path) -> None:
    directory = make_w8a8s(qwen3, tmp_path / "w8a8s")
    (file,) = directory.glob("*.safetensors")
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=file.name):
        plan(directory)


def test_a_dry_run_prints_what_would_run(
    qwen3: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # what the user has set is not printed
    assert main(["serve", str(qwen3), "--dry-run", "--kv-cache", "1MB", "--", "--max-num-seqs", "3"]) == 0
    printed = capsys.readouterr().out
    assert "HF_HUB_OFFLINE=1" in printed
    assert printed.endswith("--max-num-seqs 3\n")
    assert main(["serve", str(qwen3), "--dry-run", "--json", "--kv-cache", "1MB", "--api-key", "secret"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["command"][2] == MODULE
    assert "secret" not in printed


def test_the_process_becomes_the_server(qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr("tilepress.engines.vllm.serve.plan.check_installed", lambda drafts: None)
    monkeypatch.setattr("os.execve", lambda *words: started.append(words))
    assert main(["serve", str(qwen3), "--port", "0", "--kv-cache", "1MB"]) == 0
    ((program, words, variables),) = started
    assert (program, words[2]) == (sys.executable, MODULE)
    assert variables[VARIABLE] == digest_of(qwen3)
    assert variables["PATH"] == os.environ["PATH"]
