"""SoftmaxWithLoss by the bodies of NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import assert_same_bits, portably, values

import xplayers as xl
from xplayers.accelerate.host.kernels import kernel


@pytest.mark.only("numpy", "readonly")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["int64", "uint8"])
@pytest.mark.parametrize(
    "shape", [(1, 2), (7, 2), (5, 10), (5, 32), (5, 33), (5, 200), (0, 3), (2, 3, 4)]
)
def test_the_body_of_numpy_is_the_portable_code(shape, kind, dtype, xpv, monkeypatch):
    """Also for scores that lie in another order, which stay as they are; inf is among them."""
    monkeypatch.setattr(kernel, "smallest", lambda: math.inf)  # a kernel has other last digits
    scores = 4.0 * values(shape).astype(dtype)
    scores[: shape[0] // 2, ..., 0] += 900.0  # the others go through the middle
    if shape[0] and shape[-1] > 2:
        scores[0, ..., 1] = -np.inf
    labels = np.zeros(shape[:-1], kind) if shape[-1] < 3 else np.full(shape[:-1], 2, kind)

    def both(x):
        loss = xl.SoftmaxWithLoss()
        value = loss.forward(x, xpv.asarray(labels))
        return value, loss.backward()

    orders = [xpv.asarray(np.array(scores, order=order), dtype) for order in "CF"]
    found = [both(x) for x in orders]
    for x in orders:
        assert np.array_equal(x, scores)
    portably(monkeypatch)
    value, dx = both(orders[0])
    for got in found:
        assert_same_bits(got[0], value)
        assert_same_bits(got[1], dx)
        assert got[1].flags.c_contiguous
