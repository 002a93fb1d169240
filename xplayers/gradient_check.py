"""Numerical gradients, and gradient checks of layers and losses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from xplayers._checks import function, instance, integer, positive
from xplayers.arrays.checks import check_real
from xplayers.arrays.namespaces import Array, device, is_floating, is_half, namespace
from xplayers.arrays.transfer import asarray, move, to_numpy
from xplayers.layers.base import Layer
from xplayers.losses import Loss

__all__ = ["check_gradients", "numerical_gradient"]


def numerical_gradient(f: Callable[[Array], Any], x: Array, h: float | None = None) -> Array:
    """Return the gradient of a scalar function by central differences, ``(f(x+h) - f(x-h)) / 2h``.

    Parameters
    ----------
    f : callable
        ``f(x)`` returns a number or a 0-d array. It is called twice for each element of `x`.
    x : array
        The point, floating-point. It is not written to: `f` gets modified copies.
    h : float, optional
        The step. By default the cube root of the machine epsilon, the optimum for central
        differences: 6e-6 in float64 (errors near 1e-10), 5e-3 in float32 (near 1e-4).

    Returns
    -------
    array
        Shape, dtype, library and device of `x`.

    Raises
    ------
    TypeError
        If `x` is not floating-point: integers would truncate the step.

    Examples
    --------
    >>> import numpy as np
    >>> numerical_gradient(lambda x: np.sum(x * x), np.asarray([3.0, -1.0])).round(6)
    array([ 6., -2.])
    """
    namespace(x, "numerical_gradient")
    function("numerical_gradient", "f", f, "a function of an array")
    if h is not None:
        h = positive("numerical_gradient", "h", h)
    if not is_floating(x) or is_half(x):
        message = f"numerical_gradient: x is {x.dtype}; expected float64 or float32."
        raise TypeError(message)
    values = to_numpy(x)
    step = float(np.finfo(values.dtype).eps) ** (1 / 3) if h is None else h
    gradient = np.empty(values.shape)

    def shifted(index: tuple[int, ...], by: float) -> float:
        changed = values.copy()
        changed[index] += by
        return float(f(asarray(changed, x)))

    for index in itertools.product(*map(range, values.shape)):
        gradient[index] = (shifted(index, step) - shifted(index, -step)) / (2 * step)
    return asarray(gradient, x)


def check_gradients(
    layer: Layer | Loss, x: Array, *inputs: Array, seed: int = 0, rtol: float = 1e-6
) -> None:
    """Check the gradients of a layer or a loss against finite differences; raise if they differ.

    For each parameter, and each input that has a gradient, one directional derivative along a
    random direction is compared, in float64, so the cost does not depend on the size. The layer is
    not changed: its pure functions are called on float64 copies, in the library of `x` if it has
    float64, else in NumPy.

    Parameters
    ----------
    layer : Layer or Loss
        The layer or loss to check.
    x : array
        An input; away from points without a derivative (0 for ReLU), as random values are.
    *inputs : array
        Further inputs, as the target of a loss, or None for one that is omitted.
    seed : int
        Seed of the directions.
    rtol : float
        Relative tolerance.

    Raises
    ------
    AssertionError
        With the name of the gradient and both values.
    """
    owner = "check_gradients"
    instance(owner, "layer", layer, (Layer, Loss), "a layer or a loss")
    xp = namespace(x, owner)
    check_real(owner, "x", x)
    for i, a in enumerate(inputs, 1):
        if a is not None:
            namespace(a, owner, f"input {i}")
            check_real(owner, f"input {i}", a)
    seed, rtol = integer(owner, "seed", seed, least=0), positive(owner, "rtol", rtol)
    info = xp.__array_namespace_info__()
    if "float64" not in info.dtypes(device=device(x), kind="real floating"):
        xp = np
    target = dict(xp=xp) if xp is not namespace(x) else dict(like=x)

    def copy(a: Array) -> Array:
        return move(a, **target, dtype="float64" if is_floating(a) else None)

    rng = np.random.default_rng(seed)

    def direction(like: Array) -> Array:
        values = rng.standard_normal(tuple(like.shape))
        return asarray(values / (np.linalg.norm(values) or 1.0), like)

    point = {"x": copy(x)}
    names = {f"parameter {name}": name for name in layer.params}
    point |= {label: copy(layer.params[name]) for label, name in names.items()}
    buffers = {name: copy(a) for name, a in layer.buffers.items()}
    rest = {f"input {i}": a for i, a in enumerate(inputs, 1)}
    point |= {label: a if a is None else copy(a) for label, a in rest.items()}

    def run(point: dict[str, Array]) -> tuple[Array, Any]:
        arrays = {name: point[label] for label, name in names.items()} | buffers
        return layer.apply(arrays, point["x"], *[point[label] for label in rest])

    y, cache = run(point)
    dy = direction(y)
    if isinstance(layer, Loss):
        gradients = {"x": layer.vjp(cache, dy)}
    else:
        dx, grads = layer.vjp(cache, dy)
        dinputs = zip(("x", *rest), dx if isinstance(dx, tuple) else (dx,), strict=False)
        gradients = {label: d for label, d in dinputs if d is not None and point[label] is not None}
        gradients |= {label: grads[name] for label, name in names.items()}

    h = 1e-5
    rounding = 4 * float(np.finfo("float64").eps) / h * float(np.linalg.norm(to_numpy(y)))
    for name, gradient in gradients.items():
        if tuple(gradient.shape) != tuple(point[name].shape):
            message = (
                f"{layer._owner}: the gradient of {name} has shape {tuple(gradient.shape)}; "
                f"expected {tuple(point[name].shape)}."
            )
            raise AssertionError(message)
        v = direction(point[name])
        up, down = (run(point | {name: point[name] + s * v})[0] for s in (h, -h))
        numerical = float(namespace(y).sum((up - down) * dy)) / (2 * h)
        computed = float(namespace(y).sum(gradient * v))
        scale = max(abs(numerical), abs(computed), 1e-3 * float(np.linalg.norm(to_numpy(gradient))))
        if not abs(numerical - computed) <= rtol * scale + rounding:
            message = (
                f"{layer._owner}: the gradient of {name} along a random direction is "
                f"{computed:.12g}; finite differences give {numerical:.12g}."
            )
            raise AssertionError(message)
