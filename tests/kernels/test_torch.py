"""The operator as torch sees it."""

from __future__ import annotations

import threading

import torch

from int8_matrices import make_matrix
from kernels.linears import make_linear, tokens


def test_opcheck():
    linear = make_linear(make_matrix("gaussian", 40, 70))
    for x in (tokens((3, 70)), tokens((2, 3, 70), torch.bfloat16)):
        torch.library.opcheck(torch.ops.tilepress.linear.default, (x, *linear.operands))


def test_compiled_without_graph_breaks():
    linear = make_linear(make_matrix("gaussian", 40, 70))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def doubled(x):
        return linear(x + 1) * 2

    x = tokens((3, 70))
    assert torch.equal(doubled(x), linear(x + 1) * 2)


def test_meta_tensors_give_the_shape():
    linear = make_linear(make_matrix("gaussian", 40, 70))
    meta = [tensor.to("meta") for tensor in (tokens((2, 5, 70), torch.float16), *linear.operands)]
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
