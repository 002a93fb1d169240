"""Mean and scale of the user's samples, as scikit-learn's ``StandardScaler`` finds them.

All of it is computed in float64, whatever the dtype of the samples, and a part of them at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xplayers.cli.arrays import blocks

MOST_COLUMNS = 10_000  # that are standardised one by one: a file has a mean for each

Numbers = float | tuple[float, ...]


class Standard(NamedTuple):
    """What is taken from values, what they are divided by then, and columns that have one value.

    Of a table there is a `mean` and a `scale` for each column, of other samples one of each.
    """

    mean: Numbers
    scale: Numbers
    constant: tuple[int, ...]


def standard(x: np.ndarray) -> Standard:
    """Return how to standardise samples, which have to be finite."""
    table = x.ndim == 2 and x.shape[1] <= MOST_COLUMNS
    columns = x.shape[1] if table else 1
    n = x.size // columns

    def parts():
        for _, part in blocks(x):
            yield part.reshape(-1, columns).astype(np.float64)

    # From the first value, so that a column of one value has that mean, to the last bit.
    first = x[:1].reshape(1, -1)[:, :columns].astype(np.float64)[0]
    mean, reach = np.zeros(columns), np.zeros(columns)
    with np.errstate(over="ignore"):
        for part in parts():
            mean += np.sum(part - first, axis=0)
            reach = np.maximum(reach, np.max(np.abs(part - first), axis=0))
    if not np.isfinite(mean).all():
        message = f"values in column {int(np.argmin(np.isfinite(mean)))} are too far apart to add"
        raise ValueError(message)
    mean = first + mean / n

    # In units of a power of two, so that no square is too large or too small.
    unit = np.ldexp(1.0, np.frexp(reach)[1] - 1)
    squares, rest = np.zeros(columns), np.zeros(columns)
    for part in parts():
        deviation = (part - mean) / unit
        squares += np.sum(deviation * deviation, axis=0)
        rest += np.sum(deviation, axis=0)  # which rounding has left in the mean
    variance = np.maximum(squares - rest * rest / n, 0) / n

    # What is smaller than the rounding of such a sum is no deviation.
    eps = np.finfo(np.float64).eps
    constant = variance <= n * eps * variance + (n * eps * (mean / unit)) ** 2
    scale = np.where(constant, 1.0, unit * np.sqrt(variance))
    found = tuple(np.flatnonzero(constant).tolist())
    if table:
        return Standard(tuple(mean.tolist()), tuple(scale.tolist()), found)
    return Standard(float(mean[0]), float(scale[0]), found)
