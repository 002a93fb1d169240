"""Numerical gradients, and gradient checks of layers and losses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xplayers._calls import explained
from xplayers._checks import function, instance, integer, positive
from xplayers.arrays.checks import check_real
from xplayers.arrays.namespaces import Array, device, is_floating, is_half, namespace
from xplayers.arrays.transfer import asarray, move, to_numpy
from xplayers.layers.base import Layer
from xplayers.layers.places import check_grads, check_pair, explain, no_gradient, unknown_gradient
from xplayers.losses import Loss

__all__ = ["check_gradients", "numerical_gradient"]

STEP = 1e-5  # of the finite differences of `check_gradients`


@explained()
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
    ValueError
        If `f` ignores its argument, as in the book, where it looks at the array that is changed.

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
    if gradient.size and not gradient.any():
        _check_argument_is_used(f)
    return asarray(gradient, x)


def _check_argument_is_used(f: Callable[[Any], Any]) -> None:
    """Raise an error if `f` has a value for what is no array: it ignores its argument."""
    try:
        f(object())
    except Exception:
        return
    message = (
        "numerical_gradient: f ignores its argument, so the gradient would be 0. The book's f "
        "looks at an array that is changed while it runs; here f gets a changed copy. Use it: "
        "def f(W): layer.W = W; return loss(net.predict(x), t)."
    )
    raise ValueError(message)


@explained()
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

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> net = xl.Sequential(xl.Affine.init(3, 4, rng=0), xl.Tanh(), xl.Affine.init(4, 2, rng=1))
    >>> x = np.random.default_rng(0).standard_normal((5, 3))
    >>> xl.check_gradients(net, x)
    """
    owner = "check_gradients"
    instance(owner, "layer", layer, (Layer, Loss), "a layer or a loss")
    if isinstance(layer, Loss) and not inputs:
        message = f"{owner}: the target is missing; expected {owner}(loss, scores, target)."
        raise TypeError(message)
    namespace(x, owner)
    check_real(owner, "x", x)
    for i, a in enumerate(inputs, 1):
        if a is not None:
            namespace(a, owner, f"input {i}")
            check_real(owner, f"input {i}", a)
    seed, rtol = integer(owner, "seed", seed, least=0), positive(owner, "rtol", rtol)
    rng, checked = np.random.default_rng(seed), _Function(layer, x, inputs)

    def direction(like: Array) -> Array:
        values = rng.standard_normal(tuple(like.shape))
        return asarray(values / (np.linalg.norm(values) or 1.0), like)

    y, cache = checked()
    dy = direction(y)
    rounding = 4 * float(np.finfo("float64").eps) / STEP * float(np.linalg.norm(to_numpy(y)))
    for name, gradient in checked.gradients(cache, dy).items():
        where = f"{layer._owner}: the gradient of {name}"
        a = checked.point[name]
        if tuple(gradient.shape) != tuple(a.shape):
            message = f"{where} has shape {tuple(gradient.shape)}; expected {tuple(a.shape)}."
            raise AssertionError(message)
        v = direction(a)
        up, down = (checked(**{name: a + h * v})[0] for h in (STEP, -STEP))
        numerical = float(namespace(y).sum((up - down) * dy)) / (2 * STEP)
        computed = float(namespace(y).sum(gradient * v))
        scale = max(abs(numerical), abs(computed), 1e-3 * float(np.linalg.norm(to_numpy(gradient))))
        if not abs(numerical - computed) <= rtol * scale + rounding:
            message = (
                f"{where} along a random direction is {computed:.12g}; "
                f"finite differences give {numerical:.12g}."
            )
            raise AssertionError(message)


class _Function:
    """A layer or a loss as a function of its parameters and inputs, around a point in float64.

    Attributes
    ----------
    point : dict
        The arrays by what messages call them: ``x``, ``input 1``, ``parameter W``.
    """

    def __init__(self, layer: Layer | Loss, x: Array, inputs: Sequence[Array]) -> None:
        xp = namespace(x)
        floats = xp.__array_namespace_info__().dtypes(device=device(x), kind="real floating")
        target = dict(like=x) if "float64" in floats else dict(xp=np)

        def copy(a: Array) -> Array:
            if a is None:
                return None
            return move(a, **target, dtype="float64" if is_floating(a) else None)

        inputs_by_name = {"x": x, **{f"input {i}": a for i, a in enumerate(inputs, 1)}}
        self.layer, self.inputs = layer, list(inputs_by_name)
        self.parameters = {f"parameter {name}": name for name in layer.params}
        self.buffers = {name: copy(a) for name, a in layer.buffers.items()}
        parameters = {label: layer.params[name] for label, name in self.parameters.items()}
        self.point = {label: copy(a) for label, a in (inputs_by_name | parameters).items()}

    def __call__(self, **changed: Array) -> tuple[Array, Any]:
        """Return the output and the cache, at the point but for what is `changed`."""
        point = self.point | changed
        arrays = {name: point[label] for label, name in self.parameters.items()}
        inputs = [point[label] for label in self.inputs]
        try:
            result = self.layer.apply(arrays | self.buffers, *inputs)
        except TypeError:
            if isinstance(self.layer, Layer):
                self.layer._check_inputs(inputs[1:], {})
            raise
        except KeyError as error:
            explain(error, self.layer)
            raise
        if type(result) is not tuple:
            check_pair(self.layer, "apply", result)
        return result

    def gradients(self, cache: Any, dy: Array) -> dict[str, Array]:
        """Return the gradients that it has by its `vjp`."""
        if isinstance(self.layer, Loss):
            return {"x": self.layer.vjp(cache, dy)}
        result = self.layer.vjp(cache, dy)
        if type(result) is not tuple:
            check_pair(self.layer, "vjp", result)
        dx, grads = result
        check_grads(self.layer, grads)
        own = set(self.parameters.values())
        for name in grads.keys() - own:
            raise unknown_gradient(self.layer, name)
        for name in own - grads.keys():
            raise no_gradient(self.layer, name, grads)
        dinputs = zip(self.inputs, dx if isinstance(dx, tuple) else (dx,), strict=False)
        gradients = {label: d for label, d in dinputs if d is not None}
        gradients |= {label: grads[name] for label, name in self.parameters.items()}
        return {label: d for label, d in gradients.items() if self.point[label] is not None}
