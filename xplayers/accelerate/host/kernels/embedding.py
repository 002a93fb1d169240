"""Sums of the rows of one index, of float32."""

from __future__ import annotations

import numpy as np

from xplayers.accelerate.host.kernels.kernel import kernel

u64 = np.uint64  # of an unsigned index nobody asks whether it counts from the end


@kernel(
    "const float32[2], const int64[1], const int64[1], const int64[1], const int64[1], float32[2], "
    "int64, int64"
)
def sums_by_index(d, order, keys, starts, counts, total, start, stop):
    """Add to each row ``keys[i]`` of `total` the `counts[i]` rows of `d` from ``starts[i]`` on.

    `order` says which rows those are: one after the other, as NumPy adds them.
    """
    for i in range(start, stop):
        to = total[u64(keys[i])]
        for j in range(starts[i], starts[i] + counts[i]):
            row = d[u64(order[u64(j)])]
            for k in range(u64(row.size)):
                to[k] += row[k]
