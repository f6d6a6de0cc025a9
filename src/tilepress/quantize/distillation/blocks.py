"""Integers that move where that brings the output of their layer nearer to the float model's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tilepress.checkpoint import QuantizedLinear
from tilepress.checkpoint.tensors.activation_mode import is_dynamic
from tilepress.models.layer_inputs import DOWN
from tilepress.quantize.context import Job
from tilepress.quantize.distillation.student import (
    FloatLinear,
    Student,
    StudentNorm,
    embed,
    fake_quantize,
    float_bias,
    range_of_linear,
)
from tilepress.quantize.distillation.train import held_back, mean_loss
from tilepress.quantize.quantized_model import CollectedModel
from tilepress.quantize.report import BlockReport
from tilepress.quantize.rounding.layer import pack
from tilepress.quantize.sensitivity_pass import sensitivity_stage

# Tokens of a step, and of a window at most. At 3.5 bits 72 steps of 512 tokens take 11 % off the divergence of the
# first layers of SmolLM2, 36 of 1024 6 %: the noise of few tokens keeps integers from moving together, each to make up
# for the same error.
TOKENS = 512
# How far an integer may move in all steps that Adam takes in one direction, with a rate that falls linearly to 0. It
# takes .5 to become the next one. Of fewer steps none goes farther than one of so many: they would diverge.
REACH, FEWEST_STEPS = 1.2, 64
# What a bit a weight costs, as a share of the error before the first step, to begin with. In each step it grows by so
# many times the bits a weight that the integers have gained, so that these end where they began.
RATE, RATE_GAIN = 0.1, 10.0
# A token's error counts up to so many times the median: a few tokens have values far larger than all others.
CAP = 32.0
# Mean square of a row's integers, at least: of one that is nearly zero, a single integer would cost hundreds of bits.
LEAST_SPREAD = 0.1
# What new integers change of a linear; deq_scale in its last bit, or where a whole row becomes zero.
CHANGED = ("weight", "deq_scale", "quant_bias")


def reconstruct(job: Job, rounded: CollectedModel, steps: int) -> tuple[CollectedModel, BlockReport]:
    """Return the model with integers that were trained one layer after the other, for `steps` steps each.

    A layer reads what the layers before it, with their new integers, give. A finished layer is kept in the work
    directory. An eighth of the sequences is held back; where a layer's error on these is not lower in the end, it keeps
    its integers, and where the model's divergence from the float model is not, all do. For the first rank, which has
    the results; the others wait.
    """
    decoder, windows = job.decoder, windows_of(job.tokens)
    spared = held_back(len(job.tokens)) * (len(windows) // len(job.tokens))
    batch = windows_a_step(job.tokens.shape[1])
    tokens = windows[: spared + steps * batch]
    collected = replace(rounded, linears=dict(rounded.linears))
    reference, states = decoder.embed(tokens).cpu(), embed(decoder, collected, tokens).cpu()
    report = BlockReport(steps)
    for index, arguments in enumerate(decoder.layer_arguments(tokens.shape[1])):
        with decoder.layer(index) as layer:
            _advance(layer, reference, arguments, batch, decoder.device)
        stage = f"block-{index:05}"
        if (record := job.work.record(stage)) is None:
            student = Block(job, collected, index)
            importance = job.work.tensors(sensitivity_stage(index)).read(DOWN.name).diagonal(dim1=1, dim2=2).flatten()
            trained = _Training(student, arguments, importance[: decoder.hidden].to(decoder.device), batch)
            before, after = trained.run(states, reference, spared, steps, seed=(job.recipe.seed + index) % 2**64)
            moved = student.moved() if after < before else {}
            tensors = {f"{name}.{part}": getattr(linear, part) for name, linear in moved.items() for part in CHANGED}
            job.work.save(stage, tensors)
            seconds = job.clock.seconds()
            record = {"before": before, "after": after, "linears": list(moved), "seconds": seconds}
            job.work.commit(stage, record)
            job.clock.tick()
        else:
            job.clock.restored(1, record["seconds"])
        stored = job.work.tensors(stage)
        for name in record["linears"]:
            changed: dict[str, Any] = {part: stored.read(f"{name}.{part}") for part in CHANGED}
            collected.linears[name] = replace(collected.linears[name], **changed)
        report.add(record["before"], record["after"], kept=bool(record["linears"]))
        _advance(Block(job, collected, index), states, arguments, batch, decoder.device)
    if any(report.kept):
        teacher, embedded = decoder.head(), embed(decoder, rounded, tokens[:spared])
        report.loss_before, report.loss_after = (
            mean_loss(Student(decoder, model), teacher, embedded, lambda s: reference[s : s + 1].to(decoder.device))
            for model in (rounded, collected)
        )
    return (collected if report.taken else rounded), report


def windows_of(tokens: Tensor) -> Tensor:
    """Cut sequences int64 [samples, length] into windows of TOKENS, where they are longer; what is left is not used."""
    length = min(tokens.shape[1], TOKENS)
    return tokens[:, : tokens.shape[1] // length * length].reshape(-1, length)


def windows_a_step(length: int) -> int:
    """Windows of a step, where sequences have `length` tokens."""
    return max(1, TOKENS // length)


class IntegerLinear(nn.Module):
    """y = fq(x) @ round(latent).T * weight_scale + bias, with trained latent [n, k]; its gradient is that of itself."""

    def __init__(self, linear: QuantizedLinear, dynamic: bool, device: torch.device) -> None:
        super().__init__()
        self._linear, self._range = linear, range_of_linear(linear, dynamic)
        self._scale = linear.weight_scale().to(device)
        self._bias = float_bias(linear).to(device)
        self.latent = nn.Parameter(linear.weight.to(device, torch.float32))
        squares = self.latent.detach().square()
        self._spread = squares.mean(dim=1, keepdim=True).clamp(min=LEAST_SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(self._range, x) @ self._integers().T * self._scale + self._bias

    def bits(self) -> Tensor:
        """Bits of all integers, but for a constant, where those of a row are normal with the spread they began with."""
        return (self._integers().square() / self._spread).sum() / (2 * math.log(2))

    def moved(self, name: str) -> QuantizedLinear:
        """Return the linear with the trained integers."""
        integers = self._rounded().to(torch.int8).cpu()
        bias = self._bias.cpu() if bool(self._bias.any()) else None
        new = pack(integers, self._linear.weight_scale(), self._range, bias, name)
        return replace(self._linear, weight=integers, deq_scale=new.deq_scale, quant_bias=new.quant_bias)

    def _integers(self) -> Tensor:
        return self.latent + (self._rounded() - self.latent.detach())

    def _rounded(self) -> Tensor:
        return self.latent.detach().round().clamp(-128, 127)


class Block(nn.Module):
    """Layer `index` of the quantized model, on the decoder's device."""

    def __init__(self, job: Job, collected: CollectedModel, index: int) -> None:
        super().__init__()
        decoder, where = job.decoder, f"model.layers.{index}."
        self.layer = decoder.empty_layer(index)
        self.linears = {
            name: IntegerLinear(linear, is_dynamic(collected.activations, linear.kind), decoder.device)
            for name, linear in collected.linears.items()
            if name.startswith(where)
        }
        norms = {
            name.removesuffix(".weight"): StudentNorm(gain.to(decoder.device, torch.float32), decoder.eps)
            for name, gain in collected.gains.items()
            if name.startswith(where)
        }
        floats = {
            name: FloatLinear(*held, decoder.device)
            for name, held in collected.float_linears().items()
            if name.startswith(where)
        }
        modules: Mapping[str, nn.Module] = {**self.linears, **floats, **norms}
        for name, module in modules.items():
            self.layer.set_submodule(name.removeprefix(where), module.requires_grad_(name in self.linears))

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        y: Tensor = self.layer(x, **arguments)
        return y

    def moved(self) -> dict[str, QuantizedLinear]:
        return {name: linear.moved(name) for name, linear in self.linears.items()}


class _Training:
    """importance: float32 [hidden], the Fisher information of each of the layer's outputs."""

    def __init__(self, block: Block, arguments: Mapping[str, Any], importance: Tensor, batch: int) -> None:
        self._block, self._arguments, self._importance, self._batch = block, arguments, importance, batch
        self._weights = sum(linear.latent.numel() for linear in block.linears.values())

    def run(self, states: Tensor, targets: Tensor, spared: int, steps: int, *, seed: int) -> tuple[float, float]:
        """Train; return the mean error on the first `spared` windows before and after.

        states, targets: float32 [windows, length, hidden], the layer's inputs in the quantized model and its outputs
        in the float model.
        """
        errors = self._held_back(states, targets, spared)
        cap = CAP * float(errors.median())
        before = float(errors.clamp(max=cap).mean())
        if before == 0.0 or not self._weights:
            return before, before
        latents = [linear.latent for linear in self._block.linears.values()]
        optimizer = torch.optim.Adam(latents, 2 * REACH / max(steps, FEWEST_STEPS), betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        generator, left = torch.Generator().manual_seed(seed), list[int]()
        rate, bits_before = RATE, float(self._bits())
        for _ in range(steps):
            while len(left) < self._batch:
                left += (torch.randperm(len(states) - spared, generator=generator) + spared).tolist()
            chosen, left = left[: self._batch], left[self._batch :]
            optimizer.zero_grad()
            with torch.enable_grad():
                error = self._errors(states, targets, chosen).clamp(max=cap).mean()
                bits = self._bits()
                torch.autograd.backward(error / before + rate * bits)
            rate = max(0.0, rate + RATE_GAIN * (float(bits.detach()) - bits_before))
            optimizer.step()
            schedule.step()
        return before, float(self._held_back(states, targets, spared).clamp(max=cap).mean())

    def _errors(self, states: Tensor, targets: Tensor, chosen: list[int]) -> Tensor:
        """Return the error of each token of the chosen windows, float32 [tokens]."""
        device = self._importance.device
        y = self._block(states[chosen].to(device), **self._arguments)
        errors: Tensor = (y - targets[chosen].to(device)).square() @ self._importance
        return errors.flatten()

    def _bits(self) -> Tensor:
        """Return the bits a weight, but for a constant."""
        return torch.stack([linear.bits() for linear in self._block.linears.values()]).sum() / self._weights

    def _held_back(self, states: Tensor, targets: Tensor, spared: int) -> Tensor:
        return torch.cat([self._errors(states, targets, [window]) for window in range(spared)])


def _advance(layer: nn.Module, states: Tensor, arguments: Mapping[str, Any], batch: int, device: torch.device) -> None:
    """Replace a layer's inputs by its outputs."""
    for part in torch.split(states, batch):
        part.copy_(layer(part.to(device), **arguments))
