"""Sums of rows by index: PyTorch adds one row after the other."""

from __future__ import annotations

import sys
from typing import Any

from xplayers.arrays.namespaces import Array, is_traced

LONGEST = 256  # rows, of which float32 holds the sum: more are summed in float64


def sums_by_index(d: Array, index: Array, n: int) -> Any:
    """Return the sums ``(n, m)`` of the rows of `d` ``(k, m)`` by `index` ``(k,)``."""
    if is_traced() or not d.numel():
        return NotImplemented
    torch: Any = sys.modules["torch"]
    inside = (index >= 0) & (index < n)
    index = torch.where(inside, index, n)  # a row more, for what is out of range
    if not d.is_cpu:  # where rows are added in no order
        add = torch.ops.aten.embedding_dense_backward.default
        return add(d, index.long(), n + 1, -1, False)[:n]
    wide = d
    if len(index) > LONGEST and torch.bincount(index, minlength=1).max() > LONGEST:
        wide = d.double()
    total = torch.zeros((n + 1, d.shape[1]), dtype=wide.dtype)
    return total.index_add_(0, index, wide)[:n].to(d.dtype)
