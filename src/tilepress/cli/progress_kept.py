"""Telling that an interrupted quantization can be gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tilepress.cli.console import print_note
from tilepress.errors import TilepressError, UsageError


@contextmanager
def going_on(out: Path) -> Iterator[None]:
    """Says, when the block raises, what is kept of the work on `out`; not where the options are what is wrong."""
    from tilepress.quantize.work_directory import work_directory

    try:
        yield
    except UsageError:
        raise
    except (TilepressError, KeyboardInterrupt):
        if (kept := work_directory(out)).exists():
            print_note(f"what is done is kept in {kept}; the same command goes on from there, --restart begins anew")
        raise
