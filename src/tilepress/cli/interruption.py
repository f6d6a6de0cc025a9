"""What a command that can be continued says when it is interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tilepress.cli.console import print_note


@contextmanager
def noting_progress(out: Path) -> Iterator[None]:
    """Around making `out`: on Ctrl-C, or SIGTERM, a note that what is finished is kept."""
    from tilepress.compress import kept_progress

    try:
        yield
    except KeyboardInterrupt:
        kept = kept_progress(out)
        if kept is not None:
            print_note(kept)
        raise
