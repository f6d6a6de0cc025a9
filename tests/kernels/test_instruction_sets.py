"""Every instruction set that this processor has gives equal bits: linears, lookups, compressed, decoded, rounded
and refined matrices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tilepress import _native

CHECK = """
import sys
import numpy as np
import torch
from kernels.cases import every_case, in_resident_form
from quantize.rounding.reference_refinement import refine_plainly
from quantize.rounding.reference_rounding import round_plainly
from quantize.rounding.rounding_cases import SHAPES, correlated_outputs, refinement_arguments, rounding_case
from tilepress import _native, codec
from tilepress.codec.coding import encode_tiled
from tilepress.kernels import embed
from tilepress.quantize.rounding.gptq import round_weights

assert _native.isa() == sys.argv[1], _native.isa()
for number, (linear, inputs) in enumerate(every_case()):
    compressed = codec.Compressed(linear.weight.numpy(), linear.index.numpy(), linear.info.numpy())
    matrix = codec.decode(compressed)
    assert np.array_equal(matrix, linear.matrix), number
    encoded = encode_tiled(matrix, compressed.tiling_n, compressed.tiling_k, threads=2)
    assert np.array_equal(encoded.weight, compressed.weight), number
    assert np.array_equal(encoded.index, compressed.index), number
    ids = torch.arange(len(linear.matrix)).flip(0)
    rows = linear.matrix.float() * linear.deq_scale[:, None]
    looked_up = embed(ids, linear.weight, linear.index, linear.info, linear.deq_scale, linear.matrix.shape[1])
    assert torch.equal(looked_up, rows[ids]), number
    resident = in_resident_form(linear)
    decoded = codec.decode(codec.Compressed(*(part.numpy() for part in resident.operands[:3])))
    assert np.array_equal(decoded, linear.matrix), number
    looked_up = embed(ids, *resident.operands[:3], resident.deq_scale, linear.matrix.shape[1])
    assert torch.equal(looked_up, rows[ids]), number
    for x in inputs:
        for form in (linear, resident):
            assert torch.equal(form(x), linear.expected(x)), (number, list(x.shape))
            assert torch.equal(form.with_own_scales(x), linear.expected_with_own_scales(x)), (number, list(x.shape))
for n, k in SHAPES:
    weight, steps, factor, rate, lengths = rounding_case(n, k, seed=n)
    expected = round_plainly(weight, steps, factor, rate, lengths)
    assert torch.equal(round_weights(weight, steps, factor, lengths), expected), (n, k)
    outputs = correlated_outputs(n, seed=k)
    expected = round_plainly(weight, steps, factor, rate, lengths, outputs)
    assert torch.equal(round_weights(weight, steps, factor, lengths, outputs), expected), (n, k)
    arguments = refinement_arguments(rounding_case(n, k, seed=n), outputs, sweeps=5)
    expected = refine_plainly(**arguments)
    _native.refine_weights(**arguments, threads=2)
    assert np.array_equal(arguments["integers"], expected), (n, k)
"""


def run_python(code: str, *arguments: str, isa: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"TILEPRESS_ISA": isa, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )


# Each takes a process that computes all cases; those of the other sets are slow tests.
USUAL = ("avx2", "avx512", "neon")


@pytest.mark.parametrize(
    "isa", [isa if isa in USUAL else pytest.param(isa, marks=pytest.mark.slow) for isa in _native.isas()]
)
def test_equal_bits(isa):
    finished = run_python(CHECK, isa, isa=isa)
    assert finished.returncode == 0, finished.stderr


def test_the_best_is_chosen():
    finished = run_python("from tilepress import _native; print(_native.isa())", isa="")
    assert finished.stdout.split() == _native.isas()[:1]
    assert _native.isas()[-1] == "portable"


def test_unknown_instruction_set():
    finished = run_python("from tilepress import _native; _native.isa()", isa="sse9")
    assert finished.returncode != 0
    assert "TILEPRESS_ISA is 'sse9': unset it, or set it to one of " in finished.stderr


FORKED = """
import os
import torch
from int8_matrices import make_matrix
from kernels.linears import make_linear, tokens

torch.set_num_threads(2)
linear = make_linear(make_matrix("gaussian", 400, 700))
x = tokens((3, 700))
y = linear(x)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(linear(x), y) else 1)
assert os.waitpid(child, 0)[1] == 0
"""


def test_forked_process():
    """A child has none of its parent's threads."""
    finished = run_python(FORKED, isa=_native.isa())
    assert finished.returncode == 0, finished.stderr
