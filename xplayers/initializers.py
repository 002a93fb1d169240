"""Initial values of parameters: float64 on the host, from a NumPy generator.

They are drawn on the host so that a seed gives the same bits on every library. Fan-in and fan-out
follow from the shape: ``(n_in, n_out)`` for two axes, ``(n_out, n_in, *kernel)`` for a convolution.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from xplayers._calls import explained
from xplayers._checks import floating, function, generator, number, shown, sizes

__all__ = [
    "he_normal", "he_uniform", "lecun_normal", "normal", "orthogonal", "xavier_normal",
    "xavier_uniform", "zeros",
]  # fmt: skip

Rng: TypeAlias = "int | np.random.Generator | None"
Shape: TypeAlias = Sequence[int]
Initializer: TypeAlias = "Callable[[tuple[int, ...], Rng], np.ndarray]"
_Init = TypeVar("_Init", bound=Callable[..., Any])

# The common parameters in the docstring of every `init`.
_COMMON = """\
initializer : callable
    ``initializer(shape, rng)``, one of `xplayers.initializers` or of that form.
rng : int, numpy.random.Generator or None
    The random generator; an int is a seed.
dtype : str
    Floating dtype of the values.
like : array, optional
    Library, device and floating dtype of the parameters. By default those of the first input.

Returns
-------
Self
"""


def documented(init: _Init) -> _Init:
    """Complete the docstring of an `init` that ends in "As in every `init`."."""
    reference = re.search(r"( *)(\w+), [\w, ]+\n +As in every `init`\.\n", init.__doc__ or "")
    if reference:
        common = _COMMON[_COMMON.index(f"{reference[2]} : ") :]
        text = textwrap.indent(common, reference[1])
        init.__doc__ = reference.string[: reference.start()] + text
    return init


def drawn(
    owner: str, initializer: Callable[..., np.ndarray], shape: Shape, rng: Rng, dtype: Any
) -> np.ndarray:
    """Draw the initial values of a layer, ``initializer(shape, rng)`` in `dtype`, and check them.

    `owner` is the layer. The arguments of all layers are checked here.
    """
    shape = tuple(shape)
    function(owner, "initializer", initializer, "a function of shape and rng, as he_normal")
    if rng is not None:
        generator(owner, "rng", rng)
    values = initializer(shape, rng)
    if not isinstance(values, np.ndarray) or values.shape != shape:
        message = (
            f"{owner}: initializer returned {shown(values)}; expected a numpy.ndarray of shape "
            f"{shape}."
        )
        raise TypeError(message)
    return values.astype(floating(owner, "dtype", dtype))


def constant(owner: str, value: float, shape: Any, dtype: Any) -> np.ndarray:
    """Return constant initial values."""
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


@explained()
def he_normal(shape: Shape, rng: Rng = None) -> np.ndarray:
    """Normal values of variance ``2 / n_in``, for layers before a ReLU.

    Parameters
    ----------
    shape : sequence of int
        Two axes or more.
    rng : int, numpy.random.Generator or None
        The random generator; an int is a seed, None draws fresh entropy.

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

    Examples
    --------
    >>> W = he_normal((200, 100), rng=0)
    >>> W.shape, W.dtype
    ((200, 100), dtype('float64'))
    >>> round(float(W.std()), 2)
    0.1
    """
    return _normal("he_normal", shape, rng, 2.0 / _fans("he_normal", shape)[0])


@explained()
def he_uniform(shape: Shape, rng: Rng = None) -> np.ndarray:
    """Uniform values of variance ``2 / n_in``; see `he_normal`.

    Examples
    --------
    >>> W = he_uniform((200, 100), rng=0)
    >>> round(float(W.std()), 2), round(float(W.max()), 3)
    (0.1, 0.173)
    """
    return _uniform("he_uniform", shape, rng, 2.0 / _fans("he_uniform", shape)[0])


@explained()
def xavier_normal(shape: Shape, rng: Rng = None) -> np.ndarray:
    """Normal values of variance ``2 / (n_in + n_out)``, for sigmoid and tanh; also called Glorot.

    *Deep Learning from Scratch* uses ``1 / n_in`` under this name, which is `lecun_normal`.

    References
    ----------
    Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    AISTATS 2010, equation 12.

    Examples
    --------
    >>> W = xavier_normal((200, 100), rng=0)
    >>> round(float(W.std()), 3)
    0.081
    """
    return _normal("xavier_normal", shape, rng, 2.0 / sum(_fans("xavier_normal", shape)))


@explained()
def xavier_uniform(shape: Shape, rng: Rng = None) -> np.ndarray:
    """Uniform values of variance ``2 / (n_in + n_out)``; equation 16 of the same paper.

    Examples
    --------
    >>> W = xavier_uniform((200, 100), rng=0)
    >>> round(float(W.std()), 3), round(float(W.max()), 3)
    (0.081, 0.141)
    """
    return _uniform("xavier_uniform", shape, rng, 2.0 / sum(_fans("xavier_uniform", shape)))


@explained()
def lecun_normal(shape: Shape, rng: Rng = None) -> np.ndarray:
    """Normal values of variance ``1 / n_in``.

    References
    ----------
    LeCun, Bottou, Orr, Mueller, "Efficient BackProp", 1998, section 4.6.

    Examples
    --------
    >>> W = lecun_normal((200, 100), rng=0)
    >>> round(float(W.std()), 2)
    0.07
    """
    return _normal("lecun_normal", shape, rng, 1.0 / _fans("lecun_normal", shape)[0])


@explained()
def normal(shape: Shape, rng: Rng = None, *, std: float = 0.01) -> np.ndarray:
    """Normal values of standard deviation `std`: ``functools.partial(normal, std=0.02)``.

    Examples
    --------
    >>> import functools
    >>> import xplayers as xl
    >>> layer = xl.Affine.init(200, 100, initializer=functools.partial(normal, std=0.02), rng=0)
    >>> round(float(layer.W.std()), 3)
    0.02
    """
    std, shape = number("normal", "std", std, least=0), sizes("normal", "shape", shape)
    return _normal("normal", shape, rng, std * std)


@explained()
def zeros(shape: Shape, rng: Rng = None) -> np.ndarray:
    """Zeros. `rng` is unused; all initializers have the same signature.

    Examples
    --------
    >>> zeros((2, 3))
    array([[0., 0., 0.],
           [0., 0., 0.]])
    """
    del rng
    return np.zeros(sizes("zeros", "shape", shape, least=0))


@explained()
def orthogonal(shape: Shape, rng: Rng = None, *, gain: float = 1.0) -> np.ndarray:
    """Orthonormal rows or columns (whichever are fewer), times `gain`.

    Axes after the first are flattened. The distribution is uniform (Haar measure).

    References
    ----------
    Saxe, McClelland, Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks", ICLR 2014.

    Examples
    --------
    >>> import numpy as np
    >>> Q = orthogonal((3, 5), rng=0)
    >>> bool(np.allclose(Q @ Q.T, np.eye(3)))
    True
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
