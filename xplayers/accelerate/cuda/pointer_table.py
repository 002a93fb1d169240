"""The table by which a kernel finds many arrays, each of a size of its own.

It is an argument of the kernel, passed by value, so that a captured graph keeps it: ``Rows`` in
``prelude.cuh``. A row is what a function takes of one size, as a parameter, its gradient and its
moments; the blocks share out chunks of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Arguments of a kernel are 4096 bytes at most where not all is new; scalars need some of them.
TABLE_BYTES = 3584


def most_rows(arrays: int) -> int:
    """Return how many rows of so many arrays a table has place for."""
    return min(64, (TABLE_BYTES - 8) // (8 * (arrays + 1) + 4))


def table_type(rows: int, arrays: int) -> np.dtype:
    """Return the type of a table for at most so many rows, each of so many arrays."""
    fields = [("n", "<i8", (rows,)), ("at", "<u8", (arrays, rows)), ("start", "<i4", (rows + 1,))]
    return np.dtype([*fields, ("count", "<i4")], align=True)


def table_of(rows: Sequence[Sequence[Any]], most: int, chunk: int) -> tuple[np.ndarray, int]:
    """Return the table of CuPy arrays, and how many chunks there are in all.

    As CuPy takes structures by value, it is an array of one. There is place for `most` rows.
    """
    table, chunks = np.zeros(1, table_type(most, len(rows[0]))), 0
    (n,), (at,), (starts,) = table["n"], table["at"], table["start"]
    for i, arrays in enumerate(rows):
        n[i], at[:, i] = arrays[0].size, [a.data.ptr for a in arrays]
        chunks += -(-arrays[0].size // chunk)
        starts[i + 1] = chunks
    table["count"] = len(rows)
    return table, chunks
