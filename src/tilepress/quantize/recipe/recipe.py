"""The settings of a quantization that the user may choose."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tilepress.checkpoint.targets import TILEPRESS, target_named
from tilepress.checkpoint.tensors.activation_mode import DYNAMIC, MODES, PER_TOKEN, STATIC
from tilepress.codec import CODINGS, ENTROPY
from tilepress.errors import UsageError
from tilepress.models.architecture import ModelShape, linear_shapes
from tilepress.models.layer_inputs import FEED_OF

DTYPES = ("float16", "bfloat16")
DEFAULT_BITS = 4.0
# The possible targets of a quantization, of which a recipe has one at most.
TARGETS = ("bits", "size", "loss")
# Settings of a directory for another engine than tilepress, which has no integer tables.
FLOAT_TABLES = {"head": False, "embeddings": False}
# What of a linear's input range, in nats, a directory for another engine pays at most.
FLOAT_ABOVE = 0.01
# Work of calibration, refinement and training, of that of "default".
EFFORTS = {"low": 0.25, "default": 1.0, "high": 4.0}
# Sweeps of the refinement by default. SmolLM2 at 3.5 bits: 6, 24, 96 and 300 take 6, 9, 11 and 13 % off the predicted
# loss of the linears of an MLP, and half as much off that of attention's; 24 of them take a fifth of its time. A sweep
# over wide matrices takes as long as their rounding, so that these get fewer: of Qwen3-8B 12, and down_proj 4.
SWEEPS = 24
WIDE = 2048


@dataclass(frozen=True)
class Recipe:
    """Settings of one quantization. Raises UsageError for a value out of range.

    One target at most; DEFAULT_BITS without any. bits: compressed bits per weight, over everything that is quantized.
    size: bytes of the W8A8SC weight file in one part. loss: the predicted increase of the loss by rounding weights, in
    nats per token.
    head: quantize the output head too. embeddings: quantize the embedding table too, which in a tied model is the
    head's. Both share the target.
    float_linears: patterns, as of shells, of linears of the layers that stay float: their names or the ends of these,
    such as "down_proj" or "model.layers.0.*". Linears that read one input share a matrix and stay float together.
    float_above: linears of the layers stay float where the static range of their input is predicted to cost more nats
    a token than this; 0: none does.
    activations: "dynamic": each token gets a scale of its own in every linear. Else there are static ranges, fitted to
    what happens to tokens that overflow them. "overflow": they get dynamic scales. "static": they are clipped.
    "per-token": like "static", but in down_proj all tokens get dynamic scales.
    dtype: stored type of norms, embeddings and input scales, "float16" or "bfloat16".
    samples, sequence_length: calibration sequences and their length in tokens (capped by the model's context). None:
    128 and 2048, or what model and machine allow (`calibration_size`).
    self_calibration: calibrate on text that the float model writes itself, in memory as a whole.
    seed: for the order of the calibration text or what the model writes, the sampled rows and the sampled labels.
    distill_steps: steps of distillation after the rounding, of one calibration sequence each; 0 for none. None: 45, or
    fewer or none where model and machine would make it long (`distillation_steps`).
    block_steps: steps in which each layer's integers are trained on the layer's output, before distillation; 0 for
    none. None: 128, or fewer or none where these would make it long (`block_steps`), and none where distill_steps is 0.
    effort: "low", "default" or "high": a quarter of the work on statistics and refinement and no training, or four
    times the work.
    damping: share of the mean diagonal added to each Hessian's diagonal (GPTQ's "percdamp").
    coding: of the compressed files that bits and size count, "entropy" or "tiles"; `compress` follows it.
    engine: whose form the directory has, a name of `checkpoint.targets`. Another than tilepress's own has a float head
    and embedding and static activations.
    """

    bits: float | None = None
    size: int | None = None
    loss: float | None = None
    head: bool = False
    embeddings: bool = False
    float_linears: tuple[str, ...] = ()
    float_above: float = 0.0
    activations: str = DYNAMIC
    dtype: str = "float16"
    samples: int | None = None
    sequence_length: int | None = None
    self_calibration: bool = False
    seed: int = 0
    distill_steps: int | None = None
    block_steps: int | None = None
    effort: str = "default"
    damping: float = 0.1
    coding: str = ENTROPY
    engine: str = TILEPRESS.name

    @property
    def work(self) -> float:
        """Work of calibration, refinement and training, of that of the default effort."""
        return EFFORTS[self.effort]

    def sweeps(self, columns: int) -> int:
        """Sweeps of the refinement over the integers of a linear with so many input channels."""
        return round(self.work * SWEEPS * min(1.0, WIDE / columns))

    def has_own_embedding(self, shape: ModelShape) -> bool:
        """Return whether the embedding gets integers of its own; in a tied model it shares the head's."""
        return self.embeddings and not shape.tied

    def keeps_float(self, prefix: str) -> bool:
        """Return whether `float_linears` names a linear of the layers, such as "model.layers.0.mlp.down_proj"."""
        if not self.float_linears:
            return False
        *layer, consumer = prefix.split(".", 3)
        members = [".".join((*layer, member)) for member in FEED_OF[consumer].consumers]
        return any(_matches(pattern, member) for pattern in self.float_linears for member in members)

    def check_linears(self, shape: ModelShape) -> None:
        """Raises UsageError for a pattern of `float_linears` without a linear, and where none is left to quantize."""
        names = list(linear_shapes(shape))
        for pattern in self.float_linears:
            if not any(_matches(pattern, name) for name in names):
                raise UsageError(
                    f"float_linears has {pattern!r}, which names no linear of this model; they are called "
                    f"{names[0]} to {names[-1]}, and a pattern may be the end of a name, such as 'down_proj'"
                )
        if all(self.keeps_float(name) for name in names):
            raise UsageError(f"float_linears is {', '.join(self.float_linears)}: nothing is left to quantize")

    def __post_init__(self) -> None:
        given = [name for name in TARGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} are given; choose one target")
        if self.bits is not None and not 1.0 <= self.bits <= 7.5:
            raise UsageError(f"bits is {self.bits}; choose a number from 1 to 7.5 (bits a weight)")
        if self.size is not None and self.size < 1:
            raise UsageError(f"size is {self.size}; choose a number of bytes above 0")
        if self.loss is not None and not 0.0 < self.loss < float("inf"):
            raise UsageError(f"loss is {self.loss}; choose a number of nats above 0, such as 0.05")
        if self.activations not in MODES:
            raise UsageError(f"activations is {self.activations!r}; choose one of {', '.join(MODES)}")
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype is {self.dtype!r}; choose one of {', '.join(DTYPES)}")
        if self.coding not in CODINGS:
            raise UsageError(f"coding is {self.coding!r}; choose one of {', '.join(CODINGS)}")
        self._check_engine()
        if not 0.0 <= self.float_above < float("inf"):
            raise UsageError(f"float_above is {self.float_above}; choose a number of nats such as 0.01, or 0 for none")
        if self.float_above and self.activations not in (STATIC, PER_TOKEN):
            raise UsageError(
                f"float_above is {self.float_above} with activations {self.activations!r}, of which no static range "
                f"clips tokens; leave it out, or choose {STATIC!r} or {PER_TOKEN!r}"
            )
        if self.samples is not None and self.samples < 1:
            raise UsageError(f"samples is {self.samples}; at least 1 calibration sequence is needed")
        if self.sequence_length is not None and self.sequence_length < 8:
            raise UsageError(f"sequence_length is {self.sequence_length}; choose at least 8 tokens")
        if self.distill_steps is not None and self.distill_steps < 0:
            raise UsageError(f"distill_steps is {self.distill_steps}; choose 0 for no distillation, or more")
        if self.block_steps is not None and self.block_steps < 0:
            raise UsageError(f"block_steps is {self.block_steps}; choose 0 to leave integers as they are, or more")
        if self.effort not in EFFORTS:
            raise UsageError(f"effort is {self.effort!r}; choose one of {', '.join(EFFORTS)}")
        if not 0.0 < self.damping <= 1.0:
            raise UsageError(f"damping is {self.damping}; choose a share above 0 and up to 1 (0.1 is usual)")

    def _check_engine(self) -> None:
        target = target_named(self.engine)
        if target.activations is None:
            return
        allowed: dict[str, tuple[Any, ...]] = {name: (value,) for name, value in FLOAT_TABLES.items()}
        allowed |= {"activations": target.activations, "dtype": target.dtypes}
        for name, values in allowed.items():
            if (value := getattr(self, name)) not in values:
                raise UsageError(
                    f"{name} is {value!r} with --for {self.engine}: {target.engines} take "
                    f"{' or '.join(map(repr, values))} only"
                )


def _matches(pattern: str, name: str) -> bool:
    return fnmatchcase(f".{name}", f"*.{pattern}")


def engine_needs(engine: str) -> dict[str, Any]:
    """Return the settings that a directory for a target of this name needs. Raises UsageError for another name."""
    target = target_named(engine)
    if target.activations is None:
        return {}
    needs: dict[str, Any] = {**FLOAT_TABLES, "activations": target.activations[0]}
    if STATIC in target.activations[:1]:
        needs["float_above"] = FLOAT_ABOVE
    return needs | ({"dtype": target.dtypes[0]} if len(target.dtypes) == 1 else {})
