"""A quantized model whose scales, gains and biases can be trained while its integers stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tilepress.checkpoint import QuantizedEmbedding, QuantizedLinear
from tilepress.checkpoint.tensors.activation_mode import is_dynamic, row_sums
from tilepress.models.layer_inputs import FINAL_NORM
from tilepress.quantize.layerwise.decoder import LayerwiseDecoder
from tilepress.quantize.quantized_model import CollectedModel
from tilepress.quantize.rounding.head import NAME as HEAD
from tilepress.quantize.rounding.layer import pack
from tilepress.quantize.transforms.activation_ranges import ActivationRange


def range_of_linear(linear: QuantizedLinear, dynamic: bool) -> ActivationRange:
    """Return the range of the linear's input. dynamic: tokens that overflow have dynamic scales."""
    return ActivationRange(linear.input_scale, linear.input_offset, dynamic)


def float_bias(linear: QuantizedLinear) -> Tensor:
    """Return the bias float32 [n] that quant_bias holds beside the offset's share."""
    sums = row_sums(linear.weight).long()
    return ((linear.quant_bias + linear.input_offset * sums) * linear.deq_scale.double()).float()


def fake_quantize(inputs: ActivationRange, x: Tensor) -> Tensor:
    """Return the int8 round trip of x.

    Its gradient is that of a clamp to the range (straight-through, Bengio et al. 2013), or the identity where tokens
    that overflow the range have dynamic scales.
    """
    offset, scale = inputs.offset, inputs.scale
    if inputs.dynamic:
        return x + (inputs.round_trip(x.detach()) - x).detach()
    clamped = x.clamp((-128 - offset) * scale, (127 - offset) * scale)
    return clamped + (inputs.round_trip(x.detach()) - clamped).detach()


class StudentLinear(nn.Module):
    """y = fq(x) @ q.T * deq_scale / input_scale * exp(s) + bias, with trained s [n] and, where there is one, bias.

    fq: `fake_quantize`. The bias is b + rms(b) · shift, so that one learning rate suits scales, gains and biases.
    """

    def __init__(self, linear: QuantizedLinear, dynamic: bool, biased: bool, device: torch.device) -> None:
        super().__init__()
        self._linear = linear
        self._range = range_of_linear(linear, dynamic)
        self._weight = linear.weight.to(device)
        self._scale = linear.weight_scale().to(device)
        self.log_scale = nn.Parameter(torch.zeros_like(self._scale))
        self.shift: nn.Parameter | None = None
        if biased:
            self._bias = float_bias(linear).to(device)
            self.shift = nn.Parameter(torch.zeros_like(self._bias))

    def forward(self, x: Tensor) -> Tensor:
        y = fake_quantize(self._range, x) @ self._weight.float().T * (self._scale * self.log_scale.exp())
        return y if self.shift is None else y + self._moved_bias(self.shift)

    def packed(self, where: str) -> QuantizedLinear:
        """Return the linear with the trained scales and bias. Raises QuantizationError as `pack` does."""
        steps = (self._scale * self.log_scale.exp()).detach().cpu()
        bias = None if self.shift is None else self._moved_bias(self.shift).detach().cpu()
        new = pack(self._linear.weight, steps, self._range, bias, where)
        return replace(self._linear, deq_scale=new.deq_scale, quant_bias=new.quant_bias)

    def _moved_bias(self, shift: Tensor) -> Tensor:
        return self._bias + self._bias.square().mean().sqrt() * shift


class FloatLinear(nn.Module):
    """A linear that stays float, its weight kept as it is stored."""

    def __init__(self, weight: Tensor, bias: Tensor | None, device: torch.device) -> None:
        super().__init__()
        self._weight, self._bias = weight.to(device), None if bias is None else bias.to(device, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self._weight.float(), self._bias)


class StudentNorm(nn.Module):
    """RMSNorm with gain · exp(g), where g is trained: gains, like scales, change by a share of themselves."""

    def __init__(self, gain: Tensor, eps: float) -> None:
        super().__init__()
        self._gain, self._eps = gain, eps
        self.log_gain = nn.Parameter(torch.zeros_like(gain))

    def gain(self) -> Tensor:
        return self._gain * self.log_gain.exp()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, x.shape[-1:], self.gain(), self._eps)


class Student(nn.Module):
    """The model in `collected`, on the decoder's device.

    Memory holds a byte for each quantized weight, a head that is not quantized in float32, and the layers' inputs: a
    layer is run again where its gradients are needed (Chen et al. 2016).
    """

    def __init__(self, decoder: LayerwiseDecoder, collected: CollectedModel) -> None:
        super().__init__()
        self._decoder, self._collected = decoder, collected
        device = decoder.device
        self._linears = {
            prefix: StudentLinear(
                linear, is_dynamic(collected.activations, linear.kind), decoder.has(f"{prefix}.bias"), device
            )
            for prefix, linear in collected.linears.items()
        }
        self._norms = {
            name: StudentNorm(gain.to(device, torch.float32), decoder.eps) for name, gain in collected.gains.items()
        }
        modules: Mapping[str, nn.Module] = {
            **self._linears,
            **{name: FloatLinear(*held, device) for name, held in collected.float_linears().items()},
            **{name.removesuffix(".weight"): norm for name, norm in self._norms.items()},
        }
        self._layers = nn.ModuleList([decoder.empty_layer(index) for index in range(decoder.layers)])
        for name, module in modules.items():
            if name.startswith("model.layers."):
                self._layers.set_submodule(name.removeprefix("model.layers."), module)
        if collected.shared:  # scales that the embedding uses too are not trained
            self._linears[HEAD].log_scale.requires_grad_(False)
        self._norm, self._head = modules[FINAL_NORM.name], modules.get(HEAD)
        if self._head is None:
            self._head_weight = decoder.head_weight(0, decoder.vocabulary)

    def states(self, embedded: Tensor) -> Tensor:
        """Return the head's inputs, float32 [samples, length, hidden], for the output of `embed`, of that shape."""
        hidden = embedded
        for layer, arguments in zip(self._layers, self._decoder.layer_arguments(embedded.shape[1]), strict=True):
            hidden = checkpoint(layer, hidden, use_reentrant=False, **arguments)
        return cast(Tensor, self._norm(hidden))

    def logits(self, states: Tensor) -> Tensor:
        """Return logits [..., vocabulary] for states [..., hidden]."""
        return states @ self._head_weight.T if self._head is None else cast(Tensor, self._head(states))

    def collected(self, dtype: torch.dtype) -> CollectedModel:
        """Return the trained model, gains rounded to `dtype`; integers are shared, not copied."""
        return CollectedModel(
            self._collected.activations,
            self._collected.shared,
            {name: norm.gain().detach().to(dtype).float().cpu() for name, norm in self._norms.items()},
            {prefix: linear.packed(prefix) for prefix, linear in self._linears.items()},
            self._collected.floats,
            self._collected.embedding,
            self._collected.flushed,
        )


def embed(decoder: LayerwiseDecoder, collected: CollectedModel, tokens: Tensor) -> Tensor:
    """Embed token ids int64 [samples, length] on the CPU: float32 [samples, length, hidden] on the decoder's device."""
    table = QuantizedEmbedding.of_head(collected.linears[HEAD]) if collected.shared else collected.embedding
    if table is None:
        return decoder.embed(tokens)
    return (table.weight[tokens] * table.weight_scale[tokens][..., None]).to(decoder.device)
