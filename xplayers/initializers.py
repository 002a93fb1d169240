"""Initial values of parameters: float64 on the host, from a NumPy generator.

They are drawn on the host so that one seed gives the same bits on every library. The shape decides
the fans: ``(n_in, n_out)`` for two axes, ``(n_out, n_in, *kernel)`` for a convolution.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from xplayers._checks import floating, function, generator, number, shown, sizes

__all__ = [
    "he_normal", "he_uniform", "lecun_normal", "normal", "orthogonal", "xavier_normal",
    "xavier_uniform", "zeros",
]  # fmt: skip

Rng: TypeAlias = "int | np.random.Generator | None"
Shape: TypeAlias = Sequence[int]
_Init = TypeVar("_Init", bound=Callable[..., Any])

# The end of the documentation of every `init`.
_EVERY = """\
initializer : callable
    ``initializer(shape, rng)``, one of `xplayers.initializers` or of that form.
rng : int, numpy.random.Generator or None
    The source of the values; an int is a seed.
dtype : str
    Floating dtype of the values.
like : array, optional
    Make the parameters of its library, on its device and of its floating dtype. Without it
    they follow the first input in all three.

Returns
-------
Self
"""


def documented(init: _Init) -> _Init:
    """Write out the end of the documentation of an `init`, which says "as in every `init`"."""
    named = re.search(r"( *)(\w+), [\w, ]+\n +As in every `init`\.\n", init.__doc__ or "")
    if named:
        end = _EVERY[_EVERY.index(f"{named[2]} : ") :]
        init.__doc__ = named.string[: named.start()] + textwrap.indent(end, named[1])
    return init


def drawn(
    owner: str, initializer: Callable[..., np.ndarray], shape: Shape, rng: Rng, dtype: Any
) -> np.ndarray:
    """Return the initial values of a layer, checked: ``initializer(shape, rng)`` in `dtype`.

    `owner` is the layer. What a layer is made of is checked here, for all of them.
    """
    shape = tuple(shape)
    function(owner, "initializer", initializer, "a function of shape and rng, as he_normal")
    if rng is not None:
        generator(owner, "rng", rng)
    made = initializer(shape, rng)
    if not isinstance(made, np.ndarray) or made.shape != shape:
        message = (
            f"{owner}: initializer made {shown(made)}; expected a numpy.ndarray of shape {shape}."
        )
        raise TypeError(message)
    return made.astype(floating(owner, "dtype", dtype))


def constant(owner: str, value: float, shape: Any, dtype: Any) -> np.ndarray:
    """Return initial values that are all the same."""
    return np.full(shape, value, floating(owner, "dtype", dtype))


def _fans(owner: str, shape: Shape) -> tuple[int, int]:
    shape = sizes(owner, "shape", shape)
    if len(shape) < 2:
        message = f"{owner}: shape {shape} has no fans; expected two axes or more."
        raise ValueError(message)
    if len(shape) == 2:
        return shape[0], shape[1]
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def _normal(owner: str, shape: Shape, rng: Rng, variance: float) -> np.ndarray:
    return generator(owner, "rng", rng).normal(0.0, math.sqrt(variance), tuple(shape))


def _uniform(owner: str, shape: Shape, rng: Rng, variance: float) -> np.ndarray:
    limit = math.sqrt(3.0 * variance)
    return generator(owner, "rng", rng).uniform(-limit, limit, tuple(shape))


def he_normal(shape: Shape, rng: Rng = None) -> np.ndarray:
    """Normal values of variance ``2 / n_in``, for layers that a ReLU follows.

    Parameters
    ----------
    shape : sequence of int
        Two axes or more.
    rng : int, numpy.random.Generator or None
        The source of the values; an int is a seed, None is fresh entropy.

    Returns
    -------
    numpy.ndarray
        float64 values of that shape.

    Raises
    ------
    ValueError
        If the shape has fewer than two axes.

    References
    ----------
    He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, equation 10.
    """
    return _normal("he_normal", shape, rng, 2.0 / _fans("he_normal", shape)[0])


def he_uniform(shape: Shape, rng: Rng = None) -> np.ndarray:
    """Uniform values of variance ``2 / n_in``; see `he_normal`."""
    return _uniform("he_uniform", shape, rng, 2.0 / _fans("he_uniform", shape)[0])


def xavier_normal(shape: Shape, rng: Rng = None) -> np.ndarray:
    """Normal values of variance ``2 / (n_in + n_out)``, for sigmoid and tanh; also called Glorot.

    *Deep Learning from Scratch* uses ``1 / n_in`` under this name, which is `lecun_normal`.

    References
    ----------
    Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    AISTATS 2010, equation 12.
    """
    return _normal("xavier_normal", shape, rng, 2.0 / sum(_fans("xavier_normal", shape)))


def xavier_uniform(shape: Shape, rng: Rng = None) -> np.ndarray:
    """Uniform values of variance ``2 / (n_in + n_out)``; equation 16 of the same paper."""
    return _uniform("xavier_uniform", shape, rng, 2.0 / sum(_fans("xavier_uniform", shape)))


def lecun_normal(shape: Shape, rng: Rng = None) -> np.ndarray:
    """Normal values of variance ``1 / n_in``.

    References
    ----------
    LeCun, Bottou, Orr, Mueller, "Efficient BackProp", 1998, section 4.6.
    """
    return _normal("lecun_normal", shape, rng, 1.0 / _fans("lecun_normal", shape)[0])


def normal(shape: Shape, rng: Rng = None, *, std: float = 0.01) -> np.ndarray:
    """Normal values of standard deviation `std`: ``functools.partial(normal, std=0.02)``."""
    std, shape = number("normal", "std", std, least=0), sizes("normal", "shape", shape)
    return _normal("normal", shape, rng, std * std)


def zeros(shape: Shape, rng: Rng = None) -> np.ndarray:
    """Zeros. `rng` is there because every initializer is called in the same way."""
    del rng
    return np.zeros(sizes("zeros", "shape", shape, least=0))


def orthogonal(shape: Shape, rng: Rng = None, *, gain: float = 1.0) -> np.ndarray:
    """Rows or columns (whichever are fewer) that are orthonormal, times `gain`.

    Axes after the first are taken together. The distribution is uniform (Haar measure).

    References
    ----------
    Saxe, McClelland, Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks", ICLR 2014.
    """
    _fans("orthogonal", shape)
    gain = number("orthogonal", "gain", gain)
    rows, columns = shape[0], math.prod(shape[1:])
    values = generator("orthogonal", "rng", rng).normal(
        size=(max(rows, columns), min(rows, columns))
    )
    q, r = np.linalg.qr(values)
    q *= np.sign(np.diagonal(r))  # makes the factorisation, and so the distribution, unique
    return gain * (q if rows >= columns else q.T).reshape(tuple(shape))
