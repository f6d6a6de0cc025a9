"""Choice of the device of a command."""

from __future__ import annotations

import torch

from tilepress.errors import UsageError

_REMEDIES = {
    "cuda": "install a CUDA build of torch and the NVIDIA driver",
    "npu": "install torch_npu and the CANN toolkit",
}


def resolve_device(name: str) -> torch.device:
    """Return the torch device that `cpu`, `cuda[:i]` or `npu[:i]` names.

    Raises UsageError for another name, and where torch has no such device, with what to install.
    """
    kind, _, number = name.partition(":")
    several = number.split(",")
    if kind in _REMEDIES and len(several) > 1 and all(one.isdecimal() for one in several):
        raise UsageError(
            f"--device {name}: a process has one device; for {len(several)} of them start as many processes, such as "
            f"torchrun --nproc_per_node {len(several)} -m tilepress.quantize --device {kind} ..."
        )
    if (kind != "cpu" and kind not in _REMEDIES) or (":" in name and not number.isdecimal()):
        raise UsageError(f"--device {name}: unknown device; use cpu, cuda, cuda:0, npu or npu:0")
    if kind == "cpu":
        return torch.device("cpu")
    backend = getattr(torch, kind, None)
    if backend is None or not backend.is_available():
        raise UsageError(f"--device {name}: this torch has no {kind} device; {_REMEDIES[kind]}, or use --device cpu")
    if number and int(number) >= backend.device_count():
        raise UsageError(f"--device {name}: there are only {backend.device_count()} {kind} devices")
    return torch.device(name)
