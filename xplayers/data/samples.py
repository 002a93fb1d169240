"""Checks of people's samples, which may be a file mapped to memory: in blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

BLOCK = 2**23  # bytes of float64 to process at a time


def blocks(x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield samples in small blocks, each with the index of its first sample."""
    rows = max(BLOCK // (8 * max(math.prod(x.shape[1:]), 1)), 1)
    for start in range(0, len(x), rows):
        yield start, np.asarray(x[start : start + rows])


def check_numbers(x: np.ndarray, name: str) -> None:
    """Check that samples are finite numbers, and not empty."""
    if x.dtype.kind not in "biuf":
        message = f"{name} is {x.dtype}; expected numbers"
        raise ValueError(message)
    if 0 in x.shape[1:]:
        message = f"{name} has shape {x.shape}: its samples are empty"
        raise ValueError(message)
    if x.dtype.kind == "f":
        for start, part in blocks(x):
            check_finite(part, name, start)


def check_finite(part: np.ndarray, name: str, start: int = 0, why: str = "") -> None:
    """Check that rows are finite; the first one is row `start` of `name`."""
    if np.isfinite(part).all():
        return
    first = np.unravel_index(int(np.argmin(np.isfinite(part))), part.shape)
    inside = ", ".join(str(int(i)) for i in first[1:])
    at = f"column {inside}" if part.ndim == 2 else f"at [{inside}]"
    message = (
        f"{name} has values that are not finite: row {start + int(first[0])}, {at} (from 0) is "
        f"{part[first]}{why or '; replace such values, or remove their rows'}"
    )
    raise ValueError(message)
