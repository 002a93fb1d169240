"""Layer normalization and RMS normalization of CuPy arrays, in one kernel forward.

Backward it is one, and the sum of what its threads have added up for gamma and beta. Squares are
scaled where they do not fit, as in the portable code.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from xplayers.accelerate.cuda import kernels
from xplayers.accelerate.cuda.source import c_name, inside, library, part
from xplayers.accelerate.cuda.sums import column_sums
from xplayers.accelerate.tape import Untraceable
from xplayers.arrays.units import UNITS

_HELD = (1, 2, 4, 8, 16)  # values that a thread keeps
_ONE_WARP = 256  # up to so many columns a row is read by one warp, above by a block
_WARPS = 8  # of a block that reads a row
_THREADS = 128  # of a block of rows that are read by one warp each
_PARTS = {1: 1020, _WARPS: 255}  # of the rows, by warps; a sum over 255 is one launch
# Threads for which a multiprocessor has room, forward and backward, by the bytes of numbers.
_RESIDENT = {
    ("normalization", 4): 1024, ("normalization", 8): 512,
    ("normalization_grads", 4): 512, ("normalization_grads", 8): 256,
}  # fmt: skip


def layer_normalization(x: Any, gamma: Any, beta: Any, eps: float) -> Any:
    """Return ``y``, None for ``xh``, ``r`` and the mean of each row.

    Parameters
    ----------
    x : cupy.ndarray
        Contiguous; float16, bfloat16, float32 or float64. Rows are its last axes, as `gamma` has.
    gamma, beta : cupy.ndarray
        Contiguous, of one floating-point dtype.
    eps : float
        Added to the variance.

    Returns
    -------
    tuple or NotImplemented
        ``r`` and mean are in float32, or float64 as `x` is. NotImplemented for other arrays, and
        for rows that are longer than what the threads of a block keep.
    """
    results = _normalized(x, gamma, beta, eps)
    return results if results is NotImplemented else (results[0], None, *results[1:])


def rms_normalization(x: Any, gamma: Any, eps: float) -> Any:
    """Return ``y``, None for ``xh`` and ``r`` of each row; arguments as above."""
    results = _normalized(x, gamma, None, eps)
    return results if results is NotImplemented else (results[0], None, results[1])


def layer_normalization_gradient(
    dy: Any, x: Any, gamma: Any, xh: Any, mean: Any, r: Any
) -> tuple[Any, Any, Any]:
    """Return the gradients of `x`, gamma and beta, of what the forward has kept."""
    return _gradients(dy, x, gamma, xh, r, centred=True)


def rms_normalization_gradient(dy: Any, x: Any, gamma: Any, xh: Any, r: Any) -> tuple[Any, Any]:
    """Return the gradients of `x` and gamma, of what the forward has kept."""
    return _gradients(dy, x, gamma, xh, r, centred=False)


def _normalized(x: Any, gamma: Any, beta: Any, eps: float) -> Any:
    params = [gamma] if beta is None else [gamma, beta]
    launcher, sizes, threads = _prepared("normalization", [x], params)
    if launcher is None:
        return NotImplemented
    wide = inside(x.dtype)
    low = UNITS[wide.name][0]
    shape = (*x.shape[: x.ndim - gamma.ndim], *[1] * gamma.ndim)
    y = kernels.empty(x, x.shape, x.dtype)
    statistics = [kernels.empty(x, shape, wide) for _ in params]  # r, and the mean beside a beta
    # Beside an eps that is larger, squares that are 0 do not count.
    scalars = [wide.type(eps), wide.type(low if eps <= low**3 else 0.0)]
    blocks = -(-sizes[0] * _warps(sizes[1]) * 32 // threads)
    launcher(x.device, blocks, threads, [*sizes, x, *params, y, *statistics, *scalars])
    return y, *statistics


def _gradients(dy: Any, x: Any, gamma: Any, xh: Any, r: Any, *, centred: bool) -> Any:
    wide = inside(x.dtype)
    if xh is not None or r.dtype != wide or not r.flags.c_contiguous:
        return NotImplemented
    launcher, (rows, columns), threads = _prepared(
        "normalization_grads", [x, dy], [gamma] * (2 if centred else 1)
    )
    if launcher is None:
        return NotImplemented
    warps = _warps(columns)
    parts = min(int(rows), _PARTS[warps])
    dx = kernels.empty(x, x.shape, x.dtype)
    sums = kernels.empty(x, (parts, (2 if centred else 1) * int(columns)), wide)
    blocks = -(-parts * warps * 32 // threads)
    args = [rows, columns, np.int32(parts), dy, x, gamma, r, dx, sums]
    launcher(x.device, blocks, threads, args)
    grads = column_sums(sums, dtype=x.dtype).reshape(-1, *gamma.shape)
    return (dx, *grads)


def _prepared(operation: str, arrays: list[Any], params: list[Any]) -> tuple[Any, Any, int]:
    """Return what launches a kernel, rows and columns, and the threads of a block."""
    x, gamma = arrays[0], params[0]
    columns, device = math.prod(gamma.shape), x.data.device_id
    warps = _warps(columns)
    held = next((n for n in _HELD if columns <= 32 * warps * n), None)
    sizes = np.int64(x.size // max(columns, 1)), np.int64(columns)
    fits = held and x.size and all(
        a.flags.c_contiguous and a.dtype == like.dtype and a.shape == like.shape
        and a.data.device_id == device
        for like, some in ((x, arrays), (gamma, params)) for a in some
    )  # fmt: skip
    if not fits:
        return None, sizes, 0
    try:
        launcher = _launcher(operation, x.dtype, gamma.dtype, len(params) == 2, warps, held)
    except Untraceable:
        return None, sizes, 0
    return launcher, sizes, max(_THREADS, 32 * warps)


def _warps(columns: int) -> int:
    """Return by how many warps a row is read."""
    return 1 if columns <= _ONE_WARP else _WARPS


def source(
    operation: str, dtype: np.dtype, of_params: np.dtype, centred: bool, warps: int, held: int
) -> tuple[str, str]:
    """Return body and name of the kernel for given dtypes."""
    if dtype.kind not in "fV" or of_params.kind not in "fV":
        raise Untraceable
    wide = c_name(inside(dtype))
    values, params, number = f"{c_name(dtype)}*", f"const {c_name(of_params)}*", f"{wide}*"
    parameters = dict.fromkeys(("rows", "columns"), "const i64")
    if operation == "normalization":
        parameters |= {"x": f"const {values}", "gamma": params}
        parameters |= {"beta": params} if centred else {}
        parameters |= {"y": values, "r": number}
        parameters |= {"mean": number} if centred else {}
        parameters |= {"eps": f"const {wide}", "low": f"const {wide}"}
        call = ["rows", "columns", "x", "gamma", "beta" if centred else "gamma", "y", "r"]
        call += ["mean" if centred else "r", "eps", "low"]
    else:
        parameters |= {"parts": "const int", "dy": f"const {values}", "x": f"const {values}"}
        parameters |= {"gamma": params, "r": f"const {number}", "dx": values, "sums": number}
        call = list(parameters)
    kind = "layer" if centred else "rms"
    threads = max(_THREADS, 32 * warps)
    name = f"xplayers_{kind}_{operation}"  # in profiles
    body = _BODY.format(
        name=name, operation=operation, centred=str(centred).lower(), warps=warps, held=held,
        threads=threads, blocks=_RESIDENT[operation, inside(dtype).itemsize] // threads,
        inside=wide, call=", ".join(call),
        parameters=", ".join(f"{c} {parameter}" for parameter, c in parameters.items()),
    )  # fmt: skip
    return body, name


@functools.cache
def template() -> str:
    """Return the source that the kernels for all dtypes share."""
    return "\n".join([library(), part("warps.cuh"), part("normalization.cu")])


@functools.cache
def _launcher(*case: Any) -> kernels.Launcher:
    body, name = source(*case)
    return kernels.Launcher(f"{template()}\n{body}", name)


_BODY = """\
extern "C" __global__ void __launch_bounds__({threads}, {blocks})
{name}({parameters})
{{
    {operation}<{centred}, {warps}, {held}, {inside}>({call});
}}
"""
