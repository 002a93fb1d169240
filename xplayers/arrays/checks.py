"""Checks of arrays: whether they may meet, and are what they should be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import array_api_compat
import numpy as np

from xplayers._checks import shown
from xplayers.arrays.namespaces import (
    DTYPES,
    FLOAT32,
    FLOATS,
    Array,
    DType,
    device,
    dtype_name,
    is_floating,
    is_integer,
    is_real,
    library,
    library_name,
    namespace,
    not_an_array,
    signed,
    size,
)


def out_of_range(x: Array, n: int) -> int | None:
    """Return one of the integers of `x` that is not in ``[0, n)``, or None. Looks at all values."""
    if not size(x):
        return None
    xp, x = namespace(x), signed(x)
    low, high = int(xp.min(x)), int(xp.max(x))
    return low if low < 0 else high if high >= n else None


def check_dtype(owner: object, dtype: DType, *, floating: bool = False) -> None:
    """Check that `dtype` is one, of any library, or the name of one."""
    try:
        name = dtype_name(dtype)
    except TypeError:  # it cannot be looked up
        name = ""
    if name not in (FLOATS if floating else DTYPES):
        expected = "float16, bfloat16, float32 or float64" if floating else "a dtype or its name"
        message = f"{owner}: dtype is {shown(dtype)}; expected {expected}."
        raise TypeError(message)


def described(x: Array) -> str:
    """Say in words what `x` is and where: ``a cupy array on cuda:0``."""
    where = device(x)
    name = f"cuda:{where.id}" if array_api_compat.is_cupy_array(x) else str(where)
    name = name.rpartition("Device(")[2].strip("')")  # array-api-strict's
    cpu = ("cpu", "cpu:0", "cpu_device", "tfrt_cpu_0", "none")  # the fourth is JAX 0.8's
    on = "the CPU" if name.lower() in cpu else name
    on = f"a mesh of {where.mesh.size} devices" if hasattr(where, "mesh") else on
    return f"a {library(x)} array on {on}"


def check_off_tape(owner: object, name: str, x: Array) -> None:
    """Check that `x` is no torch tensor which autograd records."""
    if getattr(x, "requires_grad", False) is True:
        message = (
            f"{owner}: {name} is a torch tensor that requires grad; xplayers computes "
            f"the gradients itself, so autograd must not record. Pass {name}.detach()."
        )
        raise TypeError(message)


def check_floating(owner: object, name: str, x: Array) -> None:
    """Check that `x` has a floating-point dtype."""
    if not is_floating(x):
        hint = converted(name, x.dtype, "float32")
        message = f"{owner}: {name} is {x.dtype}; expected floating-point values. {hint}"
        raise TypeError(message)


def check_real(owner: object, name: str, x: Array) -> None:
    """Check that `x` holds real numbers: no strings, objects or complex values."""
    dtype = x.dtype
    if type(x) is np.ndarray and dtype.kind in "fiub" and dtype.isnative and dtype.char != "g":
        return
    if is_real(x):
        return
    message = f"{owner}: {name} is {dtype}; expected real numbers. "
    message += converted(name, dtype, "float32")
    if getattr(dtype, "kind", "") in ("U", "S", "T", "O"):
        message += f" Classes with names get numbers from np.unique({name}, return_inverse=True)."
    raise TypeError(message)


def converted(name: str, dtype: DType, to: str) -> str:
    """Return the next step for an array whose dtype is not taken."""
    kind, known = getattr(dtype, "kind", ""), isinstance(dtype, np.dtype)
    if known and dtype.names:
        return f"Take its fields one by one: {name}[{dtype.names[0]!r}]."
    if known and not dtype.isnative:  # of files of other machines
        return f"Its bytes are in another order: {name}.astype({name}.dtype.newbyteorder('='))."
    if kind in ("m", "M"):
        return f"Make numbers of it: {name}.astype('int64'), less a beginning."
    if kind == "c" or "complex" in dtype_name(dtype):
        return f"Take its parts: xp.real({name}), xp.imag({name})."
    if kind in ("O", "S", "U", "T"):
        return f"If all of it are numbers, {name}.astype({to!r})."
    return f"Convert it: xp.astype({name}, xp.{to})."


def check_values(
    owner: object, name: str, x: Array, low: float, high: float, expected: str
) -> None:
    """Check that all values of `x`, on the host, are in ``[low, high]``, which NaN is not."""
    check_real(owner, name, x)
    if not size(x) or dtype_name(x.dtype) == "bool":
        return
    value = _extreme(x, "min")
    if value >= low:
        value = high if math.isinf(high) else _extreme(x, "max")
        if value <= high:
            return
    message = f"{owner}: {name} has a value of {value:g}; expected {expected}."
    raise ValueError(message)


def _extreme(x: Array, which: str) -> float:
    """Return the least or the largest value of `x`; NaN where there is one."""
    if isinstance(x, np.ndarray):  # by place, which takes a third of the time; NaN comes first
        return float(x.item(x.argmin() if which == "min" else x.argmax()))
    return float(getattr(namespace(x), which)(signed(x)))


def check_input(
    owner: object,
    x: Array,
    arrays: Mapping[str, Array],
    *,
    integers: bool = False,
    name: str = "x",
) -> None:
    """Check that `x` can meet `arrays`: same library, device and dtype, and floating-point.

    Called before any arithmetic on every call of a layer, so the common case is a few comparisons.
    """
    if type(x) is np.ndarray and not integers:  # the common case: one device, no tape
        dtype = x.dtype
        if dtype is FLOAT32 or (dtype.char in "efd" and dtype.isnative):
            for a in arrays.values():
                if type(a) is not np.ndarray or a.dtype is not dtype:
                    break
            else:
                return
    xp = namespace(x, owner, name)
    if integers:
        if not is_integer(x):
            hint = "" if is_floating(x) else " " + converted(name, x.dtype, "int64")
            message = f"{owner}: {name} is {x.dtype}; expected integers.{hint}"
            raise TypeError(message)
    else:
        check_floating(owner, name, x)
    if isinstance(x, np.generic):
        raise TypeError(not_an_array(x, owner, name))
    check_off_tape(owner, name, x)
    dtype, where = x.dtype, device(x)
    if library_name(xp) == "cupy":
        _check_current(owner, name, x, where)
    for key, a in arrays.items():
        if namespace(a) is not xp or elsewhere(device(a), where):
            both = f"{name} is {described(x)}, {key} is {described(a)}"
            message = f"{owner}: {both}. Call layer.to(like=x)."
            raise TypeError(message)
        if a.dtype != dtype and not integers:
            message = (
                f"{owner}: {name} is {dtype}, {key} is {a.dtype}. "
                f"Pass {name} as {a.dtype}, or call layer.to(like=x)."
            )
            raise TypeError(message)


def _check_current(owner: object, name: str, x: Array, where: Any) -> None:
    """Check that CuPy computes where `x` is: it does so on the current device, whatever it gets."""
    try:
        current = type(where)()
    except RuntimeError:  # there is no driver
        return
    if elsewhere(current, where):
        message = (
            f"{owner}: {name} is {described(x)}, and CuPy would compute on cuda:{current.id}. "
            f"Compute inside of `with cupy.cuda.Device({where.id}):`."
        )
        raise ValueError(message)


def elsewhere(a: Any, b: Any) -> bool:
    """Whether the devices `a` and `b` differ."""
    return a is not None and b is not None and a != b  # None: a tracer, which follows its arguments


def check_same(
    owner: object, name: str, a: Array, like: Array, *, like_name: str = "x", fix: str = ""
) -> None:
    """Check that the array `a` is of the library and on the device of `like`."""
    if namespace(a, owner, name) is not namespace(like) or elsewhere(device(a), device(like)):
        fix = fix or (
            f"Nothing is transferred silently: make {name} where {like_name} is, or move it with "
            "xplayers.move."
        )
        message = f"{owner}: {name} is {described(a)}, {like_name} is {described(like)}. {fix}"
        raise TypeError(message)
    if type(like) is np.ndarray or library(like) != "cupy":
        return
    if array_api_compat.is_cupy_array(like):  # and no tracer
        _check_current(owner, like_name, like, device(like))


def check_dtypes(owner: object, name: str, a: Array, like: Array, like_name: str = "x") -> None:
    """Check that the array `a` is of the dtype of `like`."""
    if a.dtype != like.dtype:
        message = f"{owner}: {name} is {a.dtype}, {like_name} is {like.dtype}; they must agree."
        raise TypeError(message)


def check_parameter(
    owner: str, name: str, a: Array, like: Array, like_name: str, shape: tuple, why: str = ""
) -> None:
    """Check that a parameter agrees with another one: where it is, its dtype and its `shape`."""
    check_same(owner, name, a, like, like_name=like_name)
    check_dtypes(owner, name, a, like, like_name)
    if tuple(a.shape) != shape:
        message = f"{owner}: {name} has shape {tuple(a.shape)}; expected {shape}{why}."
        raise ValueError(message)
