"""Running a command, and how much memory it took."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence


def run_measured(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[str, int]:
    """What the command prints, and the most bytes it had resident. Raises CalledProcessError.

    The kernel counts the parent's memory at the start as the child's: call it from a small process.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    ) as child:
        assert child.stdout is not None
        output = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, list(command), output)
    return output, 1024 * usage.ru_maxrss
