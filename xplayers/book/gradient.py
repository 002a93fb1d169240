"""``common.gradient``: differences of a function that looks at the array which it was not given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def numerical_gradient(f: Callable[[Any], Any], x: Any) -> Any:
    """Return the central differences of `f`, while the elements of `x` are changed in place.

    The step is the book's 1e-4, in which float32 has no digits left: there it is 5e-3.
    """
    if x.dtype.kind != "f":
        message = f"numerical_gradient: x is {x.dtype}, which would cut off the step; use floats."
        raise TypeError(message)
    h = 1e-4 if x.dtype == np.float64 else 5e-3
    gradient = x.copy()
    for index in np.ndindex(*x.shape):
        value, differences = float(x[index]), []
        for x[index] in (value + h, value - h):
            differences.append(float(f(x)))
        gradient[index] = (differences[0] - differences[1]) / (2 * h)
        x[index] = value
    return gradient


numerical_gradient_2d = numerical_gradient
