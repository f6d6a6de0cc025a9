"""Training of a quantized model's scales, gains and biases on the float model's predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tilepress.errors import QuantizationError
from tilepress.quantize.distillation.student import Student, embed
from tilepress.quantize.layerwise.decoder import POSITIONS, LayerwiseDecoder
from tilepress.quantize.layerwise.hidden_states import FinalStates
from tilepress.quantize.quantized_model import CollectedModel
from tilepress.quantize.report import DistillationReport

# For log scales, log gains and biases in units of their root mean square. SmolLM2 at 4.0 bits, 45 steps, sequences held
# back: from .0527 to .0491 nats; 2e-3, four times as much, does not lower it at all.
LEARNING_RATE = 5e-4
WARM_UP = 0.1
HELD_BACK = 8


def distil(
    decoder: LayerwiseDecoder,
    collected: CollectedModel,
    tokens: Tensor,
    final: FinalStates,
    order: Sequence[int],
    *,
    dtype: torch.dtype,
    tick: Callable[[], None],
) -> tuple[CollectedModel, DistillationReport]:
    """Train with Adam, one sequence per step, on KL(float model || quantized model) over the whole vocabulary.

    tokens: int64 [samples, length]. final: the float model's last hidden states for them. order: from `training_order`.
    dtype: stored type of the gains. tick: called after each step. An eighth of the sequences is held back; where the
    loss on these is not lower in the end, `collected` is returned as it was.

    One rank trains alone, since each step needs the one before it and is a single sequence. The other ranks send it
    their sequences in the order of `sequences_used`.
    """
    steps, spared = len(order), held_back(len(tokens))
    teacher, embedded = decoder.head(), embed(decoder, collected, tokens)

    def loss_on_held_back(model: CollectedModel) -> float:
        return mean_loss(Student(decoder, model), teacher, embedded[:spared], final.sequence)

    before = loss_on_held_back(collected)
    student = Student(decoder, collected)
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    for s in order:
        optimizer.zero_grad()
        with torch.enable_grad():
            _loss(student, teacher, embedded[s : s + 1], final.sequence(s))
        optimizer.step()
        schedule.step()
        tick()
    distilled = student.collected(dtype)
    after = loss_on_held_back(distilled)
    kept = after < before
    return distilled if kept else collected, DistillationReport(steps, before, after, kept)


def mean_loss(
    student: Student, teacher: Callable[[Tensor], Tensor], embedded: Tensor, final: Callable[[int], Tensor]
) -> float:
    """Return the mean KL in nats over all positions of the sequences.

    embedded: float32 [sequences, length, hidden]. final: gives a sequence's last hidden states in the float model,
    [1, length, hidden]. teacher: gives their logits.
    """
    losses = [_loss(student, teacher, embedded[s : s + 1], final(s)) for s in range(len(embedded))]
    return sum(losses) / len(losses)


def refuse_one_sequence(samples: int) -> None:
    """Raises QuantizationError where there is a single calibration sequence."""
    if samples < 2:
        raise QuantizationError(
            "the calibration text fills only one sequence, and training needs one more to check itself on; "
            "give more text or shorter sequences, or use --distill-steps 0 --block-steps 0"
        )


def training_order(samples: int, steps: int, generator: torch.Generator) -> list[int]:
    """The index of each step's sequence: all that are not held back in random order, then again in another."""
    spared, order, left = held_back(samples), [], list[int]()
    for _ in range(steps):
        left = left or torch.randperm(samples - spared, generator=generator).add(spared).tolist()
        order.append(left.pop())
    return order


def sequences_used(samples: int, order: Sequence[int]) -> list[int]:
    """All sequences that `distil` reads, in order: the held-back ones come first and again last."""
    checked = range(held_back(samples))
    return [*checked, *order, *checked]


def held_back(samples: int) -> int:
    """The number of sequences, the first ones, that check the result and are not trained on."""
    return max(1, samples // HELD_BACK)


def learning_rate(step: int, steps: int) -> float:
    """The share of the full learning rate at `step` of `steps`: a linear warm-up, then a cosine to 0."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up + 1) / (steps - warm_up + 1)))


def _loss(student: Student, teacher: Callable[[Tensor], Tensor], embedded: Tensor, final: Tensor) -> float:
    """Return the mean KL in nats over the positions; with gradients enabled, add its gradients to the parameters'.

    Logits and their gradients are computed for some positions at a time: those of a whole sequence would be the largest
    tensors by far.
    """
    states = student.states(embedded).flatten(0, 1)
    cut = states.detach().requires_grad_(torch.is_grad_enabled())
    total = 0.0
    for part, reference in zip(torch.split(cut, POSITIONS), torch.split(final.flatten(0, 1), POSITIONS), strict=True):
        with torch.no_grad():
            target = teacher(reference).log_softmax(dim=-1)
        predicted = student.logits(part).log_softmax(dim=-1)
        loss = torch.nn.functional.kl_div(predicted, target, reduction="sum", log_target=True) / len(states)
        if torch.is_grad_enabled():
            torch.autograd.backward(loss)
        total += float(loss.detach())
    if torch.is_grad_enabled():
        torch.autograd.backward(states, cut.grad)
    return total
