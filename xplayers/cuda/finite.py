"""Whether all values of CuPy arrays are finite: one kernel for all arrays of a dtype.

Nothing here has been run on a GPU yet; see `xplayers.cuda`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from xplayers._tape import Untraceable
from xplayers.cuda import kernels
from xplayers.cuda.rows import most_rows, table_of
from xplayers.cuda.source import THREADS, c_name, library, part

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
    cupy.ndarray or None
        0-d bool. None where an array is nothing for the kernel: not contiguous, of another dtype,
        or elsewhere.
    """
    first = arrays[0]
    by_dtype: dict[np.dtype, list[Any]] = {}
    for a in arrays:
        if kernels.layout(a) is None or a.data.device_id != first.data.device_id:
            return None
        by_dtype.setdefault(a.dtype, []).append(a)
    try:
        launchers = {dtype: _launcher(dtype) for dtype in by_dtype}
    except Untraceable:
        return None
    good = kernels.full(first, True)
    for dtype, members in by_dtype.items():
        for start in range(0, len(members), ROWS):
            some = [[a] for a in members[start : start + ROWS]]
            table, chunks = table_of(some, ROWS, CHUNK)
            if chunks:
                launchers[dtype](first.device, chunks, THREADS, [table, good])
    return good


def source(dtype: np.dtype) -> tuple[str, str]:
    """Return body and name of the kernel for a dtype."""
    if dtype.kind not in "fV":
        raise Untraceable
    name = "xplayers_all_finite"  # in profiles
    return _BODY.format(name=name, dtype=c_name(dtype)), name


@functools.cache
def template() -> str:
    """Return the source that the kernels for all dtypes share."""
    return f"{library()}\n{part('finite.cu')}"


@functools.cache
def _launcher(dtype: np.dtype) -> kernels.Launcher:
    body, name = source(dtype)
    return kernels.Launcher(f"{template()}\n{body}", name)


_BODY = f"""\
extern "C" __global__ void __launch_bounds__({THREADS})
{{name}}(const Rows<{ROWS}, 1> rows, bool* good)
{{{{
    all_finite<{CHUNK}, {{dtype}}>(rows, good);
}}}}
"""
