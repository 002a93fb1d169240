"""How a loop becomes machine code, by Numba where it is installed, and when it is taken.

A kernel has other last digits than NumPy's calls, so nothing that may differ from one call to the
next decides: it is taken for so many elements, from the first call on. That call waits for Numba
(about a second) and, once on a machine, for the compiler (a second); Numba keeps machine code in
``__pycache__``, in the cache folder of the user where that cannot be written, or in
``NUMBA_CACHE_DIR``. With ``XPLAYERS_JIT=1`` in the environment kernels are taken for all sizes,
with ``0`` for none.

Numba sees that the file of a kernel has changed, not that another one has: what a kernel calls
stands in its file.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import numpy as np

from xplayers.accelerate.host.threads import share, usable_cores

LARGE = 1 << 16  # elements; of fewer, the call of a kernel saves nothing that one would notice
PART = 1 << 17  # elements that a thread takes at once
# Sums in lanes, as vectors need them, and products that are added without rounding. NaN and
# infinities stay what they are.
FAST = {"reassoc", "contract"}


class Kernel:
    """A function that is compiled when it is first called, for arguments of these types.

    The last two arguments are the parts of the work that a call does: from where to where.
    """

    def __init__(self, function: Callable[..., None], types: str) -> None:
        self.function, self.types = function, types
        self._loop: Any = None

    def __call__(self, *args: Any) -> None:
        """Run the loop, in this thread."""
        if self._loop is None:
            self._loop = compiled(self.function, self.types)
        self._loop(*args)

    def share(self, *args: Any, n: int, size: int) -> None:
        """Do `n` pieces of work of `size` elements each, in threads where that pays."""
        step = max(PART // max(size, 1), 1)
        if n <= step or usable_cores() == 1:
            self(*args, 0, n)
            return
        self(*args, 0, 0)  # compiled before there are two who would

        def run(starts: Iterator[int]) -> None:
            for start in starts:
                self._loop(*args, start, min(start + step, n))

        share(run, range(0, n, step))


def kernel(types: str) -> Callable[[Callable[..., None]], Kernel]:
    """Make a function a kernel, for arguments of these types.

    ``"const float32[2], float64[1], float64"`` is an array of two axes that is read, one of one
    axis that is written, and a number. Arrays have no gaps.
    """
    return lambda function: Kernel(function, types)


def are_usable(n: int) -> bool:
    """Whether `n` elements are left to a kernel."""
    return n >= smallest() and _numba() is not None


@functools.cache
def smallest() -> float:
    """Return the number of elements from which on kernels are taken."""
    if importlib.util.find_spec("numba") is None:
        return math.inf
    return {"0": math.inf, "1": 0}.get(os.environ.get("XPLAYERS_JIT", ""), LARGE)


def laid(a: np.ndarray) -> np.ndarray:
    """Return an array as kernels take it: the values in their order, without gaps."""
    flags = a.flags
    return a if flags.c_contiguous and flags.aligned else a.copy()


def compiled(function: Any, types: str) -> Any:
    """Return machine code of a function, from the cache on disk if it is there."""
    numba = _numba()
    function = _with_helpers(numba, function)
    signature = [_type(numba, name) for name in re.split(r",\s*", types)]
    make = functools.partial(
        numba.njit, tuple(signature), nogil=True, error_model="numpy", fastmath=FAST
    )
    try:
        return make(cache=True)(function)
    except RuntimeError:  # no folder can be written
        return make()(function)


def _with_helpers(numba: Any, function: Any) -> Any:
    """Return a function that calls machine code of those that it calls in its file."""
    known = dict(function.__globals__)
    if "float_of_bits" in known:
        known["float_of_bits"] = _intrinsic()
    for name, helper in function.__globals__.items():
        if isinstance(helper, FunctionType) and helper.__module__ == function.__module__:
            # Its own operations keep their order.
            compiler = numba.njit(error_model="numpy", fastmath={"contract"})
            known[name] = compiler(FunctionType(helper.__code__, known, name))
    return FunctionType(function.__code__, known, function.__name__)


def _type(numba: Any, name: str) -> Any:
    """Return the type of Numba for ``"const float32[2]"``, ``"float32[2]"`` or ``"float32"``."""
    match = re.fullmatch(r"(const )?(\w+)(?:\[(\d)\])?", name)
    assert match, name
    const, dtype, axes = match.groups()
    kind = getattr(numba.types, dtype)
    return numba.types.Array(kind, int(axes), "C", readonly=bool(const)) if axes else kind


@functools.cache
def _numba() -> Any:
    try:
        import numba
    except Exception as error:  # one that has not heard of this NumPy
        warnings.warn(f"xplayers: numba cannot be used: {error}", stacklevel=2)
        return None
    return numba


def float_of_bits(bits: Any) -> Any:
    """Return the float32 that has the bits of an int32; a kernel has an instruction for it."""
    return np.int32(bits).view(np.float32)


@functools.cache
def _intrinsic() -> Any:
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    @intrinsic
    def float_of_bits(context: Any, bits: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], ir.FloatType())

        return types.float32(types.int32), code

    return float_of_bits
