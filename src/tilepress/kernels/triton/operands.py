"""The operands of a product beside the activations, checked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilepress.kernels.op import require
from tilepress.kernels.triton.activations import Quantized
from tilepress.kernels.triton.matrix import DeviceMatrix


@dataclass(frozen=True)
class Operands:
    """The compressed matrix, and the rest as `tilepress.kernels.linear` takes it; weight_sums is [0] to clamp."""

    matrix: DeviceMatrix
    input_scale: Tensor
    input_offset: Tensor
    deq_scale: Tensor
    quant_bias: Tensor
    weight_sums: Tensor

    def __post_init__(self) -> None:
        """Raises ValueError for tensors of another dtype, length or layout."""
        n = self.matrix.n
        require("input_scale", self.input_scale, torch.float32, 1)
        require("input_offset", self.input_offset, torch.int32, 1)
        require("deq_scale", self.deq_scale, torch.float32, n)
        require("quant_bias", self.quant_bias, torch.int32, n)
        if self.dynamic:
            require("weight_sums", self.weight_sums, torch.int32, n)

    @property
    def dynamic(self) -> bool:
        """True where tokens that overflow get a dynamic scale."""
        return self.weight_sums.numel() > 0

    def scaling(self, quantized: Quantized) -> tuple[Tensor, ...]:
        """What kernels scale sums by: ratio, offset, input_offset, deq_scale, quant_bias, weight_sums."""
        scales = (self.input_offset, self.deq_scale, self.quant_bias, self.weight_sums)
        return quantized.ratio, quantized.offset, *scales
