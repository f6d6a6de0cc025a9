"""One quantized linear and the five tensors it is stored as."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tilepress.checkpoint.description import W8A8_DYNAMIC, W8A8S
from tilepress.errors import CheckpointError

PARAMETERS = ("weight", "input_scale", "input_offset", "deq_scale", "quant_bias")
_SCALE_TYPES = (torch.float16, torch.bfloat16, torch.float32)


# The input_scale of a W8A8_DYNAMIC linear: small, so that quant_bias holds a float bias to many digits.
UNIT_SCALE = 2.0**-12


class Scaled(Protocol):
    """The scales and biases of a quantized or a compressed linear."""

    @property
    def input_scale(self) -> float: ...
    @property
    def input_offset(self) -> int: ...
    @property
    def deq_scale(self) -> Tensor: ...
    @property
    def quant_bias(self) -> Tensor: ...


@dataclass(frozen=True)
class QuantizedLinear:
    """A linear [n, k] as integers: y = (x_q @ weight.T + quant_bias) * deq_scale.

    weight int8 [n, k]; quant_bias int32 [n]; deq_scale float32 [n], the product of input_scale and the channel's
    weight scale. x_q = clamp(round(x / input_scale) + input_offset, -128, 127); input_scale is the value that its
    stored dtype holds (`round_input_scale`). kind: its type in the description. In W8A8_DYNAMIC every token has the
    scale greatest(|x|) / 127, and input_scale is only the unit of deq_scale.
    """

    weight: Tensor
    input_scale: float
    input_offset: int
    deq_scale: Tensor
    quant_bias: Tensor
    kind: str = W8A8S

    def weight_scale(self) -> Tensor:
        """float32 [n]: W is about weight_scale[:, None] * weight."""
        return self.deq_scale / self.input_scale


def dynamic_linear(prefix: str, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> QuantizedLinear:
    """Return a linear of the vendor's W8A8_DYNAMIC: y = (x_q @ weight.T) * weight_scale * scale of the token + bias.

    weight int8 [n, k], weight_scale float [n] or [n, 1], bias float [n]. Raises CheckpointError for a scale that is not
    positive and finite, and a bias that is not finite or more than 2^19 times its scale.
    """
    deq_scale = weight_scale.flatten().float() * UNIT_SCALE
    if bool((~deq_scale.isfinite() | (deq_scale <= 0)).any()):
        raise CheckpointError(f"{prefix}.weight_scale has a value that is not positive and finite; get the file again")
    steps = torch.zeros_like(deq_scale) if bias is None else (bias.float() / deq_scale).round()
    if not bool((steps.abs() < 2.0**31).all()):  # not-a-number is not less, either
        raise CheckpointError(f"{prefix}.bias has a value that is not finite, or far larger than {prefix}.weight_scale")
    return QuantizedLinear(weight, UNIT_SCALE, 0, deq_scale, steps.to(torch.int32), W8A8_DYNAMIC)


def round_input_scale(scale: float, dtype: str, name: str) -> float:
    """Return `scale` as dtype ("float16" or "bfloat16") holds it: deq_scale has to be computed with this value.

    Raises CheckpointError, naming the tensor, where the rounded value is zero, subnormal, infinite, negative or NaN.
    """
    stored: torch.dtype = getattr(torch, dtype)
    rounded = float(torch.tensor(scale, dtype=torch.float64).to(stored))
    _check_input_scale(rounded, stored, name, scale)
    return rounded


def pack(prefix: str, linear: QuantizedLinear, dtype: str, *, wide_scale: bool = False) -> dict[str, Tensor]:
    """The five stored tensors of `linear` in the flavour of `dtype`, by full name; see `pack_scales`.

    Raises CheckpointError for a linear of the vendor's W8A8_DYNAMIC.
    """
    if linear.kind == W8A8_DYNAMIC:
        raise CheckpointError(
            f"{prefix} is {W8A8_DYNAMIC}, which has no static range to write; take the directory as it is, or quantize "
            "the float model"
        )
    packed = {f"{prefix}.weight": linear.weight} | pack_scales(prefix, linear, dtype, wide_scale=wide_scale)
    unpack(prefix, {name.rpartition(".")[2]: tensor for name, tensor in packed.items()})
    return packed


def pack_scales(prefix: str, linear: Scaled, dtype: str, *, wide_scale: bool = False) -> dict[str, Tensor]:
    """The stored tensors of a quantized or compressed linear but for its weight, by full name.

    wide_scale: keep an input_scale that dtype does not hold exactly as float32, as other tools store it, instead of
    refusing it. Raises CheckpointError naming the tensor.
    """
    stored: torch.dtype = getattr(torch, dtype)
    name = f"{prefix}.input_scale"
    scale = torch.tensor([linear.input_scale], dtype=torch.float64).to(stored)
    if wide_scale and (float(scale) != linear.input_scale or not _is_normal(float(scale), stored)):
        scale = torch.tensor([linear.input_scale], dtype=torch.float32)
    _check_input_scale(float(scale), scale.dtype, name, linear.input_scale)
    if float(scale) != linear.input_scale:
        raise CheckpointError(
            f"{name} is {linear.input_scale!r}, which {dtype} does not hold exactly; "
            "round it with round_input_scale before computing deq_scale"
        )
    if not -128 <= linear.input_offset <= 127:
        raise CheckpointError(f"{prefix}.input_offset is {linear.input_offset}; it has to be from -128 to 127")
    deq_scale = linear.deq_scale.contiguous()
    if stored == torch.float16:
        deq_scale = deq_scale.view(torch.int32).to(torch.int64)
    return {
        name: scale,
        f"{prefix}.input_offset": torch.tensor([linear.input_offset], dtype=torch.int8),
        f"{prefix}.deq_scale": deq_scale,
        f"{prefix}.quant_bias": linear.quant_bias,
    }


def unpack(prefix: str, stored: Mapping[str, Tensor]) -> QuantizedLinear:
    """Return the linear that is `stored` as five tensors, by the names in PARAMETERS.

    Both flavours are read, and input_scale and input_offset also as float32, as some tools write them. Raises
    CheckpointError naming tensor and value; the caller adds the file.
    """
    weight = stored["weight"]
    if weight.dtype != torch.int8 or weight.dim() != 2:
        raise _unexpected(prefix, "weight", weight, "int8 [n, k]")
    for name in ("deq_scale", "quant_bias"):
        if stored[name].shape != weight.shape[:1]:
            raise _unexpected(prefix, name, stored[name], f"[{weight.shape[0]}]")
    if stored["quant_bias"].dtype != torch.int32:
        raise _unexpected(prefix, "quant_bias", stored["quant_bias"], "int32")
    return QuantizedLinear(
        weight=weight,
        input_scale=unpack_input_scale(prefix, stored["input_scale"]),
        input_offset=unpack_input_offset(prefix, stored["input_offset"]),
        deq_scale=unpack_deq_scale(prefix, stored["deq_scale"]),
        quant_bias=stored["quant_bias"],
    )


def unpack_input_scale(prefix: str, tensor: Tensor) -> float:
    if tensor.shape != (1,) or tensor.dtype not in _SCALE_TYPES:
        raise _unexpected(prefix, "input_scale", tensor, "float16, bfloat16 or float32 [1]")
    _check_input_scale(float(tensor), tensor.dtype, f"{prefix}.input_scale", float(tensor))
    return float(tensor)


def unpack_input_offset(prefix: str, tensor: Tensor) -> int:
    if tensor.shape != (1,) or tensor.dtype not in (torch.int8, *_SCALE_TYPES):
        raise _unexpected(prefix, "input_offset", tensor, "int8 or float32 [1]")
    value = float(tensor)
    if not (value.is_integer() and -128 <= value <= 127):
        raise CheckpointError(
            f"{prefix}.input_offset is {value}; it has to be an integer from -128 to 127, quantize the model again"
        )
    return int(value)


def unpack_deq_scale(prefix: str, tensor: Tensor) -> Tensor:
    """Return float32 [n] from int64 (the float32's 32 bits, widened) or from float32 itself."""
    if tensor.dtype == torch.int64:
        if bool(((tensor < 0) | (tensor > 0x7FFFFFFF)).any()):
            raise CheckpointError(
                f"{prefix}.deq_scale holds a value outside 0 ... 2^31 - 1, not the bits of a positive float32; "
                "quantize the model again"
            )
        tensor = tensor.to(torch.int32).view(torch.float32)
    if tensor.dtype != torch.float32:
        raise _unexpected(prefix, "deq_scale", tensor, "int64 or float32 [n]")
    bad = ~torch.isfinite(tensor) | (tensor < 0)
    if bool(bad.any()):
        channel = int(bad.nonzero()[0])
        raise CheckpointError(
            f"{prefix}.deq_scale of channel {channel} is {float(tensor[channel])}; it has to be finite and not "
            "negative, quantize the model again"
        )
    return tensor


def _is_normal(value: float, dtype: torch.dtype) -> bool:
    return math.isfinite(value) and value >= torch.finfo(dtype).tiny


def _check_input_scale(value: float, dtype: torch.dtype, name: str, original: float) -> None:
    if not _is_normal(value, dtype):
        kind = str(dtype).removeprefix("torch.")
        remedy = "; quantize with --dtype bfloat16" if dtype == torch.float16 else "; check the calibration data"
        raise CheckpointError(
            f"{name} is {original!r}, outside {kind}'s normal range "
            f"{torch.finfo(dtype).tiny:.3g} ... {torch.finfo(dtype).max:.3g}{remedy}"
        )


def _unexpected(prefix: str, name: str, tensor: Tensor, wanted: str) -> CheckpointError:
    kind = str(tensor.dtype).removeprefix("torch.")
    return CheckpointError(f"{prefix}.{name} is {kind} {list(tensor.shape)}; it has to be {wanted}")
