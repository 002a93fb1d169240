"""The cells of recurrent layers on NumPy, where there are kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from xplayers.accelerate.host.kernels import exponentials as kernels
from xplayers.accelerate.host.kernels.kernel import are_usable, laid

CALLS = 4  # so many passes over an array of gates does a kernel save: it pays the sooner


def lstm_cell(a: np.ndarray, c: np.ndarray) -> Any:
    """Return hidden state, cell state and all gates, in one array."""
    if not (a.dtype == c.dtype == np.float32 and a.size and are_usable(CALLS * a.size)):
        return NotImplemented
    h, after, gates = (np.empty(shape, a.dtype) for shape in (c.shape, c.shape, a.shape))
    n, size = a.shape
    kernels.lstm_cell.share(laid(a), laid(c), h, after, gates, n=n, size=size)
    return h, after, gates


def lstm_cell_gradient(
    dy: np.ndarray, dh: np.ndarray, dc: np.ndarray, gates: tuple, c: np.ndarray, after: np.ndarray
) -> Any:
    """Return the gradients of ``a`` and the cell state before, after a kernel."""
    if len(gates) != 1 or not dy.dtype == dh.dtype == dc.dtype == np.float32:
        return NotImplemented
    da, before = np.empty(gates[0].shape, dy.dtype), np.empty(c.shape, dy.dtype)
    n, size = gates[0].shape
    inputs = map(laid, (dy, dh, dc, gates[0], c, after))
    kernels.lstm_cell_gradient.share(*inputs, da, before, n=n, size=size)
    return da, before
