"""Random augmentation of images, on their device."""

from __future__ import annotations

from xplayers._calls import explained
from xplayers._checks import generator, integer
from xplayers.arrays.namespaces import Array, device, namespace
from xplayers.arrays.transfer import asarray
from xplayers.initializers import Rng

__all__ = ["random_flip", "random_shift"]


@explained()
def random_shift(x: Array, largest: int, rng: Rng = None) -> Array:
    """Shift each image by a random number of pixels along each axis, with zero padding.

    Equivalent to padding the image by `largest` zeros on each side and a random crop of the
    original size.

    Parameters
    ----------
    x : array of shape (n, channels, height, width)
        Images of any dtype.
    largest : int
        Shifts are uniform from ``-largest`` to ``largest``.
    rng : int, numpy.random.Generator or None
        The generator of the shifts, which are drawn on the host, two integers per image; an int is
        a seed.

    Returns
    -------
    array
        A new array of the shape and dtype of `x`; the channels of an image are shifted together.

    Raises
    ------
    ValueError
        If `x` is not 4-d, or `largest` is negative.

    Notes
    -----
    torchvision's ``RandomCrop(size, padding)`` draws one position for all images of a batch; here
    each image has its own.

    Examples
    --------
    >>> import numpy as np
    >>> random_shift(np.arange(1, 10).reshape(1, 1, 3, 3), 1, rng=2)[0, 0]
    array([[0, 4, 5],
           [0, 7, 8],
           [0, 0, 0]])
    """
    xp = namespace(x, "random_shift")
    n, channels, height, width = _images("random_shift", x)
    largest = integer("random_shift", "largest", largest, least=0, in_range="0 or more")
    rng = generator("random_shift", "rng", rng)
    where, index_dtype = device(x), xp.arange(0).dtype
    shifts = asarray(rng.integers(-largest, largest, (2, n), endpoint=True), x, index_dtype)
    down, right = xp.reshape(shifts[0, ...], (n, 1)), xp.reshape(shifts[1, ...], (n, 1))
    # The source of each pixel; those from outside are arbitrary, because they become zero.
    rows = xp.arange(height, device=where) + down
    columns = xp.arange(width, device=where) + right
    inside = xp.reshape((rows >= 0) & (rows < height), (n, 1, height, 1)) & xp.reshape(
        (columns >= 0) & (columns < width), (n, 1, 1, width)
    )
    rows = xp.reshape(rows % height, (n, 1, height, 1))
    columns = xp.reshape(columns % width, (n, 1, 1, width))
    planes = xp.reshape(xp.arange(n * channels, device=where), (n, channels, 1, 1))
    index = xp.reshape((planes * height + rows) * width + columns, (-1,))
    moved = xp.reshape(xp.take(xp.reshape(x, (-1,)), index, axis=0), tuple(x.shape))
    return xp.where(inside, moved, xp.zeros_like(moved))


@explained()
def random_flip(x: Array, rng: Rng = None) -> Array:
    """Flip each image horizontally with probability 1/2.

    Parameters
    ----------
    x : array of shape (n, channels, height, width)
        Images of any dtype.
    rng : int, numpy.random.Generator or None
        The generator, on the host; an int is a seed.

    Returns
    -------
    array
        A new array of the shape and dtype of `x`.

    Raises
    ------
    ValueError
        If `x` is not 4-d.

    Examples
    --------
    >>> import numpy as np
    >>> random_flip(np.arange(6).reshape(2, 1, 1, 3), rng=0).tolist()
    [[[[2, 1, 0]]], [[[5, 4, 3]]]]
    """
    xp = namespace(x, "random_flip")
    n = _images("random_flip", x)[0]
    flipped = asarray(generator("random_flip", "rng", rng).integers(0, 2, n) == 1, x, xp.bool)
    return xp.where(xp.reshape(flipped, (n, 1, 1, 1)), xp.flip(x, axis=-1), x)


def _images(owner: str, x: Array) -> tuple[int, ...]:
    if len(x.shape) != 4:
        message = (
            f"{owner}: x has shape {tuple(x.shape)}; expected images (n, channels, height, width)."
        )
        raise ValueError(message)
    return tuple(x.shape)
