"""Layers that change only the shape of an array."""

from __future__ import annotations

import math
from collections.abc import Mapping

from xplayers._checks import one_by_one
from xplayers.arrays.namespaces import Array, namespace
from xplayers.layers.base import Cache, Layer


class Flatten(Layer):
    """Flatten all axes but the first, ``(n, ...)`` to ``(n, m)``.

    Backward restores the shape. Both may be views of their input, as the name says.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Flatten()
    >>> layer.forward(np.ones((2, 3, 4, 4))).shape
    (2, 48)
    >>> layer.backward(np.ones((2, 48))).shape
    (2, 3, 4, 4)
    """

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        if len(x.shape) < 1:
            message = "Flatten: x has shape (); expected (n, ...)."
            raise ValueError(message)
        return namespace(x).reshape(x, (x.shape[0], math.prod(x.shape[1:]))), (x,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (x,) = cache  # the array, not its shape: a cache has only arrays
        return namespace(x).reshape(dy, x.shape), {}


class Reshape(Layer):
    """Give each sample another shape, ``(n, ...)`` to ``(n, *shape)``.

    Backward restores the shape. Both may be views of their input, as the name says.

    Parameters
    ----------
    *shape : int
        The shape of a sample; one size may be -1, which is inferred.

    Raises
    ------
    ValueError
        If the sizes do not agree.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Reshape(1, 8, -1)
    >>> layer.forward(np.ones((5, 64))).shape
    (5, 1, 8, 8)
    >>> layer.backward(np.ones((5, 1, 8, 8))).shape
    (5, 64)
    """

    def __init__(self, *shape: int) -> None:
        self.shape = shape = one_by_one("Reshape", "shape", shape, "Reshape", least=-1)
        if shape.count(-1) > 1:
            message = f"Reshape: shape is {shape}; expected sizes, of which one may be -1."
            raise ValueError(message)

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        # lists, which torch.compile can follow
        values, known = math.prod(x.shape[1:]), math.prod([s for s in self.shape if s != -1])
        fits = values == known if -1 not in self.shape else known and values % known == 0
        if len(x.shape) < 1 or not fits:
            message = f"{self}: x has shape {tuple(x.shape)}; a sample is {values} values."
            raise ValueError(message)
        shape = tuple([values // known if s == -1 else s for s in self.shape])
        return namespace(x).reshape(x, (x.shape[0], *shape)), (x,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (x,) = cache
        return namespace(x).reshape(dy, x.shape), {}

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"Reshape({', '.join(map(str, self.shape))})"


class Transpose(Layer):
    """Permute the axes of each sample.

    Backward applies the inverse permutation. Both may be views of their input, as the name says.

    Parameters
    ----------
    *axes : int
        The new order of axes 1, 2, ...: ``Transpose(2, 1)`` swaps the axes of ``(n, a, b)``.
        The batch stays first.

    Raises
    ------
    ValueError
        If `axes` is no permutation of 1, 2, ..., or the input has another number of axes.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Transpose(2, 1)
    >>> layer.forward(np.ones((5, 3, 7))).shape
    (5, 7, 3)
    >>> layer.backward(np.ones((5, 7, 3))).shape
    (5, 3, 7)
    """

    def __init__(self, *axes: int) -> None:
        self.axes = axes = one_by_one("Transpose", "axes", axes, "Transpose", least=0)
        if sorted(axes) != list(range(1, len(axes) + 1)):
            message = f"Transpose: axes are {axes}; expected a permutation of 1, ..., {len(axes)}."
            raise ValueError(message)

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        if len(x.shape) != len(self.axes) + 1:
            message = f"{self}: x has shape {tuple(x.shape)}; expected {len(self.axes) + 1} axes."
            raise ValueError(message)
        return namespace(x).permute_dims(x, (0, *self.axes)), ()

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        inverse = tuple(self.axes.index(a) + 1 for a in range(1, len(self.axes) + 1))
        return namespace(dy).permute_dims(dy, (0, *inverse)), {}

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"Transpose({', '.join(map(str, self.axes))})"
