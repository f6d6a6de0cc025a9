"""The decoder's forward pass for a few tokens, without the overhead of the model's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from tilepress.engines.biased_norm import BiasedNorm
from tilepress.engines.transformers.compressed_linear import CompressedLinear
from tilepress.engines.transformers.generation.kv_cache import GrowingCache
from tilepress.kernels import attend, attend_in_torch

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Layer:
    attention_norm: Function
    query_key_value: Function
    head_norm: Function | None  # q_norm and k_norm
    output: Function
    mlp_norm: Function
    gate_up: Function
    down: Function


class DecodeStep:
    """The forward pass for one token, or a few, behind a cache, in a batch of one.

    It does the operations of transformers' Llama, Mistral, Qwen2 and Qwen3 on the same numbers, in 27 calls of torch a
    layer instead of 50, and without modules. In a model of 30 layers that overhead takes longer than all linears.
    Logits differ from the model's own in the last bits, as the sums of attention do.

    Several tokens give the same bits as one at a time, so that drafts change no answer: compressed linears do not
    depend on the batch, and attention and a float head are called once a token. Only float linears are not that exact.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Only for models that `supports` accepts."""
        decoder: Any = model.model
        config = model.config
        self._embed, self._rotary, self._head = decoder.embed_tokens, decoder.rotary_emb, model.lm_head
        self._norm = _norm(decoder.norm)
        self._head_size = _head_size(model)
        self._queries: int = config.num_attention_heads
        self._normed = self._queries + config.num_key_value_heads
        self._window: int | None = config.sliding_window if isinstance(model, MistralForCausalLM) else None
        self._layers = [self._layer(layer) for layer in decoder.layers]

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
            and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
            and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        )

    def __call__(self, tokens: Tensor, cache: GrowingCache) -> Iterator[Tensor]:
        """Return logits [1, vocabulary] after each of tokens [1, n]; their keys and values are added to the cache."""
        x = self._embed(tokens)
        start, count = cache.get_seq_length(), tokens.shape[1]
        end = start + count
        cos, sin = self._rotary(x, torch.arange(start, end)[None])
        turns = list(zip(range(start, end), cos[0], sin[0], strict=True))
        x = x[0]
        past: Any
        for layer, past in zip(self._layers, cache.layers, strict=True):
            rows = layer.query_key_value(layer.attention_norm(x)).view(count, -1, self._head_size)
            if layer.head_norm is not None:
                heads = rows.narrow(1, 0, self._normed)
                heads.copy_(layer.head_norm(heads))
            buffer = past.buffer_for(end)
            attended = [self._attend(r, c, s, buffer, t) for r, (t, c, s) in zip(rows, turns, strict=True)]
            past.use(end)
            x = x + layer.output(attended[0] if count == 1 else torch.stack(attended))
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, dim=-1)
            x = layer.down(silu(gate).mul_(up)).add_(x)
        return self._logits(self._norm(x))

    def _attend(self, row: Tensor, cos: Tensor, sin: Tensor, buffer: Tensor, tokens: int) -> Tensor:
        """Return a row's attention to the `tokens` before it, or to those of them that its window reaches."""
        if self._window is None or tokens < self._window:
            return attend(row, cos, sin, buffer, tokens, self._queries)
        # The native operation reads a cache from its beginning.
        seen = buffer.narrow(3, tokens + 1 - self._window, self._window)
        return attend_in_torch(row, cos, sin, seen, self._window - 1, self._queries)

    def _logits(self, hidden: Tensor) -> Iterator[Tensor]:
        """Yield logits [1, vocabulary] of each row of hidden [n, hidden size]; a float head takes a row at a time."""
        if isinstance(self._head, CompressedLinear):
            yield from torch.split(self._head(hidden), 1)
        else:
            for row in torch.split(hidden, 1):
                yield self._head(row)

    def _layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        head_norm = None
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm.weight, attention.k_norm.weight
            weight = torch.cat([query.expand(self._queries, -1), key.expand(self._normed - self._queries, -1)])
            head_norm = _rms_norm(weight, attention.q_norm.variance_epsilon)
        return _Layer(
            attention_norm=_norm(layer.input_layernorm),
            query_key_value=_together(attention, "query_key_value", ["q_proj", "k_proj", "v_proj"]),
            head_norm=head_norm,
            output=attention.o_proj.forward,
            mlp_norm=_norm(layer.post_attention_layernorm),
            gate_up=_together(mlp, "gate_up_proj", ["gate_proj", "up_proj"]),
            down=mlp.down_proj.forward,
        )


def _head_size(model: Any) -> int:
    size: int = model.model.layers[0].self_attn.head_dim
    return size


def _norm(module: Any) -> Function:
    if isinstance(module, BiasedNorm):
        norm, bias = _norm(module.norm), module.bias
        return lambda x: norm(x).add_(bias)
    return _rms_norm(module.weight, module.variance_epsilon)


def _rms_norm(weight: Tensor, epsilon: float) -> Function:
    """Return the norm x / sqrt(mean(x^2) + epsilon) * weight, with the mean over the last dimension."""
    # As tensors: a number costs a microsecond each time that torch makes a tensor of it.
    size, offset = torch.tensor(float(weight.shape[-1])), torch.tensor(epsilon)

    def norm(x: Tensor) -> Tensor:
        squares = (x * x).sum(-1, keepdim=True)
        return (x * torch.addcdiv(offset, squares, size).rsqrt_()).mul_(weight)

    return norm


def _together(block: nn.Module, fused: str, names: list[str]) -> Function:
    """Return the fused linear where the block has one, else its linears one by one."""
    if hasattr(block, fused):
        function: Function = block.get_submodule(fused).forward
        return function
    linears = [block.get_submodule(name) for name in names]
    return lambda x: torch.cat([linear(x) for linear in linears], dim=-1)
