"""Mean and scale of the user's samples, as in scikit-learn's ``StandardScaler``.

All is computed in float64, whatever the dtype of the samples, and in blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xplayers.data.samples import blocks

MOST_COLUMNS = 10_000  # up to which each column has its mean and scale, which a file stores

Numbers = float | tuple[float, ...]


class Standard(NamedTuple):
    """Mean and scale, and the indices of constant columns.

    A table has a `mean` and a `scale` per column, other samples a single one.
    """

    mean: Numbers
    scale: Numbers
    constant: tuple[int, ...]


def standard(x: np.ndarray) -> Standard:
    """Return the standardisation of finite samples."""
    table = x.ndim == 2 and x.shape[1] <= MOST_COLUMNS
    columns = x.shape[1] if table else 1
    n = x.size // columns

    def parts():
        for _, part in blocks(x):
            yield part.reshape(-1, columns).astype(np.float64)

    # Relative to the first value, so that the mean of a constant column is exact.
    first = x[:1].reshape(1, -1)[:, :columns].astype(np.float64)[0]
    mean, reach = np.zeros(columns), np.zeros(columns)
    with np.errstate(over="ignore"):
        for part in parts():
            mean += np.sum(part - first, axis=0)
            reach = np.maximum(reach, np.max(np.abs(part - first), axis=0))
    if not np.isfinite(mean).all():
        message = f"the sum of column {int(np.argmin(np.isfinite(mean)))} overflows"
        raise ValueError(message)
    mean = first + mean / n

    # In units of a power of two, so that no square overflows or underflows.
    unit = np.ldexp(1.0, np.frexp(reach)[1] - 1)
    squares, rest = np.zeros(columns), np.zeros(columns)
    for part in parts():
        deviation = (part - mean) / unit
        squares += np.sum(deviation * deviation, axis=0)
        rest += np.sum(deviation, axis=0)  # rounding error of the mean
    variance = np.maximum(squares - rest * rest / n, 0) / n

    # Variances below the rounding error of such a sum are taken as 0.
    eps = np.finfo(np.float64).eps
    constant = variance <= n * eps * variance + (n * eps * (mean / unit)) ** 2
    scale = np.where(constant, 1.0, unit * np.sqrt(variance))
    indices = tuple(np.flatnonzero(constant).tolist())
    if table:
        return Standard(tuple(mean.tolist()), tuple(scale.tolist()), indices)
    return Standard(float(mean[0]), float(scale[0]), indices)
