"""A Llama directory as a Qwen3: norms of q and k are put in, and the model is healed on the Llama's predictions.

    python -m benchmarks.models.as_qwen3 DIR OUT [--steps 100]

A head norm keeps the direction of a query or key and drops its length, so that no Qwen3 computes a Llama's function.
The gains begin where the direction tells the length best, and the rows of q_proj and k_proj take their inverse. Then
each layer's gains, q_proj and k_proj are fitted to the output of the Llama's attention for the Llama's own input. In
the end all weights are trained on KL(Llama || Qwen3), those other than the fitted ones slowly. A step takes one
sequence of the default calibration text; the fit takes two steps for each of healing. The result has the outliers and
the skew of trained weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.models.as_other import llama_without_biases
from benchmarks.models.float_directory import float_directory
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import Qwen3ForCausalLM

import tilepress
from tilepress.models.transformers_config import model_config
from tilepress.quantize.calibration.documents import default_documents
from tilepress.quantize.calibration.sequences import token_sequences
from tilepress.quantize.distillation.train import held_back, learning_rate, training_order

LENGTH = 256
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "use_sliding_window": False}
NORMED = ("q", "k")
# Sequences whose queries and keys the first gains are taken from, rounds that find them, and sequences to report on.
MEASURED, ROUNDS, CHECKED = 8, 300, 12
# A gain is at most this many times the smallest one of its norm.
RANGE = 100.0
# Adam's rates in units of a tensor's root mean square: of the fit, and of healing for what was fitted and for the rest.
# The gradients of single sequences are noisy: healing at five and ten times these rates took SmolLM2-135M from .14 nats
# up to .2 and more.
FIT, HEAL, SLOW = 5e-4, 1e-4, 1e-5


@dataclass(frozen=True)
class Divergence:
    """Mean KL to the Llama in nats, on sequences held back: with gains of 1, the first gains, fitted, and healed."""

    plain: float
    begun: float
    fitted: float
    healed: float


def as_qwen3(llama: Path, out: Path, steps: int, length: int = LENGTH) -> Divergence:
    """Write `out`, a float directory. Raises SystemExit where it exists and where the Llama has biases of its own."""
    if out.exists():
        raise SystemExit(f"{out} is there already")
    config, source = llama_without_biases(llama)
    config |= QWEN3 | {"head_dim": source.shape.head_dim}
    dtype = source.read("model.norm.weight").dtype
    with float_directory(out, config, llama, shards=1) as save:
        teacher, tokenizer = tilepress.load(llama)
        tokens = token_sequences(
            tokenizer,
            default_documents(0, tokenizer),
            samples=steps * 24 // 7 + 2,  # an eighth is held back
            length=length,
            vocabulary=source.shape.vocab,
        )
        student: Any = Qwen3ForCausalLM(model_config(config, llama)).eval()
        student.load_state_dict(teacher.state_dict(), strict=False)
        spared = held_back(len(tokens))
        checked = tokens[:spared][:CHECKED]
        order = training_order(len(tokens), 3 * steps, torch.Generator().manual_seed(0))
        plain = _noted("gains of 1", divergence(teacher, student, checked))
        put_in_gains(teacher, student, tokens[spared:][:MEASURED])
        begun = _noted("first gains", divergence(teacher, student, checked))
        fit(teacher, student, tokens[order[: 2 * steps]])
        fitted = _noted("fitted", divergence(teacher, student, checked))
        heal(teacher, student, tokens[order[2 * steps :]])
        stored = {name: weight.detach().to(dtype) for name, weight in student.named_parameters()}
        student.load_state_dict(stored, strict=False)
        healed = _noted("healed", divergence(teacher, student, checked))
        save(stored)
    return Divergence(plain, begun, fitted, healed)


def first_gains(rows: Tensor) -> Tensor:
    """Return gains [size] with which a norm changes the lengths of queries or keys [rows, size] least.

    With W / gain in place of W the norm turns a row x into x / rms(x / gain). That is x where its direction u, x of
    length 1, has the sum of u² / gain² equal to size / |x|². This is fitted by least squares, with the multiplicative
    updates of Lee and Seung (2001) that keep all terms positive. Short rows weigh most. Keys of the first token are
    such, and attention goes to these where it has no better place.
    """
    squares = rows.square()
    lengths = squares.sum(-1, keepdim=True)
    directions = squares / lengths
    gram, target = directions.T @ directions, (directions / lengths).sum(0)
    weights = torch.full_like(target, float((1 / lengths).mean()))
    for _ in range(ROUNDS):
        weights *= target / (gram @ weights)
    weights = weights.clamp(min=float(weights.max()) / RANGE**2)
    return (rows.shape[-1] * weights).rsqrt()


@torch.no_grad()
def put_in_gains(teacher: Any, student: Any, tokens: Tensor) -> None:
    """Give the student's norms `first_gains` for the teacher's queries and keys of `tokens`, its rows the inverse."""
    size = student.config.head_dim
    names = [f"layers.{layer}.self_attn.{name}" for layer in range(len(student.model.layers)) for name in NORMED]
    with ExitStack() as stack:
        seen = {name: stack.enter_context(_outputs(teacher.model.get_submodule(f"{name}_proj"))) for name in names}
        for sequence in tokens.split(1):
            teacher.model(sequence, use_cache=False)
    for name, outputs in seen.items():
        gains = first_gains(torch.cat(outputs).view(-1, size))
        student.model.get_submodule(f"{name}_norm").weight.copy_(gains)
        weight = student.model.get_submodule(f"{name}_proj").weight
        weight.div_(gains.repeat(len(weight) // size)[:, None])


def fit(teacher: Any, student: Any, tokens: Tensor) -> None:
    """Train norms, q_proj and k_proj of each layer for itself, a step for each sequence of `tokens`.

    The loss is the squared error of the attention's output in units of the output's mean square.
    """
    losses: list[float] = []

    def compare(of_student: Any, _: Any, arguments: Any, options: Any, output: Any) -> None:
        with torch.enable_grad():
            error = (of_student(*arguments, **options)[0] - output[0]).square().mean() / output[0].square().mean()
            error.backward()
        losses.append(float(error.detach()))

    with ExitStack() as stack:
        for layer, of_student in zip(teacher.model.layers, student.model.layers, strict=True):
            hook = partial(compare, of_student.self_attn)
            stack.callback(layer.self_attn.register_forward_hook(hook, with_kwargs=True).remove)
        for step in _steps(student, len(tokens), FIT, 0.0):
            losses.clear()
            with torch.no_grad():
                teacher.model(tokens[step : step + 1], use_cache=False)
            _noted(f"fit {step + 1} of {len(tokens)}", sum(losses) / len(losses), "of the attention's square")


def heal(teacher: Any, student: Any, tokens: Tensor) -> None:
    """Train all weights on the KL to the teacher, a step for each sequence of `tokens`."""
    for step in _steps(student, len(tokens), HEAL, SLOW):
        loss = _divergence(teacher, student, tokens[step : step + 1])
        loss.backward()
        _noted(f"step {step + 1} of {len(tokens)}", float(loss.detach()))


def _steps(student: Any, steps: int, fast: float, slow: float) -> Iterator[int]:
    """Yield the number of each step; behind it Adam moves the weights by the gradients that it finds.

    Those of NORMED move at the rate `fast`, others at `slow`, and are left alone where it is 0.
    """
    groups: list[dict[str, Any]] = []
    for name, weight in student.named_parameters():
        rate = fast if any(f".{part}_" in name for part in NORMED) else slow
        weight.requires_grad_(rate > 0)
        if rate > 0:
            groups.append({"params": [weight], "lr": rate * float(weight.detach().square().mean().sqrt())})
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    for step in range(steps):
        optimizer.zero_grad()
        yield step
        optimizer.step()
        schedule.step()


@torch.no_grad()
def divergence(teacher: Any, student: Any, tokens: Tensor) -> float:
    """Return the mean KL(teacher || student) in nats over all positions of `tokens` [samples, length]."""
    return sum(float(_divergence(teacher, student, sequence)) for sequence in tokens.split(1)) / len(tokens)


def _divergence(teacher: Any, student: Any, sequence: Tensor) -> Tensor:
    with torch.no_grad():
        target = teacher(sequence, use_cache=False).logits[0].log_softmax(-1)
    predicted = student(sequence, use_cache=False).logits[0].log_softmax(-1)
    return kl_div(predicted, target, reduction="batchmean", log_target=True)


@contextmanager
def _outputs(linear: Any) -> Iterator[list[Tensor]]:
    """Yield a list that the outputs of `linear` are added to."""
    seen: list[Tensor] = []
    add: Callable[..., None] = lambda _, __, output: seen.append(output)  # noqa: E731
    hook = linear.register_forward_hook(add)
    try:
        yield seen
    finally:
        hook.remove()


def _noted(name: str, value: float, unit: str = "nats") -> float:
    print(f"{name}: {value:.4f} {unit}", file=sys.stderr, flush=True)
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    print(as_qwen3(options.llama, options.out, options.steps))


if __name__ == "__main__":
    main()
