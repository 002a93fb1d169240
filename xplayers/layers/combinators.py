"""Containers other than the plain sequence: residual, recomputed, mapped and parallel layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xplayers._checks import Option, choice, integer
from xplayers.arrays.joining import concat
from xplayers.arrays.namespaces import Array, namespace
from xplayers.layers.base import Cache, Layer
from xplayers.layers.containers import (
    Container,
    Sequential,
    collect,
    named,
    updated_part_buffers,
)


class Residual(Sequential):
    """Layers with a skip connection, ``y = x + f(x)``.

    Backward: ``dx = dy + df(dy)``, with the backward of the layers in reverse order.

    Parameters
    ----------
    *layers, **named_layers : Layer
        As in `Sequential`; together they preserve the shape.

    Raises
    ------
    ValueError
        If the layers change the shape.

    References
    ----------
    He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, equation 1.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Residual(xl.Affine(np.asarray([[0.0, 1.0], [1.0, 0.0]])))
    >>> layer.forward(np.asarray([[1.0, 10.0]]))
    array([[11., 11.]])
    >>> layer.backward(np.asarray([[1.0, 0.0]]))
    array([[1., 1.]])
    """

    def apply(
        self, arrays: Mapping[str, Array], x: Array, *inputs: Any, **named: Any
    ) -> tuple[Array, Cache]:
        y, cache = super().apply(arrays, x, *inputs, **named)
        return self._sum(x, y), cache

    def infer(self, arrays: Mapping[str, Array], x: Array, *inputs: Any, **named: Any) -> Array:
        return self._sum(x, super().infer(arrays, x, *inputs, **named))

    def vjp(self, cache: Cache, dy: Array) -> tuple[Any, dict[str, Array]]:
        dx, grads = super().vjp(cache, dy)
        if type(dx) is tuple:  # with the gradients of further inputs
            return (dx[0] + dy, *dx[1:]), grads
        return dx + dy, grads

    def _sum(self, x: Array, y: Array) -> Array:
        if tuple(x.shape) != tuple(y.shape):
            message = (
                f"{self._owner}: the layers map shape {tuple(x.shape)} to {tuple(y.shape)}; "
                "expected the same shape."
            )
            raise ValueError(message)
        return x + y


class Recompute(Sequential):
    """A `Sequential` whose caches are recomputed in backward (activation checkpointing).

    Forward keeps only the input; backward runs the forward once more. The results are those of
    `Sequential`: masks of dropout are a function of a counter.

    Parameters
    ----------
    *layers, **named_layers : Layer
        As in `Sequential`.

    References
    ----------
    Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> block = xl.Recompute(xl.Affine.init(4, 3, rng=0), xl.Relu())
    >>> same = xl.Sequential(*block)
    >>> x = np.ones((2, 4), "float32")
    >>> bool((block.forward(x) == same.forward(x)).all())
    True
    """

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        y, _ = super().apply(arrays, x)
        return y, (x, tuple(arrays[name] for name in self._names()))

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        return super().vjp(self._recomputed(cache), dy)

    def param_grads(self, cache: Cache, dy: Array) -> dict[str, Array]:
        grads: dict[str, Array] = {}
        if self._lowest < len(self):
            grads = super().param_grads(self._recomputed(cache), dy)
        return grads

    def updated_buffers(self, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
        if not self._buffers:
            return {}
        return super().updated_buffers(arrays, self._recomputed(cache))

    def _recomputed(self, cache: Cache) -> Cache:
        x, values = cache
        return super().apply(dict(zip(self._names(), values, strict=True)), x)[1]

    def _names(self) -> list[str]:
        return [name for name, _, _ in (*self._params, *self._buffers)]


class Map(Sequential):
    """Layers applied to each time step of a sequence: axes 0 and 1, batch and time, are merged.

    ``(n, time, ...)`` goes through the layers as ``(n * time, ...)``. Backward does the same.

    Parameters
    ----------
    *layers, **named_layers : Layer
        As in `Sequential`.

    Raises
    ------
    ValueError
        If the input has fewer than three axes.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Map(xl.Affine.init(4, 3, rng=0), xl.Relu())
    >>> layer.forward(np.ones((2, 10, 4), "float32")).shape
    (2, 10, 3)
    """

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        y, cache = super().apply(arrays, self._merged(x))
        return self._split(y, x), (cache, x, y)

    def infer(self, arrays: Mapping[str, Array], x: Array) -> Array:
        return self._split(super().infer(arrays, self._merged(x)), x)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        inner, x, y = cache
        dx, grads = super().vjp(inner, namespace(dy).reshape(dy, y.shape))
        return namespace(dy).reshape(dx, x.shape), grads

    def param_grads(self, cache: Cache, dy: Array) -> dict[str, Array]:
        inner, _, y = cache
        return super().param_grads(inner, namespace(dy).reshape(dy, y.shape))

    def updated_buffers(self, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
        return super().updated_buffers(arrays, cache[0])

    def _merged(self, x: Array) -> Array:
        if len(x.shape) < 3:
            message = f"{self._owner}: x has shape {tuple(x.shape)}; expected (n, time, ...)."
            raise ValueError(message)
        return namespace(x).reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]))

    def _split(self, y: Array, x: Array) -> Array:
        return namespace(y).reshape(y, (*x.shape[:2], *y.shape[1:]))


class Parallel(Container):
    """Branches with a common input, whose outputs are added or concatenated.

    Forward: ``y = f_1(x) + f_2(x) + ...``, or the outputs concatenated along `axis`.
    Backward: ``dx`` is the sum over the branches.

    Parameters
    ----------
    *layers : Layer
        Branches, named ``"0"``, ``"1"``, ...
    combine : {"sum", "concatenate"}
        How the outputs are combined.
    axis : int
        Axis of the concatenation; 1 is features, or channels of images.
    **named_layers : Layer
        Further branches by name.

    Raises
    ------
    ValueError
        If there is no layer, or the outputs do not fit.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Parallel(xl.Relu(), xl.Tanh(), combine="concatenate")
    >>> layer.forward(np.asarray([[-1.0, 2.0]])).round(3)
    array([[ 0.   ,  2.   , -0.762,  0.964]])
    >>> layer.backward(np.ones((1, 4))).round(3)
    array([[0.42 , 1.071]])
    """

    combine, axis = Option(choice, choices=("sum", "concatenate")), Option(integer, least=None)

    _side_by_side = True  # in drawings

    def __init__(
        self, *layers: Layer, combine: str = "sum", axis: int = 1, **named_layers: Layer
    ) -> None:
        self.combine, self.axis = combine, axis
        if not layers and not named_layers:
            message = "Parallel: there are no layers."
            raise ValueError(message)
        super().__init__(named(layers, named_layers))
        self.integer_input = all(part.layer.integer_input for part in self._parts)

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        pairs = [self._in(p, "apply", p.pick(arrays), x) for p in self._parts]
        ys, caches = zip(*pairs, strict=True)
        return self._combined(ys), (caches, ys if self.combine == "concatenate" else ())

    def infer(self, arrays: Mapping[str, Array], x: Array) -> Array:
        return self._combined([self._in(p, "infer", p.pick(arrays), x) for p in self._parts])

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        caches, ys = cache
        grads: dict[str, Array] = {}
        dx: Any = None
        for part, part_cache, dy_part in zip(self._parts, caches, self._split(dy, ys), strict=True):
            dx_part, part_grads = self._in(part, "vjp", part_cache, dy_part)
            dx = dx_part if dx is None else dx + dx_part
            collect(grads, part, part_grads)
        return dx, grads

    def updated_buffers(self, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
        updated: dict[str, Array] = {}
        for part, part_cache in zip(self._parts, cache[0], strict=True):
            updated |= updated_part_buffers(part, {**arrays, **updated}, part_cache)
        return updated

    def _combined(self, ys: Sequence[Array]) -> Array:
        shapes = [list(y.shape) for y in ys]
        if self.combine == "concatenate":
            for shape in shapes:
                shape[self.axis] = 0
        if any(shape != shapes[0] for shape in shapes):
            message = f"{self._owner}: the outputs have shapes {[tuple(y.shape) for y in ys]}."
            raise ValueError(message)
        if self.combine == "concatenate":
            return concat(namespace(ys[0]), ys, self.axis)
        total = ys[0]
        for y in ys[1:]:
            total = total + y
        return total

    def _split(self, dy: Array, ys: Sequence[Array]) -> list[Array]:
        """Return the gradient of each output."""
        if self.combine == "sum":
            return [dy] * len(self._parts)
        axis, dys, start = self.axis % len(dy.shape), [], 0
        for y in ys:
            stop = start + y.shape[axis]
            dys.append(dy[(*[slice(None)] * axis, slice(start, stop), ...)])
            start = stop
        return dys

    def __repr__(self) -> str:
        options = (
            "" if self.combine == "sum" else f"    combine='concatenate',\n    axis={self.axis},\n"
        )
        return "Parallel(\n" + self._rows() + options + ")"
