"""The decoder's forward pass as one native call, without torch between its operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from tilepress import _native
from tilepress.engines.biased_norm import BiasedNorm
from tilepress.engines.transformers.compressed_embedding import StoredHead
from tilepress.engines.transformers.compressed_linear import CompressedLinear, CompressedProduct, FusedMember
from tilepress.engines.transformers.generation.cache_type import CacheType
from tilepress.engines.transformers.generation.kv_cache import NATIVE, CacheShape, GrowingCache
from tilepress.errors import UsageError

# Positions whose angles are computed at a time.
POSITIONS = 1024
# Tokens of a prompt that are computed at a time. SmolLM2 reads 2048 in 2.07 s, with 256 at a time in 2.43, with 1024 in
# 2.14 (two cores of a Zen 4).
PROMPT_TOKENS = 512
KEPT = {kept: _native.CacheType[kept.name] for kept in CacheType}
# Rotary embeddings whose frequencies change with the length of the text.
MOVING = ("dynamic", "longrope")
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
KNOWN = (CompressedLinear, FusedMember, StoredHead, nn.Linear)


@dataclass(frozen=True)
class Part:
    """tokens [1, n] behind the first `start` of the cache, which has room for them; logits are of the last `asked`."""

    tokens: Tensor
    cache: GrowingCache
    start: int
    asked: int
    sequence: _native.Sequence
    buffers: list[Tensor]  # what `sequence` points to

    @property
    def end(self) -> int:
        return self.start + self.tokens.shape[1]


class DecodeStep:
    """The forward pass for some tokens behind a cache, or for those of several caches.

    It does the operations of transformers' Llama, Mistral, Qwen2 and Qwen3 on the same numbers. Logits differ from the
    model's own in the last bits, as the sums of norms, of attention and of float linears do.

    Several tokens give the same bits as one at a time, so that neither drafts nor prefixes that are known already
    change an answer, and so do any number of threads, any instruction set and other sequences beside.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Only for models that `supports` accepts."""
        decoder: Any = model.model
        config = model.config
        self._shape = CacheShape(config.num_hidden_layers, config.num_key_value_heads, _head_size(model))
        linears = [module for module in decoder.layers.modules() if isinstance(module, nn.Linear)]
        # Floats are multiplied row by row, which a prompt has too many tokens for.
        self.takes_prompts = all(isinstance(linear, CompressedLinear | FusedMember) for linear in linears)
        self._embed = decoder.embed_tokens
        self._angles = _Angles(decoder.rotary_emb)
        self._vocabulary: int = config.vocab_size
        self._kept: list[NDArray[Any]] = []  # what the native decoder points to
        window = config.sliding_window if isinstance(model, MistralForCausalLM) else None
        self._decoder = _native.Decoder(
            hidden=config.hidden_size,
            queries=config.num_attention_heads,
            heads=self._shape.heads,
            head_size=self._shape.head_size,
            window=window or 0,
        )
        for layer in decoder.layers:
            self._add_layer(layer)
        self._decoder.finish(self._norm(decoder.norm), [self._linear(model.lm_head)])

    @staticmethod
    def supports(model: PreTrainedModel) -> bool:
        """Return True for the four architectures in float32 on the CPU, without hooks.

        Mistral may have a sliding window, which is the same in all layers; the others have to attend to all tokens.
        """
        config = model.config
        return (
            type(model) in (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
            and model.dtype == torch.float32
            and model.device.type == "cpu"
            and config.hidden_act == "silu"
            and config._attn_implementation == "sdpa"
            and _head_size(model) % 8 == 0
            and getattr(model.model.rotary_emb, "rope_type", "default") not in MOVING
            and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
            and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
            and all(type(linear) in KNOWN for linear in _linears(model))  # no adapters on top
        )

    def prompt(self, tokens: Tensor, cache: GrowingCache) -> Tensor:
        """Return logits [1, vocabulary] after all of tokens [1, n], which are many; else like a call."""
        return [self.together([part]) for part in self.parts_of_prompt(tokens, cache)][-1][0]

    def __call__(self, tokens: Tensor, cache: GrowingCache) -> Tensor:
        """Return logits [n, vocabulary] after each of tokens [1, n], whose keys and values are added to the cache."""
        return self.together([self.part(tokens, cache)])[0]

    def part(self, tokens: Tensor, cache: GrowingCache) -> Part:
        """Return tokens [1, n] to compute with logits after each.

        Raises UsageError for a cache of another shape and for a token that the model does not have.
        """
        self._check(tokens)
        start = cache.get_seq_length()
        buffers = cache.buffers_for(start + tokens.shape[1], self._shape)
        return self._part(tokens, cache, buffers, start, tokens.shape[1])

    def parts_of_prompt(self, tokens: Tensor, cache: GrowingCache) -> list[Part]:
        """Return parts of tokens [1, n] to compute in turn, with logits after the last token; errors as of `part`."""
        self._check(tokens)
        start = cache.get_seq_length()
        buffers = cache.buffers_for(start + tokens.shape[1], self._shape)
        *first, last = enumerate(torch.split(tokens, PROMPT_TOKENS, dim=1))
        parts = [(number, part, 0) for number, part in first] + [(*last, 1)]
        return [
            self._part(part, cache, buffers, start + number * PROMPT_TOKENS, asked) for number, part, asked in parts
        ]

    def together(self, parts: Sequence[Part], threads: int | None = None) -> list[Tensor]:
        """Return logits [asked, vocabulary] of each part; their caches are different ones.

        A part's keys and values are added to its cache, when all are computed. threads: torch's number if None.
        """
        x = self._embed(torch.cat([part.tokens for part in parts], dim=1))
        turned = [self._angles(part.start, part.end) for part in parts]
        cos, sin = turned[0] if len(parts) == 1 else torch.cat(turned, dim=1)
        logits = torch.empty(sum(part.asked for part in parts), self._vocabulary, **NATIVE)
        self._decoder.step(
            x.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            [part.sequence for part in parts],
            logits.data_ptr(),
            threads or torch.get_num_threads(),
        )
        for part in parts:
            part.cache.use(part.end)
        return list(torch.split(logits, [part.asked for part in parts]))

    def _check(self, tokens: Tensor) -> None:
        least, most = (int(extreme) for extreme in torch.aminmax(tokens))
        if least < 0 or most >= self._vocabulary:
            raise UsageError(f"token {least if least < 0 else most} is none of the model's {self._vocabulary}")

    def _part(self, tokens: Tensor, cache: GrowingCache, buffers: list[Tensor], start: int, asked: int) -> Part:
        sequence = _native.Sequence.of(
            tokens.shape[1],
            start,
            asked,
            KEPT[cache.kept or CacheType.float32],
            [buffer.data_ptr() for buffer in buffers],
            buffers[0].shape[3],
        )
        return Part(tokens, cache, start, asked, sequence, buffers)

    def _add_layer(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        normed = hasattr(attention, "q_norm")
        self._decoder.add_layer(
            attention_norm=self._norm(layer.input_layernorm),
            query_key_value=self._together(attention, "query_key_value", ["q_proj", "k_proj", "v_proj"]),
            query_norm=self._norm(attention.q_norm) if normed else None,
            key_norm=self._norm(attention.k_norm) if normed else None,
            output=[self._linear(attention.o_proj)],
            mlp_norm=self._norm(layer.post_attention_layernorm),
            gate_up=self._together(mlp, "gate_up_proj", ["gate_proj", "up_proj"]),
            down=[self._linear(mlp.down_proj)],
        )

    def _together(self, block: nn.Module, fused: str, names: list[str]) -> list[_native.Projection]:
        """Return the fused linear where the block has one, else its linears one by one."""
        return [self._linear(block.get_submodule(name)) for name in ([fused] if hasattr(block, fused) else names)]

    def _linear(self, module: Any) -> _native.Projection:
        if isinstance(module, CompressedProduct):
            return _native.Projection.compressed(
                self._array(module.weight),
                self._array(module.index),
                self._array(module.info),
                float(module.input_scale),
                int(module.input_offset),
                self._array(module.deq_scale),
                self._array(module.quant_bias),
                self._array_or_none(getattr(module, "weight_sums", None)),
            )
        bias = None if isinstance(module, StoredHead) else self._array_or_none(module.bias)
        weight = module.weight.detach()
        if weight.dtype == torch.float32:
            return _native.Projection.of_32_bits(self._array(weight), bias)
        bfloat = weight.dtype == torch.bfloat16
        return _native.Projection.of_16_bits(self._array(weight.view(torch.int16)), bfloat, bias)

    def _norm(self, module: Any) -> _native.Norm:
        bias = None
        if isinstance(module, BiasedNorm):
            module, bias = module.norm, module.bias
        return _native.Norm.of(self._array(module.weight), self._array_or_none(bias), module.variance_epsilon)

    def _array(self, tensor: Tensor) -> NDArray[Any]:
        """Return the tensor's memory as an array that stays for as long as the step does."""
        self._kept.append(tensor.detach().contiguous().numpy())
        return self._kept[-1]

    def _array_or_none(self, tensor: Tensor | None) -> NDArray[Any] | None:
        return None if tensor is None else self._array(tensor)


class _Angles:
    """cos and sin of positions, float32 [positions, head size], computed once for many."""

    def __init__(self, rotary: nn.Module) -> None:
        self._rotary = rotary
        self._table = torch.empty(2, 0, 0, **NATIVE)

    def __call__(self, start: int, end: int) -> Tensor:
        """Return cos and sin of the positions, as [2, end - start, head size]."""
        if end > self._table.shape[1]:
            known = -(-end // POSITIONS) * POSITIONS
            cos, sin = self._rotary(self._table, torch.arange(known, device="cpu")[None])
            self._table = torch.cat([cos, sin])
        return self._table[:, start:end]


def _linears(model: Any) -> Iterator[nn.Module]:
    """Yield what the model calls as its linears."""
    yield model.lm_head
    for layer in model.model.layers:
        for block, names in ((layer.self_attn, ATTENTION), (layer.mlp, MLP)):
            yield from (getattr(block, name) for name in names)


def _head_size(model: Any) -> int:
    size: int = model.model.layers[0].self_attn.head_dim
    return size
