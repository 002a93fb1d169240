"""Embeddings: rows of a table, by index or by position."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

from xplayers._checks import integer
from xplayers.arrays.checks import out_of_range
from xplayers.arrays.namespaces import (
    Array,
    Namespace,
    device,
    downcast_like,
    dtype_name,
    namespace,
    on_host,
    signed,
    upcast,
)
from xplayers.arrays.operation import operation
from xplayers.arrays.products import column_sums, matmul
from xplayers.arrays.values import examine
from xplayers.initializers import Initializer, Rng, documented, drawn, normal
from xplayers.layers.base import Cache, Layer
from xplayers.layers.variables import Gradient, Parameter

# Up to this many rows the gradient of a table is a matrix product with a one-hot matrix, beyond it
# segment sums of sorted rows, whose cost does not grow with the table.
SMALL = 512
_BLOCK = 1 << 22  # elements of a block of the one-hot matrix


class _Table(Layer):
    """Base of embeddings: a table `W`, one row per index or position."""

    W, dW = Parameter(), Gradient()

    def __init__(self, W: Array) -> None:
        self.W = W
        if len(W.shape) != 2:
            message = f"{type(self).__name__}: W has shape {tuple(W.shape)}; expected two axes."
            raise ValueError(message)

    @classmethod
    @documented
    def init(
        cls,
        n: int,
        n_features: int,
        *,
        initializer: Initializer = normal,
        rng: Rng = None,
        dtype: str = "float32",
        like: Array = None,
    ) -> Self:
        """Make a layer with initial values.

        Parameters
        ----------
        n : int
            Number of rows: indices, or positions.
        n_features : int
            Width of a row.
        initializer : callable
            ``initializer(shape, rng)``. By default normal values of standard deviation 0.01, as in
            the book (PyTorch: 1).
        rng, dtype, like
            As in every `init`.
        """
        owner = cls.__name__
        shape = integer(owner, "n", n), integer(owner, "n_features", n_features)
        return cls(drawn(owner, initializer, shape, rng, dtype))._materialize_at(like)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.W.shape


class Embedding(_Table):
    """Embedding, ``y = W[x]`` for integers `x`.

    Backward: ``dW[i] = sum(dy[j] for all j with x[j] == i)``; ``backward`` returns None, because
    integers have no gradient.

    Parameters
    ----------
    W : array of shape (n, n_features)
        The row of each integer from 0 to ``n - 1``.

    Raises
    ------
    ValueError
        If `W` is not 2-d, or an integer on the host is out of range.
    TypeError
        If `x` does not hold integers, or is of another library or device than `W`.

    Notes
    -----
    `x` is of any shape and integer dtype, `y` of shape ``(*x.shape, n_features)`` and the dtype of
    `W`. On a GPU and in compiled functions, checking values would synchronize with the device:
    there an integer out of range, including negative ones, gives a row of NaN and no gradient.

    The gradients of a repeated integer are summed in an order that depends only on `x`, so the
    result is deterministic. There is no scatter-add: the gradient of a small table is a product
    with a one-hot matrix, in blocks; for a large one the rows of `dy` are sorted by `x`, and runs
    of equal integers are summed by doubling, in ``log2(x.size)`` steps.

    There is no ``padding_idx`` as in PyTorch.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Embedding(np.asarray([[0.0, 1.0], [10.0, 11.0]]))
    >>> layer.forward(np.asarray([1, 1]))
    array([[10., 11.],
           [10., 11.]])
    >>> layer.backward(np.ones((2, 2)))
    >>> layer.dW
    array([[0., 0.],
           [2., 2.]])
    """

    integer_input = True

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        W, xp, x = arrays["W"], namespace(x), signed(x)
        n = W.shape[0]
        flat = xp.reshape(x, (math.prod(x.shape),))
        if on_host(x):
            examine(flat, self._check_range, n)
            index = _as_index(xp, flat)
            y = xp.take(W, index, axis=0)
        else:
            index = _as_index(xp, flat)
            valid = (index >= 0) & (index < n)
            y = xp.take(W, xp.where(valid, index, xp.zeros_like(index)), axis=0)
            y = xp.where(valid[:, None], y, math.nan)
        return xp.reshape(y, (*x.shape, W.shape[1])), (index, W)

    def vjp(self, cache: Cache, dy: Array) -> tuple[None, dict[str, Array]]:
        index, W = cache
        xp = namespace(dy)
        d = upcast(xp, xp.reshape(dy, (index.shape[0], W.shape[1])))
        dW = sums_by_index(d, index, W.shape[0])
        return None, {"W": downcast_like(dW, W)}

    def _check_range(self, x: Array, n: int) -> None:
        bad = out_of_range(x, n)
        if bad is not None:
            message = f"{self}: x has {bad}; expected 0 to {n - 1} for a table of {n} rows."
            raise ValueError(message)


def _as_index(xp: Namespace, x: Array) -> Array:
    """Return `x` in an integer dtype that every library accepts as an index; may be `x` itself."""
    name = dtype_name(x.dtype)
    if name in ("int32", "int64"):
        return x
    return xp.astype(x, xp.int64 if name == "uint64" else xp.int32)


@operation
def sums_by_index(d: Array, index: Array, n: int) -> Array:
    """Return the segment sums ``(n, m)`` of the rows of `d` ``(k, m)`` by `index` ``(k,)``.

    `d` and the sums are in at least float32, `index` is in int32 or int64.
    For few segments by a product with the one-hot matrix. There 0 times infinity would be NaN in
    all rows, so non-finite values are replaced by 0, and additional columns count them.
    """
    xp = namespace(d)
    if n > SMALL:
        return _sums_by_sorting(xp, index, d, n)
    above, below = ~(d < math.inf), ~(d > -math.inf)  # both True for NaN
    parts = [
        xp.where(above | below, 0.0, d),
        *(xp.astype(part, d.dtype) for part in (above, below)),
    ]
    total = one_hot_product(xp, index, xp.concat(parts, axis=1), n)
    width = d.shape[1]
    total, above, below = (total[:, i * width : (i + 1) * width] for i in range(3))
    total = xp.where(above > 0, math.inf, total)
    both = (below > 0) & (total == math.inf)
    return xp.where(both, math.nan, xp.where(below > 0, -math.inf, total))


def one_hot_product(xp: Namespace, index: Array, d: Array, n: int) -> Array:
    """Return the product of the one-hot matrix of `index` with `d`, in blocks."""
    total = xp.zeros((n, d.shape[1]), dtype=d.dtype, device=device(d))
    rows = xp.reshape(xp.arange(n, dtype=index.dtype, device=device(d)), (n, 1))
    step = max(_BLOCK // max(n, 1), 1)
    for start in range(0, index.shape[0], step):
        stop = min(start + step, index.shape[0])
        one_hot = xp.astype(rows == index[None, start:stop], d.dtype)
        total = total + matmul(one_hot, d[start:stop, :])
    return total


def _sums_by_sorting(xp: Namespace, index: Array, d: Array, n: int) -> Array:
    """Return the segment sums of the rows of `d`: sorted by `index`, with runs of equal summed."""
    m = index.shape[0]
    if m == 0:
        return xp.zeros((n, d.shape[1]), dtype=d.dtype, device=device(d))
    order = xp.argsort(index, stable=True)
    keys, sums = xp.take(index, order, axis=0), xp.take(d, order, axis=0)
    step = 1
    while step < m:  # invariant: each row is the sum over its run, at most the last `step` rows
        same = (keys[step:] == keys[:-step])[:, None]
        before = xp.where(same, sums[:-step, :], 0.0)
        sums = xp.concat([sums[:step, :], sums[step:, :] + before], axis=0)
        step *= 2
    segments = xp.arange(n, dtype=keys.dtype, device=device(d))
    last = xp.searchsorted(keys, segments, side="right") - 1
    last = xp.where(last < 0, xp.zeros_like(last), last)
    occurs = xp.take(keys, last, axis=0) == segments
    return xp.where(occurs[:, None], xp.take(sums, last, axis=0), 0.0)


class PositionalEmbedding(_Table):
    """Learned positional embedding, ``y = x + W[:time]``.

    Backward: ``dx = dy``, ``dW[:time] = sum(dy, axis=0)``, 0 for later positions.

    Parameters
    ----------
    W : array of shape (n_positions, n_features)
        The row of each position.

    Raises
    ------
    ValueError
        If `x` is not ``(n, time, n_features)``, or longer than the table.
    TypeError
        If the arrays are of different libraries, devices or dtypes.

    References
    ----------
    Gehring et al., "Convolutional Sequence to Sequence Learning", ICML 2017, section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> layer = PositionalEmbedding(np.asarray([[1.0], [2.0], [3.0]]))
    >>> layer.forward(np.zeros((1, 2, 1)))
    array([[[1.],
            [2.]]])
    """

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        W, shape = arrays["W"], tuple(x.shape)
        if len(shape) != 3 or shape[2] != W.shape[1]:
            message = f"{self}: x has shape {shape}; expected (n, time, {W.shape[1]})."
            raise ValueError(message)
        if shape[1] > W.shape[0]:
            message = f"{self}: x has {shape[1]} time steps, the table {W.shape[0]} positions."
            raise ValueError(message)
        return x + W[: shape[1], :], (W,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        return namespace(dy).asarray(dy, copy=True), self.param_grads(cache, dy)

    def param_grads(self, cache: Cache, dy: Array) -> dict[str, Array]:
        (W,) = cache
        xp = namespace(dy)
        rest = (W.shape[0] - dy.shape[1], W.shape[1])
        zeros = xp.zeros(rest, dtype=dy.dtype, device=device(dy))
        return {"W": xp.concat([column_sums(dy), zeros], axis=0)}
