"""Multilayer perceptrons: networks of affine maps and activations."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from xplayers._calls import explained
from xplayers._checks import generator, shown
from xplayers._checks import sizes as checked_sizes
from xplayers.arrays.namespaces import Array
from xplayers.initializers import Rng, he_normal, xavier_normal
from xplayers.layers.activations import Relu, Sigmoid, Softmax, Tanh, activation_named
from xplayers.layers.affine import Affine
from xplayers.layers.base import Layer
from xplayers.layers.containers import Sequential


def make_activation(owner: str, activation: Any) -> Layer:
    """Call the factory `activation` and return its layer."""
    if isinstance(activation, type) and issubclass(activation, Layer):
        return activation()
    layer, hint = None, ""
    if isinstance(activation, Layer):
        hint = f" Pass the class, {type(activation).__name__}, or lambda: {activation!r}."
    elif callable(activation):
        with contextlib.suppress(IndexError, TypeError):  # a function of arrays
            layer = activation()
    if isinstance(layer, Layer):
        return layer
    name = activation if isinstance(activation, str) else getattr(activation, "__name__", "")
    if not hint and activation_named(name):
        hint = f" Pass activation={activation_named(name)}."
    expected = "a callable that returns a layer, as the class Relu"
    message = f"{owner}: activation is {shown(activation)}; expected {expected}.{hint}"
    raise TypeError(message)


@explained()
def mlp(
    sizes: Sequence[int],
    activation: Callable[[], Layer] = Relu,
    rng: Rng = None,
    *,
    dtype: str = "float32",
    like: Array = None,
) -> Sequential:
    """Make a multilayer perceptron: affine maps with an activation between them.

    Parameters
    ----------
    sizes : sequence of int
        Width of the input, of each hidden layer, and of the output.
    activation : callable
        A factory of activations: a class as `Relu`, or ``lambda: LeakyRelu(0.1)``.
    rng : int, numpy.random.Generator or None
        The source of the initial values; an int is a seed.
    dtype : str
        Floating dtype of the parameters.
    like : array, optional
        Library and device of the parameters, as in `Affine.init`.

    Returns
    -------
    Sequential
        The initial values are `xavier_normal` before `Sigmoid`, `Tanh` and `Softmax`, else
        `he_normal`.

    Raises
    ------
    ValueError
        If there are fewer than two sizes, or one is not positive.

    Examples
    --------
    >>> from xplayers import mlp
    >>> mlp([784, 50, 10], rng=0)
    Sequential(
        Affine.init(784, 50),
        Relu(),
        Affine.init(50, 10),
    )
    """
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        widths = [sizes, *([activation] if isinstance(activation, int) else [])]
        hint = f" Write mlp({widths})." if len(widths) > 1 else ""
        message = f"mlp: sizes is {shown(sizes)}; expected a list of widths, as [784, 100, 10]."
        raise TypeError(message + hint)
    sizes = checked_sizes("mlp", "sizes", sizes, least=None)
    if len(sizes) < 2 or min(sizes) < 1:
        message = f"mlp: sizes is {list(sizes)}; expected two positive widths or more."
        raise ValueError(message)
    rng = generator("mlp", "rng", rng)
    layers: list[Layer] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers.append(make_activation("mlp", activation))
        initializer = (
            xavier_normal if isinstance(layers[-1], Sigmoid | Tanh | Softmax) else he_normal
        )
        layers.append(
            Affine.init(n_in, n_out, initializer=initializer, rng=rng, dtype=dtype, like=like)
        )
    return Sequential(*layers[1:])
