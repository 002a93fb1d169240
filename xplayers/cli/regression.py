"""How far the predictions of a regression are from the targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def errors_of(y: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """Return R2, and the mean absolute and the root mean squared error, of all values.

    R2 is ``1 - sum((t - y)**2) / sum((t - mean(t))**2)``, the mean over the columns; 0 where the
    targets are equal.
    """
    y, t = (a.reshape(len(a), -1).astype(np.float64) for a in (y, t))
    squares, total = np.sum((t - y) ** 2, axis=0), np.sum((t - t.mean(axis=0)) ** 2, axis=0)
    r2 = np.where(total > 0, 1.0 - squares / np.where(total > 0, total, 1.0), 0.0)
    return {
        "r2": float(np.mean(r2)),
        "mean_absolute_error": float(np.mean(np.abs(t - y))),
        "root_mean_squared_error": float(np.sqrt(np.mean((t - y) ** 2))),
    }


def described(results: Mapping[str, Any]) -> str:
    """Return the errors in words."""
    return (
        f"R2 {results['r2']:.4f}, mean absolute error {results['mean_absolute_error']:.4g}, "
        f"root mean squared error {results['root_mean_squared_error']:.4g}"
    )
