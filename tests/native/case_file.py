"""Cases on disk, as check_cases.cpp reads them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kernels.linears import Linear
from tilepress.codec import Compressed, encode_entropy, reference

_FLOAT_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def write_cases(path: Path, cases: Iterable[tuple[Linear, list[Tensor]]]) -> None:
    """Each tensor's bytes behind their number; what must come out is the reference's, the decoded matrix included."""
    with path.open("wb") as file:

        def write(tensor: Tensor) -> None:
            content = tensor.contiguous().view(torch.uint8).numpy().tobytes()
            file.write(len(content).to_bytes(8, "little") + content)

        for linear, inputs in cases:
            compressed = Compressed(linear.weight.numpy(), linear.index.numpy(), linear.info.numpy())
            assert np.array_equal(reference.decode(compressed), linear.matrix)
            for tensor in (linear.info, linear.weight, linear.index, linear.matrix):
                write(tensor)
            coded = encode_entropy(linear.matrix.numpy())
            for array in (coded.weight, coded.index, coded.info):
                write(torch.from_numpy(array))
            for tensor in (linear.deq_scale, linear.quant_bias, linear.weight_sums):
                write(tensor)
            for tensor in (linear.input_scale, linear.input_offset):
                write(tensor)
            write(torch.tensor([len(inputs)], dtype=torch.int32))
            for x in inputs:
                write(torch.tensor([_FLOAT_TYPES[x.dtype]], dtype=torch.int32))
                write(x)
                write(linear.expected(x))
                write(linear.expected_with_own_scales(x))
