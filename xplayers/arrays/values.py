"""Looking at values, which a step that stays on its device does not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from xplayers.arrays.namespaces import Array, library
from xplayers.arrays.operation import operation


@operation
def host_values(a: Array) -> np.ndarray | None:
    """Return an array as NumPy sees it, where its values may be looked at now; else None."""
    return a if type(a) is np.ndarray else None


@operation
def host_number(a: Array) -> Any:
    """Return a 0-d array as a Python number, where that needs no transfer; else None."""
    return a.item() if isinstance(a, np.generic | np.ndarray) else None


@operation
def examine(x: Array, check: Callable[..., None], *args: Any) -> None:
    """Call ``check(x, *args)``, which raises if a value is wrong, now and in every replay."""
    check(x, *args)


def quiet(x: Array) -> contextlib.AbstractContextManager[Any]:
    """Return a context without warnings of NumPy, with which some libraries compute.

    PyTorch does not, and its compiler cannot follow what sets them.
    """
    return contextlib.nullcontext() if library(x) == "torch" else np.errstate(all="ignore")
