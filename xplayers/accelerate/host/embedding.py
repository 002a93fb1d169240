"""Sums of rows by index on NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from xplayers.accelerate.host.kernels import embedding as kernels
from xplayers.accelerate.host.kernels.kernel import are_usable, laid
from xplayers.arrays.products import column_sums

LONGEST = 16  # rows of one index that are added one after the other; more are columns to be summed


def sums_by_index(d: np.ndarray, index: np.ndarray, n: int) -> Any:
    """Return the sums of the rows of `d`, sorted by `index`.

    The first rows of all indices are added at once, then the second ones, and so on; kernels add
    them in the same order. What is out of range is left out.
    """
    if not d.size:
        return NotImplemented
    order = np.argsort(index, kind="stable")
    keys, starts, counts = np.unique(index[order], return_index=True, return_counts=True)
    inside = (keys >= 0) & (keys < n)
    keys, starts, counts = keys[inside], starts[inside], counts[inside]
    total, long = np.zeros((n, d.shape[1]), d.dtype), counts > LONGEST
    with np.errstate(invalid="ignore"):
        for key, start, count in zip(keys[long], starts[long], counts[long], strict=True):
            total[key] = column_sums(d[order[start : start + count]])
        keys, starts, counts = (a[~long] for a in (keys, starts, counts))
        if d.dtype == np.float32 and are_usable(d.size):
            arrays = laid(d), order, keys.astype(np.int64), starts, counts, total
            kernels.sums_by_index.share(*arrays, n=len(keys), size=d.shape[1])
            return total
        for nth in range(counts.max(initial=0)):
            more = counts > nth
            total[keys[more]] += d[order[starts[more] + nth]]
    return total
