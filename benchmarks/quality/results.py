"""What the rows of the quality benchmark found, shown and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Result:
    """kl in nats; ratio: of the perplexities; same_top: share of equal first choices.

    bits: stored, a weight of the decoder's linears. size: bytes of the whole model's files. overflowing: share of the
    rows at the inputs of linears that have scales of their own. None: not measured.
    """

    kl: float
    ratio: float | None
    same_top: float | None
    tokens: int
    bits: float | None = None
    size: int | None = None
    overflowing: float | None = None


def read(kept: Path) -> dict[str, Result]:
    """By row; none where there is no such file yet."""
    if not kept.exists():
        return {}
    return {row: Result(**found) for row, found in json.loads(kept.read_text()).items()}


def add(kept: Path, row: str, result: Result) -> None:
    """To those that the file holds by now: other rows may be measured at the same time."""
    results = read(kept) | {row: result}
    kept.write_text(json.dumps({name: asdict(found) for name, found in results.items()}, indent=1))


def show(results: Mapping[str, Result]) -> None:
    table = Table("row", "bits", "MB", "KL", "ppl ratio", "same top", "overflowing", "tokens")
    for row, r in results.items():
        table.add_row(
            row,
            "" if r.bits is None else f"{r.bits:.2f}",
            "" if r.size is None else f"{r.size / 1e6:.1f}",
            f"{r.kl:.4f}",
            "" if r.ratio is None else f"{r.ratio:.3f}",
            "" if r.same_top is None else f"{r.same_top:.1%}",
            "" if r.overflowing is None else f"{r.overflowing:.1%}",
            f"{r.tokens:,}",
        )
    Console().print(table)
