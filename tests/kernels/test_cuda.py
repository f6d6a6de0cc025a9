"""The operators' way to CUDA devices, as far as it can be gone without one."""

from __future__ import annotations

import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tilepress.errors import UsageError
from tilepress.kernels import check_device
from tilepress.kernels.cuda import _kernels


@pytest.mark.parametrize("name", ["linear", "embed"])
def test_every_operator_has_a_cuda_implementation(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"tilepress::{name}", "CUDA")


def test_compiled_models_know_shape_and_device_of_the_result() -> None:
    with FakeTensorMode():

        def there(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device="cuda")

        x = there(3, 70, dtype=torch.bfloat16)
        tiles = (there(640, dtype=torch.int8), there(8, dtype=torch.int8), there(5, dtype=torch.int64))
        scales = (there(1, dtype=torch.float32), there(1), there(40, dtype=torch.float32), there(40), there(0))
        y = torch.ops.tilepress.linear(x, *tiles, *scales)
    assert (y.shape, y.dtype, y.device.type) == ((3, 40), torch.bfloat16, "cuda")


def test_without_triton_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("tilepress.kernels.triton")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(UsageError, match="pip install triton, or use --device cpu"):
        _kernels("linear")


def test_devices_that_are_too_old_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr("tilepress.kernels.cuda._kernels", lambda name: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(UsageError, match=r"Tesla T4 has compute capability 7\.5, and .* need 8\.0"):
        check_device(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    check_device(torch.device("cuda"))
