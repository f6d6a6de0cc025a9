"""Models as they are published: the fields of their config files (tests/zoo), scaled down, with random weights.

tests/zoo/*.json has for each model its name, where the facts come from, config.json, generation_config.json and
tokenizer_config.json as published (chat template and table of added tokens left out), the kind of its chat template,
the type that is stored, and quirks of the stored tensors. A file that is null there is not written.

Of the sizes only widths and depth are changed: heads, kv heads, vocabulary and everything else stay.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tilepress.checkpoint import ModelShape, architecture_of
from tilepress.models.architecture import float_tensors
from tiny_models import byte_level_tokenizer

FOLDER = Path(__file__).parent / "zoo"
HEAD_DIM, DEPTH = 8, 2
TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}

_TURNS = (
    "{%- for message in messages -%}{{ START + message['role'] + BETWEEN + (message['content'] or '') + END }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ START + 'assistant' + BETWEEN }}{%- endif -%}"
)
_TOOLS = "{%- if tools -%}{{ START + 'system' + BETWEEN }}<tool_call>{{ tools | tojson }}{{ END }}{%- endif -%}"
_ALTERNATE = (
    "{%- if messages[0]['role'] == 'system' -%}{%- set messages = messages[1:] -%}{%- endif -%}"
    "{%- for message in messages -%}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{%- endif -%}{%- endfor -%}"
)


def _template(start: str, between: str, end: str, body: str = _TURNS) -> str:
    return (
        f"{{%- set START = {json.dumps(start)} -%}}{{%- set BETWEEN = {json.dumps(between)} -%}}"
        f"{{%- set END = {json.dumps(end)} -%}}{body}"
    )


_CHATML = ("<|im_start|>", "\n", "<|im_end|>\n")
_LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>")
# Written for these tests, in the manner of each family.
TEMPLATES = {
    "chatml": _template(*_CHATML),
    "chatml-tools": _template(*_CHATML, _TOOLS + _TURNS),
    "chatml-think": _template(
        *_CHATML, _TOOLS + _TURNS + "{%- if enable_thinking is false -%}<think></think>{%- endif -%}"
    ),
    "llama2": _template("[INST] ", " ", " [/INST]", _ALTERNATE + _TURNS),
    "llama3": _template(*_LLAMA3),
    "llama31-tools": "{%- set date = strftime_now('%d %b %Y') -%}" + _template(*_LLAMA3, _TOOLS + _TURNS),
    "zephyr": _template("<|", "|>\n", "</s>\n"),
    "deepseek": _template("<|", "|>", "", _TURNS + "{%- if add_generation_prompt -%}<think>\n{%- endif -%}"),
}


def zoo() -> dict[str, dict[str, Any]]:
    """The models by name."""
    entries = [entry for file in sorted(FOLDER.glob("*.json")) for entry in json.loads(file.read_text("utf-8"))]
    return {entry["name"]: entry for entry in entries}


def make_small(entry: dict[str, Any], path: Path, depth: int = DEPTH) -> Path:
    """The model in widths and depth that take a second or two."""
    config = _scaled(entry["config"], depth)
    path.mkdir(parents=True)
    write = lambda name, content: (path / name).write_text(json.dumps(content, indent=2), encoding="utf-8")  # noqa: E731
    write("config.json", config)
    if entry["generation_config"] is not None:
        write("generation_config.json", entry["generation_config"])
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = TEMPLATES.get(entry["template"])
    tokenizer.save_pretrained(path)
    settings = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    write("tokenizer_config.json", settings | (entry["tokenizer_config"] or {}))
    fields = {key: value for key, value in config.items() if key not in ("quantization_config", "architectures")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields), dtype=torch.float32)
    kept = {name: tensor.to(getattr(torch, entry["dtype"])) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del kept["lm_head.weight"]
    if "head-stored-though-tied" in entry["stored"]:
        kept["lm_head.weight"] = kept["model.embed_tokens.weight"].clone()
    if "inv-freq-stored" in entry["stored"]:
        for layer in range(depth):
            kept[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(HEAD_DIM // 2)
    if "names-without-model-prefix" in entry["stored"]:
        kept = {name.removeprefix("model."): tensor for name, tensor in kept.items() if name != "lm_head.weight"}
    save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
    return path


def make_headers(entry: dict[str, Any], path: Path) -> Path:
    """The model in its real size, with weights that are holes in a file: for what reads headers alone."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(entry["config"]), encoding="utf-8")
    taken = AutoConfig.for_model(**{k: v for k, v in entry["config"].items() if k != "quantization_config"}).to_dict()
    shape = ModelShape.from_config(taken)
    header: dict[str, Any] = {}
    end = 0
    item = torch.empty(0, dtype=getattr(torch, entry["dtype"])).itemsize
    for name, size in float_tensors(architecture_of(taken), shape).items():
        start, end = end, end + item * torch.Size(size).numel()
        header[name] = {"dtype": TYPES[entry["dtype"]], "shape": list(size), "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    with (path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        file.truncate(8 + len(content) + end)
    return path


def _scaled(published: dict[str, Any], depth: int) -> dict[str, Any]:
    config = dict(published)
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    if "head_dim" in config and config["head_dim"] is not None:
        config["hidden_size"] = max(HEAD_DIM, config["hidden_size"] * HEAD_DIM // config["head_dim"])
        config["head_dim"] = HEAD_DIM
    else:
        config["hidden_size"] = heads * HEAD_DIM
    ratio = published["hidden_size"] / config["hidden_size"]
    config["intermediate_size"] = max(2, int(published["intermediate_size"] / ratio) // 2 * 2)
    config["num_hidden_layers"] = depth
    if "max_window_layers" in config:
        config["max_window_layers"] = config["max_window_layers"] * depth // layers
    if isinstance(config.get("layer_types"), list):
        config["layer_types"] = config["layer_types"][:depth]
    return config
