"""What the command line does, as functions: `tilepress.quantize`, `compress`, `evaluate` and `inspect`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilepress.checkpoint import FloatCheckpoint, open_checkpoint
from tilepress.checkpoint.summary import Summary, summarize
from tilepress.compress import compress_directory
from tilepress.engines.transformers import load
from tilepress.errors import UsageError
from tilepress.evaluate import Divergence, Perplexity, divergence, held_out_english, perplexity
from tilepress.quantize import QuantizationReport, choose_recipe, for_engine, quantize_checkpoint

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Compression:
    """A W8A8SC directory that was made. parts: one for each tensor-parallel rank. nbytes: of their weight files."""

    path: Path
    parts: int
    nbytes: int

    def as_dict(self) -> dict[str, Any]:
        return {"path": str(self.path), "parts": self.parts, "nbytes": self.nbytes}

    def __str__(self) -> str:
        return f"{self.path}: {self.parts} part{'s' * (self.parts > 1)}, {self.nbytes / 1e6:.1f} MB"


@dataclass(frozen=True)
class Evaluation:
    """texts: what was measured on each text, by its name."""

    texts: dict[str, Perplexity] | dict[str, Divergence]

    def as_dict(self) -> dict[str, Any]:
        return {name: found.as_dict() for name, found in self.texts.items()}

    def __str__(self) -> str:
        return "\n".join(f"{name}: {_figures(found)}" for name, found in self.texts.items())


def _figures(found: Perplexity | Divergence) -> str:
    if isinstance(found, Perplexity):
        return f"perplexity {found.perplexity:.3f}"
    return f"KL {found.kl:.4f} nats, perplexity {found.perplexity:.3f} beside {found.reference_perplexity:.3f}"


def quantize(
    model: str | Path,
    out: str | Path,
    *,
    engine: str | None = None,
    calibration: str | Path | None = None,
    device: str = "cpu",
    max_memory: int | None = None,
    restart: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> QuantizationReport:
    """Quantize a float directory, or a hub id, into the W8A8S directory `out`, as `tilepress quant` does.

    engine: whose form it has, as `--for`. calibration: a .jsonl, .json or .txt file. max_memory: bytes. progress:
    called with the visits to layers done and of all. settings: fields of `tilepress.quantize.Recipe`, such as bits=3.5,
    head=True; what is not given comes from the shipped recipe that fits the model. A call that was cut short continues
    where it stopped.

    Raises UsageError for settings that cannot be, CheckpointError and QuantizationError.
    """
    source = open_checkpoint(model)
    if not isinstance(source, FloatCheckpoint):
        raise UsageError(f"{source.path}: {source.kind} weights are quantized already; give the float model")
    if isinstance(settings.get("float_linears"), list):
        settings["float_linears"] = tuple(settings["float_linears"])
    try:
        recipe = choose_recipe(source.config).recipe(for_engine(engine, settings))
    except TypeError as error:  # a field that Recipe does not have
        raise UsageError(f"{error}; the settings are the fields of tilepress.quantize.Recipe") from None
    return quantize_checkpoint(
        source,
        Path(out).expanduser(),
        recipe,
        device=device,
        calibration=None if calibration is None else Path(calibration).expanduser(),
        max_memory=max_memory,
        restart=restart,
        progress=None if progress is None else lambda made: progress(made.done, made.total),
    )


def compress(
    source: str | Path,
    out: str | Path,
    *,
    tp: int = 1,
    coding: str | None = None,
    threads: int | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> Compression:
    """Compress a W8A8S directory into the W8A8SC directory `out` of `tp` parts, as `tilepress compress` does.

    coding: "tiles" or "entropy"; None: what the directory was quantized for. threads: all cores if None. progress:
    called with the linears done and of all. Raises CheckpointError and UsageError.
    """
    made = Path(out).expanduser()
    compress_directory(source, made, tp=tp, coding=coding, threads=threads, restart=restart, progress=progress)
    parts = sorted(made.glob("part*-of-*/*.safetensors"))
    return Compression(made, tp, sum(part.stat().st_size for part in parts))


def evaluate(
    model: str | Path,
    *,
    against: str | Path | None = None,
    texts: Mapping[str, str] | None = None,
    tokens: int = 32768,
    window: int = 512,
    device: str = "cpu",
    dtype: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a float, W8A8S or W8A8SC directory on texts, as `tilepress eval` does.

    against: the float model, from which the KL divergence is measured. texts: by name; prose of Python's documentation
    if None. tokens: at most so many of each. progress: called with the windows of a text done and of all. Raises
    UsageError and CheckpointError.
    """
    loaded, tokenizer = load(model, device=device, dtype=dtype)
    reference = None if against is None else load(against, device=device, dtype=dtype)[0]
    named = texts or {"Python's language reference": held_out_english()}
    window = min(window, tokens)
    options: dict[str, Any] = {"window": window, "max_windows": tokens // window, "progress": progress}
    if reference is None:
        return Evaluation({name: perplexity(loaded, tokenizer, text, **options) for name, text in named.items()})
    return Evaluation({name: divergence(loaded, reference, tokenizer, text, **options) for name, text in named.items()})


def inspect(directory: str | Path, *, progress: Progress | None = None) -> Summary:
    """Say what a directory holds, as `tilepress inspect` does. Raises CheckpointError and BitstreamError."""
    return summarize(open_checkpoint(directory), progress=progress)
