"""The operator as torch sees it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading

import pytest
import torch

from int8_matrices import make_matrix
from kernels.linears import make_linear, tokens
from tilepress import _native
from tilepress.kernels.op import linear_from_python

CLAMP = torch.empty(0, dtype=torch.int32)  # no weight_sums


def test_opcheck():
    linear = make_linear(make_matrix("gaussian", 40, 70))
    for x in (tokens((3, 70)), tokens((2, 3, 70), torch.bfloat16)):
        torch.library.opcheck(torch.ops.tilepress.linear.default, (x, *linear.operands, CLAMP))
        torch.library.opcheck(torch.ops.tilepress.linear.default, (x, *linear.operands, linear.weight_sums))


def test_compiled_without_graph_breaks():
    linear = make_linear(make_matrix("gaussian", 40, 70))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def doubled(x):
        return linear(x + 1) * 2

    x = tokens((3, 70))
    assert torch.equal(doubled(x), linear(x + 1) * 2)


def test_meta_tensors_give_the_shape():
    linear = make_linear(make_matrix("gaussian", 40, 70))
    meta = [tensor.to("meta") for tensor in (tokens((2, 5, 70), torch.float16), *linear.operands, CLAMP)]
    y = torch.ops.tilepress.linear(*meta)
    assert y.is_meta
    assert (y.shape, y.dtype) == ((2, 5, 40), torch.float16)


def test_callers_in_several_threads():
    """The pool serves one of them; the others work alone."""
    linear = make_linear(make_matrix("gaussian", 400, 700))
    batches = [tokens((3, 700), seed=seed) for seed in range(4)]
    wrong = []

    def work(x):
        expected = linear.expected(x)
        wrong.extend(1 for _ in range(50) if not torch.equal(linear(x), expected))

    callers = [threading.Thread(target=work, args=(x,)) for x in batches]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_called_from_python_it_gives_the_same_bits(dtype):
    """As it is where torch is too old to call native code."""
    linear = make_linear(make_matrix("gaussian", 40, 70))
    for x in (tokens((2, 3, 70), dtype), tokens((70, 5), dtype).T, tokens((0, 70), dtype)):
        assert torch.equal(dataclasses.replace(linear, call=linear_from_python)(x), linear(x))


def test_a_torch_without_the_c_interface_is_called_from_python():
    assert not _native.register_torch_operators("no/such/libtorch_cpu.so")
    old_torch = (
        "from tilepress import _native; _native.register_torch_operators = lambda library: False\n"
        "import torch; from tilepress.kernels import linear\n"
        "try: linear(*[torch.tensor(1.0)] * 9)\n"
        "except ValueError as error: print(error)"
    )
    output = subprocess.run([sys.executable, "-c", old_torch], check=True, capture_output=True, text=True).stdout
    assert "x is torch.float32 []; float32, bfloat16 or float16 [..., k] is needed" in output


def test_errors_of_the_plain_operator():
    """torch has no class for damage: `tilepress.kernels.linear` makes a BitstreamError of it."""
    linear = make_linear(make_matrix("gaussian", 40, 70))
    damaged = dataclasses.replace(linear, weight=linear.weight[:64])
    with pytest.raises(RuntimeError, match=r"^BitstreamError: tile \(0, 0\)"):
        torch.ops.tilepress.linear(tokens((1, 70)), *damaged.operands, CLAMP)
    with pytest.raises(ValueError, match=r"x is torch\.float64 \[1, 70\]"):
        torch.ops.tilepress.linear(tokens((1, 70), torch.float64), *linear.operands, CLAMP)
