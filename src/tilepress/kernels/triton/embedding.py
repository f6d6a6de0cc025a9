"""`torch.ops.tilepress.embed` for CUDA tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from tilepress.kernels.op import require
from tilepress.kernels.triton.fast_form import whole_rows
from tilepress.kernels.triton.fast_form.form import check_fast_matrix
from tilepress.kernels.triton.machine import current
from tilepress.kernels.triton.matrix import check_matrix
from tilepress.kernels.triton.rows import look_up


def embed(ids: Tensor, weight: Tensor, index: Tensor, info: Tensor, weight_scale: Tensor, hidden: int) -> Tensor:
    """Look ids up as `tilepress.kernels.embed`, but invalid ids and damaged bytes give rows of not-a-number.

    Raises ValueError for tensors of another dtype, shape or layout.
    """
    if ids.dtype is not torch.int64:
        raise ValueError(f"ids is {ids.dtype} {list(ids.shape)}; torch.int64 is needed")
    require("weight_scale", weight_scale, torch.float32, weight_scale.numel())
    shape = (weight_scale.numel(), hidden)
    if ids.numel() == 0:
        return torch.empty((*ids.shape, hidden), dtype=torch.float32, device=ids.device)
    with current(ids.device):
        wanted = ids.contiguous().view(-1)
        if index.dtype is torch.int32:
            rows = whole_rows.look_up(wanted, check_fast_matrix(weight, index, info, *shape), weight_scale)
        else:
            rows = look_up(wanted, check_matrix(weight, index, info, *shape), weight_scale)
    return rows.view(*ids.shape, hidden)
