"""What is asked of all gradients at once, in one kernel for all CuPy arrays of a dtype."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from xplayers.accelerate.cuda import kernels
from xplayers.accelerate.cuda.pointer_table import most_rows, table_of
from xplayers.accelerate.cuda.source import THREADS, c_name, library, part
from xplayers.accelerate.cuda.sums import total
from xplayers.accelerate.tape import Untraceable

CHUNK = 16 * THREADS  # elements that a block takes at once
ROWS = most_rows(1)


def all_finite(arrays: Sequence[Any]) -> Any:
    """Return whether all values are finite.

    Parameters
    ----------
    arrays : sequence of cupy.ndarray
        float16, bfloat16, float32 or float64, on one device.

    Returns
    -------
    cupy.ndarray or NotImplemented
        0-d bool. NotImplemented where an array is nothing for the kernel: not contiguous, of
        another dtype, or elsewhere.
    """
    tables = _tables(arrays)
    if tables is None:
        return NotImplemented
    good = kernels.full(arrays[0], True)
    for dtype, table, chunks in tables:
        launcher = _launcher("all_finite", dtype, np.dtype(bool))
        launcher(arrays[0].device, chunks, THREADS, [table, good])
    return good


def sum_of_squares(arrays: Sequence[Any]) -> Any:
    """Return the sum of the squares of all values, added up in float64.

    Parameters
    ----------
    arrays : sequence of cupy.ndarray
        As in `all_finite`, but float64: no square of the others overflows in it or becomes 0.

    Returns
    -------
    tuple of cupy.ndarray, or NotImplemented
        0-d float64. The same bits from launch to launch. Nothing as in `all_finite`, and where
        there is no element.
    """
    tables = _tables(arrays)
    if not tables or any(dtype == np.float64 for dtype, _, _ in tables):
        return NotImplemented
    first, wide = arrays[0], np.dtype(np.float64)  # it is memory that takes the time
    sums = kernels.empty(first, (sum(chunks for _, _, chunks in tables),), wide)
    start = 0
    for dtype, table, chunks in tables:
        launcher = _launcher("sums_of_squares", dtype, wide)
        launcher(first.device, chunks, THREADS, [table, sums[start:]])
        start += chunks
    return (total(sums),)


def _tables(arrays: Sequence[Any]) -> list[tuple[np.dtype, np.ndarray, int]] | None:
    """Return dtype, table and number of chunks for each launch; None where there is no kernel."""
    by_dtype: dict[np.dtype, list[Any]] = {}
    for a in arrays:
        fits = a.dtype.kind in "fV" and kernels.layout(a) is not None
        if not fits or a.data.device_id != arrays[0].data.device_id:
            return None
        by_dtype.setdefault(a.dtype, []).append([a])
    try:
        for dtype in by_dtype:
            c_name(dtype)
    except Untraceable:
        return None
    tables = [
        (dtype, *table_of(members[start : start + ROWS], ROWS, CHUNK))
        for dtype, members in by_dtype.items()
        for start in range(0, len(members), ROWS)
    ]
    return [table for table in tables if table[2]]  # that has chunks


def source(operation: str, dtype: np.dtype, out: np.dtype) -> tuple[str, str]:
    """Return body and name of the kernel for arrays of a dtype, and results of another."""
    memory = c_name(dtype)
    name = f"xplayers_{operation}"  # in profiles
    return _BODY.format(name=name, operation=operation, memory=memory, out=c_name(out)), name


@functools.cache
def template() -> str:
    """Return the source that the kernels for all dtypes share."""
    return "\n".join([library(), part("warps.cuh"), part("gradients.cu")])


@functools.cache
def _launcher(operation: str, dtype: np.dtype, out: np.dtype) -> kernels.Launcher:
    body, name = source(operation, dtype, out)
    return kernels.Launcher(f"{template()}\n{body}", name)


_BODY = f"""\
extern "C" __global__ void __launch_bounds__({THREADS})
{{name}}(const Rows<{ROWS}, 1> rows, {{out}}* out)
{{{{
    {{operation}}<{CHUNK}, {THREADS // 32}, {{memory}}>(rows, out);
}}}}
"""
