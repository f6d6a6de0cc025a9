"""Giving back the memory of mapped files: pages that were read count as the process's own until they are released."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_MAPS = Path("/proc/self/maps")


def release_pages(files: Iterable[Path]) -> None:
    """Take the pages of `files` out of this process's resident memory; they are read again where they are touched.

    Tensors and arrays that are mapped from the files stay valid, but what was written to them is lost. Where the system
    does not tell what is mapped (it is not Linux) nothing happens.
    """
    names = {os.fsencode(file.resolve()) for file in files}
    for begin, length in _mappings(names):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def _mappings(names: set[bytes]) -> Iterator[tuple[int, int]]:
    """Yield address and length of each mapping of files of these names (proc_pid_maps(5))."""
    if not _MAPS.exists():
        return
    for line in _MAPS.read_bytes().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in names:
            begin, end = (int(address, 16) for address in fields[0].split(b"-"))
            yield begin, end - begin
