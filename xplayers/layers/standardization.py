"""Standardization of samples by the mean and the deviation of a training set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from xplayers._calls import explained
from xplayers._checks import integer, one_by_one
from xplayers.arrays.checks import check_floating, check_parameter, check_real
from xplayers.arrays.namespaces import (
    Array,
    downcast_like,
    is_floating,
    namespace,
    upcast,
    widest_floating,
)
from xplayers.initializers import constant
from xplayers.layers.base import Cache, Layer
from xplayers.layers.normalization import mean_over
from xplayers.layers.variables import Buffer


class Standardize(Layer):
    """Standardize samples by values of a training set, ``y = (x - mean) / scale``.

    As the first layer of a network it is saved with it, and `predict` takes samples as they come.
    Backward: ``dx = dy / scale``.

    Parameters
    ----------
    mean, scale : array
        Of a shape that broadcasts to that of a sample: ``(n_features,)``, ``(n_channels, 1, 1)``.
        They are buffers, which no optimizer changes.

    Raises
    ------
    ValueError, TypeError
        If they differ in shape, library, device or dtype, or are not of floating point.

    See Also
    --------
    Standardize.fit : computes `mean` and `scale`.
    BatchNormalization : takes the statistics of each batch.

    Notes
    -----
    scikit-learn's ``StandardScaler`` for samples of features, with the same values; also for
    images. For 16-bit samples mean and scale are float32.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([[0.0, 5.0], [2.0, 5.0]])
    >>> layer = Standardize.fit(x)
    >>> layer.predict(x)
    array([[-1.,  0.],
           [ 1.,  0.]])
    >>> layer.inverse(layer.predict(x))
    array([[0., 5.],
           [2., 5.]])
    """

    mean, scale = Buffer(), Buffer()

    def __init__(self, mean: Array, scale: Array) -> None:
        self.mean, self.scale = mean, scale
        check_floating("Standardize", "mean", mean)
        check_parameter("Standardize", "scale", scale, mean, "mean", tuple(mean.shape))

    @classmethod
    def init(cls, *shape: int, dtype: str = "float32", like: Array = None) -> Self:
        """Make a layer with `mean` 0 and `scale` 1 of `shape`, to load into."""
        shape = one_by_one("Standardize", "shape", shape, "Standardize.init", least=1)
        ones = constant("Standardize", 1.0, shape, dtype)
        return cls(0.0 * ones, ones)._materialize_at(like)

    @classmethod
    @explained()
    def fit(cls, x: Array, axis: int | tuple[int, ...] = 0) -> Self:
        """Make a layer with the mean and the standard deviation of samples.

        Parameters
        ----------
        x : array of shape (n, ...)
            Training samples, of any real dtype; at least one.
        axis : int or tuple of int
            Axes that share their statistics, with the first one: 0 for each feature, ``(0, 2, 3)``
            for each channel of images.

        Returns
        -------
        Standardize
            With arrays of the dtype of `x`, at least float32. The deviation divides by ``n``;
            where all values are equal the scale is 1.

        Raises
        ------
        ValueError
            If there are no samples, an axis is out of range, or 0 is not among them.
        TypeError
            If `x` is not of real numbers.
        """
        xp = namespace(x, "Standardize.fit", "x")
        check_real("Standardize.fit", "x", x)
        is_one = not isinstance(axis, tuple | list)
        axes = (integer("Standardize.fit", "axis", axis, least=0),) if is_one else tuple(axis)
        ndim = len(x.shape)
        if 0 not in axes or not all(a in range(ndim) for a in axes):
            message = (
                f"Standardize.fit: axis is {axis!r}, x has shape {tuple(x.shape)}; expected axes "
                "of x, and 0 among them."
            )
            raise ValueError(message)
        if 0 in x.shape:
            message = f"Standardize.fit: x has shape {tuple(x.shape)}; there are no samples."
            raise ValueError(message)
        wide = xp.astype(x, widest_floating(x))
        # Relative to a first value: equal values then have a deviation of exactly 0.
        first = wide[tuple(slice(0, 1) if a in axes else slice(None) for a in range(ndim))]
        shift = mean_over(xp, wide - first, axes)
        deviation = xp.sqrt(mean_over(xp, xp.square(wide - first - shift), axes))
        scale = xp.where(deviation > 0, deviation, 1.0)
        dtype = upcast(xp, x).dtype if is_floating(x) else xp.float32
        return cls(*(xp.astype(a[0, ...], dtype) for a in (first + shift, scale)))

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        xp, shape, own = namespace(x), tuple(x.shape[1:]), tuple(self.mean.shape)
        fits = len(own) == len(shape) and all(a in (1, n) for a, n in zip(own, shape, strict=True))
        if own and not fits:
            message = f"{self}: x has shape {tuple(x.shape)}; mean has shape {own}."
            raise ValueError(message)
        wide = upcast(xp, x)
        mean, scale = (xp.astype(arrays[name], wide.dtype, copy=False) for name in arrays)
        return downcast_like((wide - mean) / scale, x), (scale,)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        (scale,) = cache
        return downcast_like(upcast(namespace(dy), dy) / scale, dy), {}

    def inverse(self, y: Array) -> Array:
        """Return the samples ``y * scale + mean``."""
        xp = namespace(y, "Standardize.inverse", "y")
        wide = upcast(xp, y)
        mean, scale = (xp.astype(a, wide.dtype, copy=False) for a in (self.mean, self.scale))
        return downcast_like(wide * scale + mean, y)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.mean.shape
