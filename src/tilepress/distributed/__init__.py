"""One job in several processes, as torchrun starts them: how they meet, watch each other and end together."""

from __future__ import annotations

from tilepress.distributed.process_group import BACKENDS, Group, group, launched_by_torchrun

__all__ = ["BACKENDS", "Group", "group", "launched_by_torchrun"]
