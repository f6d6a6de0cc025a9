"""What a command that can be continued says when it is interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tilepress.cli.console import print_note


@contextmanager
def noting_progress(kept: Callable[[], str | None]) -> Iterator[None]:
    """On Ctrl-C, or SIGTERM, a note of what is kept, if there is anything; errors say it themselves."""
    try:
        yield
    except KeyboardInterrupt:
        if (sentence := kept()) is not None:
            print_note(sentence)
        raise
