"""Layers as functions of JAX: ``f, params = as_function(layer)``, and ``f(params, x)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xplayers._checks import flag, instance
from xplayers.arrays.checks import check_input, check_same
from xplayers.arrays.namespaces import Array, is_floating, library
from xplayers.bridges import imported
from xplayers.bridges.inputs import Number, share_out, without_gradient
from xplayers.layers.base import Layer
from xplayers.losses import Loss

jax = imported("jax", "JAX")

Arrays = dict[str, Array]


def as_function(layer: Layer | Loss) -> tuple[Function, Arrays]:
    """Make a pure function of a layer, network or loss, with the gradients of xplayers.

    Parameters
    ----------
    layer : Layer or Loss
        Its arrays are JAX's, or initial values, which become so.

    Returns
    -------
    function : Function
        ``function(params, x)``.
    params : dict
        The parameters by name, a pytree; after training ``layer.params.update(params)``.

    Raises
    ------
    TypeError
        If it is no layer, or has arrays of another library.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, xplayers as xl
    >>> from xplayers.jax import as_function
    >>> net, loss = xl.mlp([4, 8, 2], rng=0), xl.MeanSquaredError()
    >>> f, params = as_function(net)
    >>> @jax.jit
    ... def step(params, x, t):
    ...     grads = jax.grad(lambda params: jnp.mean((f(params, x) - t) ** 2))(params)
    ...     return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    >>> params = step(params, jnp.ones((3, 4)), jnp.zeros((3, 2)))
    >>> net.params.update(params)
    """
    instance("as_function", "layer", layer, Layer | Loss, "a layer or a loss of xplayers")
    if not all(v.materialized for v in layer._all_variables.values()):
        layer._materialize(jax.numpy.zeros(0))
    for name, a in layer.arrays.items():
        if library(a) != "jax":
            message = (
                f"as_function: {name} is a {library(a)} array; expected one of JAX. "
                "Call layer.to(xp=jax.numpy)."
            )
            raise TypeError(message)
    return Function(layer), dict(layer.params)


class Function:
    """A layer as a pure function, under any transformation of JAX: `as_function` makes it.

    Attributes
    ----------
    layer : Layer or Loss
        What it computes.
    state : dict
        The buffers of the layer by name, as they were: running statistics, counters of dropout.

    Notes
    -----
    ``function(params, x)`` computes as in training, by ``layer.apply``; its gradient is
    ``layer.vjp``, by ``jax.custom_vjp``. Both are operations of arrays that JAX differentiates
    again, so gradients of gradients are there. ``jax.jvp`` and with it ``jax.jacfwd`` and
    ``jax.hessian`` are not: take ``jax.jacrev`` of ``jax.jacrev``.

    With ``state=`` it returns the output and the state after it, which has no gradient. Without
    it, it computes with `state` each time: a dropout then drops the same elements again.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, xplayers as xl
    >>> from xplayers.jax import as_function
    >>> f, params = as_function(xl.Affine(jnp.asarray([[2.0], [3.0]])))
    >>> x = jnp.asarray([[1.0, 10.0]])
    >>> jax.grad(lambda params: f(params, x)[0, 0])(params)["W"].tolist()
    [[1.0], [10.0]]
    """

    def __init__(self, layer: Layer | Loss) -> None:
        self.layer, self.state = layer, dict(layer.buffers)
        self._apply = jax.custom_vjp(lambda *arguments: _forward(layer, *arguments)[0])
        self._apply.defvjp(
            lambda *arguments: _recorded(layer, *arguments),
            lambda residuals, dy: _backward(layer, residuals, dy),
            symbolic_zeros=True,
        )

    def __call__(
        self,
        params: Mapping[str, Array],
        x: Array,
        *inputs: Any,
        state: Mapping[str, Array] | None = None,
        train: bool = True,
        **named: Any,
    ) -> Any:
        """Return the output, and with a `state` also the state after it.

        Parameters
        ----------
        params : mapping
            The parameters by name.
        x : array
            The input; of a loss the scores.
        *inputs, **named : array
            Further inputs, as the layer takes them; of a loss the target.
        state : mapping, optional
            The buffers by name.
        train : bool
            False: the output for inference, by ``layer.infer``, which leaves the state as it is.

        Returns
        -------
        array, or array and dict
            The output; and the state, if one was passed.
        """
        layer: Any = self.layer
        self._check_names("params", params, [*layer.params])
        buffers: Any = self.state if state is None else state
        self._check_names("state", buffers, [*self.state])
        buffers = jax.lax.stop_gradient(dict(buffers))
        if isinstance(layer, Layer):
            check_input(layer._owner, x, params, integers=layer.integer_input)
            for name, a in buffers.items():
                check_same(layer._owner, name, a, x)
        if flag("as_function", "train", train) or isinstance(layer, Loss):
            y, updated = self._apply(dict(params), buffers, (x, inputs, named))
            buffers = {**buffers, **jax.lax.stop_gradient(updated)}
        else:
            y = layer.infer({**layer._ties.expanded(dict(params)), **buffers}, x, *inputs, **named)
        return y if state is None else (y, buffers)

    def _check_names(self, what: str, arrays: Any, expected: list[str]) -> None:
        if not isinstance(arrays, Mapping) or {*arrays} != {*expected}:
            got = ", ".join(map(str, arrays)) if isinstance(arrays, Mapping) else repr(arrays)
            message = (
                f"{self.layer._owner}: {what} has {got or 'nothing'}; "
                f"expected {', '.join(expected) or 'nothing'}."
            )
            raise ValueError(message)

    def __repr__(self) -> str:
        return f"<function of {self.layer!r}>"


@jax.tree_util.register_static
class _Inputs(tuple):
    """The structure of inputs, which are floating, and which are differentiated: constants."""


def _is_primal(a: Any) -> bool:
    return hasattr(a, "perturbed")


def _forward(layer: Any, params: Arrays, buffers: Arrays, call: tuple) -> tuple[Any, Any]:
    """Return output and changed buffers, and the cache."""
    x, inputs, named = call
    arrays = {**layer._ties.expanded(params), **buffers}
    if isinstance(layer, Loss):
        y, cache = layer._evaluate(x, *inputs, arrays=arrays, **named)
        return (y, {}), cache
    y, cache = layer.apply(arrays, x, *inputs, **named)
    return (y, layer.updated_buffers(arrays, cache)), cache


def _recorded(layer: Any, *primals: Any) -> tuple[Any, Any]:
    """Return the results, and what the gradient needs."""
    leaves, tree = jax.tree.flatten(primals[2], is_leaf=_is_primal)
    arguments = jax.tree.map(lambda a: a.value, primals, is_leaf=_is_primal)
    results, cache = _forward(layer, *arguments)
    floating = tuple([is_floating(a.value) for a in leaves])
    wanted = tuple([bool(a.perturbed) for a in leaves])
    return results, (cache, _Inputs((tree, floating, wanted)))


def _backward(layer: Any, residuals: tuple, results: tuple[Any, Any]) -> tuple[Any, None, Any]:
    """Return the gradients of parameters and inputs; None is zero."""
    cache, (tree, floating, wanted) = residuals
    dy, _ = results  # a changed buffer has no gradient
    if not hasattr(dy, "at"):  # a symbolic zero
        dy = jax.numpy.zeros(dy.shape, dy.dtype)
    grads: Mapping[str, Array] = {}
    dx = None
    if isinstance(layer, Loss):
        dx = layer.vjp(cache, dy)
    elif any(wanted):
        dx, grads = layer.vjp(cache, dy)
    else:
        grads = layer.param_grads(cache, dy)
    grads = layer._ties.gathered(grads)
    places: list[Any] = [None] * len(wanted)
    if wanted:
        _, inputs, named = jax.tree.unflatten(tree, map(Number, range(len(wanted))))
        others = ()
        if type(dx) is tuple:
            dx, *others = dx
        places[0] = dx
        if others:
            share_out(layer, others, inputs, named, places, floating)
    if any(need and d is None for need, d in zip(wanted, places, strict=True)):
        raise TypeError(without_gradient(layer._owner, "Stop it: jax.lax.stop_gradient(a)."))
    return {name: grads.get(name) for name in layer.params}, None, jax.tree.unflatten(tree, places)
