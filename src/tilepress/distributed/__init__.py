"""One job in several processes, as torchrun starts them: how they meet, watch each other and end together."""

from __future__ import annotations

from tilepress.distributed.process_group import BACKENDS, ProcessGroup, launched_by_torchrun, process_group

__all__ = ["BACKENDS", "ProcessGroup", "launched_by_torchrun", "process_group"]
