"""Tiny float checkpoints with real architectures, random weights and a byte-level tokenizer of their own.

They are complete Hugging Face directories: config, weights, tokenizer with chat template, generation config.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tilepress.models.layer_inputs import LAYER_NORMS

# The start token of `make_qwen3_with_outliers`, and the channels that are far larger than others there.
IM_START, OUTLIERS = 256, [3, 40]
VOCABULARY = 320  # 256 bytes, the special tokens, and unused rows up to a multiple of 64

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def make_tiny_qwen3(path: Path, **options: object) -> Path:
    """Qwen3: grouped-query attention with q_norm and k_norm. Options: see `_save`."""
    return _save(Qwen3ForCausalLM, Qwen3Config, path, **options)


def make_tiny_qwen2(path: Path, **options: object) -> Path:
    """Qwen2: biases on q, k and v. Options: see `_save`."""
    return _save(Qwen2ForCausalLM, Qwen2Config, path, **options)


def make_tiny_llama(path: Path, **options: object) -> Path:
    """Llama: neither. Options: see `_save`."""
    return _save(LlamaForCausalLM, LlamaConfig, path, **options)


def make_tiny_mistral(path: Path, **options: object) -> Path:
    """Mistral: Llama with a sliding window, of 24 tokens unless told otherwise. Options: see `_save`."""
    return _save(MistralForCausalLM, MistralConfig, path, **{"sliding_window": 24, **options})


def make_qwen3_with_outliers(path: Path, seed: int) -> Path:
    """Norms with two large gains, two large rows in up_proj, and a start token that makes huge inputs of down_proj."""
    make_tiny_qwen3(path, seed=seed, heads=4, kv_heads=2)
    file = path / "model.safetensors"
    tensors = load_file(file)
    embedding = tensors["model.embed_tokens.weight"]
    embedding[:, 7] = 0.0  # a channel that only the start token has
    embedding[IM_START, 7] = 30.0
    for layer in (f"model.layers.{index}." for index in range(2)):
        for norm in LAYER_NORMS:
            tensors[layer + norm.gain][OUTLIERS] *= 8.0
            tensors[layer + norm.gain][7] = 1.5
        tensors[f"{layer}mlp.up_proj.weight"][OUTLIERS] *= 4.0
        for name in ("gate_proj", "up_proj"):
            tensors[f"{layer}mlp.{name}.weight"][:, 7] = 1.0
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            tensors[f"{layer}{name}.weight"][7] = 0.0
    save_file(tensors, file, {"format": "pt"})
    return path


def _save(
    model_class: type[PreTrainedModel],
    config_class: type[PreTrainedConfig],
    path: Path,
    *,
    tied: bool = False,
    dtype: torch.dtype = torch.float16,
    layers: int = 2,
    heads: int = 8,
    kv_heads: int = 4,
    head_dim: int = 16,
    hidden: int = 64,
    intermediate: int = 128,
    seed: int = 0,
    sharded: bool = False,
    **config: object,
) -> Path:
    """`config`: further settings of config.json, such as attention_bias."""
    shape: dict[str, object] = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tied,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": 258,
        **config,
    }
    if config_class is Qwen2Config:
        assert head_dim * heads == hidden, "Qwen2 has no head_dim of its own"
    else:
        shape["head_dim"] = head_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config_class(**shape))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # initialised to zero, where nothing would be tested
                torch.nn.init.normal_(parameter, std=0.1)
            elif "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
            else:
                torch.nn.init.normal_(parameter, std=0.08)
    model = model.to(dtype)
    model.save_pretrained(path, **({"max_shard_size": "60KB"} if sharded else {}))
    byte_level_tokenizer().save_pretrained(path)
    (path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|im_end|>"}), encoding="utf-8")
    return path


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of one token a byte plus the chat tokens of Qwen3."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
    )
