"""The operator `torch.ops.tilepress.attend`: one token's attention, with the cache that it extends."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tilepress.kernels.op import NATIVE

torch.library.define(
    "tilepress::attend",
    "(Tensor rows, Tensor cos, Tensor sin, Tensor(a!) cache, int length, int queries) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def attend(rows: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, length: int, queries: int) -> Tensor:
    """Return one token's attention to the `length` tokens in the cache and to itself; the cache gets its key and value.

    Queries and keys are first turned by the rotary embedding, x * cos + rotate_half(x) * sin. Query q reads head
    q // (queries / heads). The result has the same bits for any number of threads and any instruction set; it differs
    from torch's, whose sums are in another order, in the last bits.

    rows: [queries + 2 * heads, size], the token's queries, keys and values. cos, sin: [size].
    cache: [2, 1, heads, room, size], keys and values; length is less than room. Returns [queries * size].
    All float32 and contiguous; size is a multiple of 8. Raises ValueError for other tensors. There is no gradient.
    """
    y: Tensor = _OPERATOR(rows, cos, sin, cache, length, queries)
    return y


def attend_in_torch(rows: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, length: int, queries: int) -> Tensor:
    """`attend` in torch's operations: the definition, and what runs where torch is too old to call native code."""
    heads, size = cache.shape[2], cache.shape[4]
    turned = rows[: queries + heads]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
    cache[0, 0, :, length] = turned[queries:]
    cache[1, 0, :, length] = rows[queries + heads :]
    keys, values = cache[:, :, :, : length + 1]
    return scaled_dot_product_attention(turned[:queries].view(1, -1, 1, size), keys, values, enable_gqa=True).flatten()


def _attend_fake(rows: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, length: int, queries: int) -> Tensor:
    return rows.new_empty(queries * cache.shape[4])


if not NATIVE:
    torch.library.impl("tilepress::attend", "CPU", attend_in_torch)
torch.library.register_fake("tilepress::attend", _attend_fake)

_OPERATOR = torch.ops.tilepress.attend.default
