"""Sums of rows by index, where a look tells that all values are finite, as mostly."""

from __future__ import annotations

from typing import Any

import numpy as np

from xplayers.arrays.namespaces import Array, namespace
from xplayers.arrays.operation import portable_body
from xplayers.arrays.values import host_values
from xplayers.layers import embedding


def sums_by_index(d: Array, index: Array, n: int) -> Any:
    """Return the sums of the rows of `d`: a look costs less than two passes over them."""
    with np.errstate(invalid="ignore"):
        if n <= embedding.SMALL and host_values(d) is not None:
            total = embedding.one_hot_product(namespace(d), index, d, n)
            seen = host_values(total)
            if seen is not None and np.isfinite(seen).all():
                return total
        return portable_body(embedding.sums_by_index)(d, index, n)
