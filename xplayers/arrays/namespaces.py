"""What the arrays say: their namespace, device and dtype.

Everything the library knows about array libraries is in this folder. No array library but NumPy is
imported here: a type that is seen for the first time is looked up by ``array_api_compat``, which
asks only modules that are already loaded.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any, TypeAlias

import array_api_compat
import numpy as np

from xplayers._checks import shown

Array: TypeAlias = Any  # an array of any library; the standard has no type for it
Namespace: TypeAlias = Any
DType: TypeAlias = Any

# One dictionary look-up (0.1 us) where array_namespace() takes 0.8 us. Keyed by type alone, so it
# also holds for JAX tracers and inside torch.compile. Only successes are kept.
FLOATS = ("float16", "bfloat16", "float32", "float64")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = ("bool", *_INTEGERS, *FLOATS, "complex64", "complex128")

_NAMESPACES: dict[type, Namespace] = {}
_KINDS: dict[tuple[type, DType], str] = {}
_HALF: dict[Any, bool] = {}
_DTYPE_NAMES: dict[tuple[type, DType], str] = {}
_WITH_DEVICE: set[type] = set()
_ON_HOST: dict[tuple[type, Any], bool] = {}


FLOAT32 = np.dtype("float32")


def _numpy_is_standard() -> bool:
    """Whether NumPy needs no wrapper, whose import of all of NumPy's tools takes 0.2 s."""
    scalar: Any = np.float32(0.0)  # as reductions give them
    try:
        np.astype(scalar, np.float64)
    except TypeError:
        return False
    return True


_NUMPY_IS_STANDARD = _numpy_is_standard()


def namespace(x: Array, owner: object = "xplayers", name: str = "x") -> Namespace:
    """Return the Array API namespace of `x`, or raise the TypeError that says what to pass.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> def hinge(y, t):
    ...     xp = xl.namespace(y)
    ...     return xp.mean(xp.maximum(1.0 - y * t, xp.zeros_like(y)))
    >>> float(hinge(np.asarray([0.5, 2.0]), np.asarray([1.0, 1.0])))
    0.25
    """
    try:
        return _NAMESPACES[type(x)]
    except KeyError:
        return _first_sight(x, owner, name)


def introduce(kind: type, xp: Namespace) -> None:
    """Let `namespace` know the namespace of a type of tracers."""
    _NAMESPACES[kind] = xp


def introduce_tensors(kind: type, xp: Namespace) -> None:
    """Let all be known that is asked of a type of tensors of PyTorch.

    Its compiler would write down a first look at a dtype, and look again in the next call.
    """
    introduce(kind, xp)
    _WITH_DEVICE.add(kind)
    for name in DTYPES:
        dtype = getattr(xp, name)
        dtype_name(dtype)
        _HALF[type(dtype), dtype] = dtype_is_half(dtype)
        _KINDS[kind, dtype] = _kind_of(name)


def has_other_arithmetic(x: object) -> bool:
    """Whether `*` and sums of `x` mean something else; NumPy imports `ma`, slowly, when asked."""
    subclass = isinstance(x, np.ndarray) and type(x) is not np.ndarray
    return subclass and isinstance(x, (np.matrix, np.ma.MaskedArray))


def _first_sight(x: Array, owner: object, name: str) -> Namespace:
    torch = sys.modules.get("torch")
    if isinstance(x, getattr(torch, "Tensor", ())):  # without what its compiler cannot follow
        from xplayers.arrays.pytorch import NAMESPACE

        if type(x) not in _NAMESPACES:  # a subclass
            introduce_tensors(type(x), NAMESPACE)
        return NAMESPACE
    if has_other_arithmetic(x):
        message = (
            f"{owner}: {name} is a {type(x).__name__}; pass a plain array: np.asarray({name})."
        )
        if isinstance(x, np.ma.MaskedArray):
            message = f"{message[:-1]} drops the mask, {name}.filled(0) takes 0 for what is hidden."
        raise TypeError(message)
    if not array_api_compat.is_array_api_obj(x):
        raise TypeError(not_an_array(x, owner, name))
    native = _NUMPY_IS_STANDARD and isinstance(x, np.ndarray | np.generic)
    xp = np if native else array_api_compat.array_namespace(x)
    _NAMESPACES[type(x)] = xp
    return xp


def not_an_array(x: Any, owner: object, name: str) -> str:
    """Return what is said of `x`, which is no array."""
    # Labels are integers; all else is floating-point.
    dtype = "" if name in ("t", "target", "labels") else ", dtype='float32'"
    fix = f", for example np.asarray({name}{dtype})"
    if callable(x) and not isinstance(x, type):  # a network, or a method
        fix = ": pass what it returns when it is called"
    return (
        f"{owner}: {name} is a {type(x).__name__}; expected an array of numpy, cupy, torch, jax or "
        f"another Array API library{fix}."
    )


def as_namespace(xp: Namespace) -> Namespace:
    """Return the namespace that arrays made by the module `xp` have (``torch`` -> compat's)."""
    if not hasattr(xp, "zeros"):
        message = f"xp is {shown(xp)}; expected a module: numpy, cupy, torch, jax.numpy."
        if xp in ("numpy", "cupy", "torch", "jax.numpy"):
            message += f" Import {xp}, and pass it without quotes."
        elif getattr(xp, "__name__", "") == "jax":
            message += " Pass jax.numpy."
        raise TypeError(message)
    try:
        return namespace(xp.zeros(1))
    except RuntimeError as error:
        if library_name(xp) != "cupy":
            raise
        # CuPy says "driver version is insufficient" where there is none.
        message = (
            f"cupy cannot compute here ({error}). `xplayers info` says why and what to do; "
            "without an NVIDIA GPU, compute with numpy."
        )
        raise RuntimeError(message) from error


def is_floating(x: Array) -> bool:
    """Whether `x` is of a real floating-point dtype (float16, bfloat16, float32, float64)."""
    return (_KINDS.get((type(x), x.dtype)) or _kind(x)) == "floating"


def is_integer(x: Array) -> bool:
    """Whether `x` holds integers of 8 to 64 bits (bool does not count)."""
    return (_KINDS.get((type(x), x.dtype)) or _kind(x)) == "integer"


def is_real(x: Array) -> bool:
    """Whether `x` holds real numbers: bool, integers or floating-point values."""
    return (_KINDS.get((type(x), x.dtype)) or _kind(x)) != "other"


def _kind(x: Array) -> str:
    """Find out what `x` holds: "floating", "integer", "bool" or "other".

    Others are told by name: 8 bits, 80 and 128 bits, and another order of the bytes do not count.
    """
    name = dtype_name(x.dtype) if getattr(x.dtype, "isnative", True) else ""
    kind = _KINDS[type(x), x.dtype] = _kind_of(name)
    return kind


def _kind_of(name: str) -> str:
    return (
        "floating" if name in FLOATS
        else "integer" if name in _INTEGERS
        else "bool" if name == "bool" else "other"
    )  # fmt: skip


def signed(x: Array) -> Array:
    """Return integers in a dtype to compute with, int64 for unsigned ones that meet no others.

    PyTorch has few operations for 16 unsigned bits and more, and the standard no dtype for both
    int64 and uint64.
    """
    if isinstance(x, np.ndarray):
        return x
    meet_no_others = ("uint16", "uint32", "uint64") if library(x) == "torch" else ("uint64",)
    if dtype_name(x.dtype) in meet_no_others:
        xp = namespace(x)
        return xp.astype(x, xp.int64)
    return x


def is_half(x: Array) -> bool:
    """Whether `x` is float16 or bfloat16: sums of such values belong in float32."""
    key = (type(x.dtype), x.dtype)
    try:
        return _HALF[key]
    except KeyError:
        _HALF[key] = half = dtype_is_half(x.dtype)
        return half


def dtype_is_half(dtype: DType) -> bool:
    """Whether `dtype`, a dtype or its name, is float16 or bfloat16."""
    return dtype is not None and dtype_name(dtype) in ("float16", "bfloat16")


def upcast(xp: Namespace, x: Array) -> Array:
    """Return `x` in at least float32: 16-bit sums overflow at 65504 and lose digits long before."""
    return xp.astype(x, xp.float32) if is_half(x) else x


def downcast_like(a: Array, like: Array) -> Array:
    """Return `a` in the dtype of `like`, where that has 16 bits and `a` is wider."""
    return namespace(a).astype(a, like.dtype) if is_half(like) else a


def device(x: Array) -> Any:
    """Return the device of `x`; None for a JAX tracer, which has none yet.

    Of an array of JAX that is sharded over a mesh it is replication over that mesh: what is made
    there meets all of its parts, and arrays of one mesh are at one place.
    """
    kind = type(x)
    if kind is np.ndarray:
        return "cpu"
    if kind in _WITH_DEVICE:
        return x.device
    if kind.__name__ == "ArrayImpl":  # of JAX, whose tracers are others
        where = x.device
        return _replicated(where) if hasattr(where, "mesh") else where
    return array_api_compat.device(x)


@functools.cache
def _replicated(sharding: Any) -> Any:
    mesh = sharding.mesh
    if any("explicit" in str(kind).lower() for kind in mesh.axis_types):
        message = (
            f"xplayers: an array is sharded over a mesh with the axes {mesh.axis_names}, of which "
            "some are explicit: each operation would have to say how its result is sharded. Make "
            "the mesh with axis_types=(jax.sharding.AxisType.Auto,), one for each axis."
        )
        raise TypeError(message)
    return type(sharding)(mesh, type(sharding.spec)())


def on_host(x: Array) -> bool:
    """Whether the values of `x` can be looked at without a transfer: no GPU, no tracer."""
    if isinstance(x, np.ndarray):
        return True
    if hasattr(x, "untyped_storage"):  # of PyTorch
        return x.is_cpu and not is_traced()
    where = device(x)
    try:
        return _ON_HOST[type(x), where]
    except KeyError:
        strict = namespace(x).__name__ == "array_api_strict"
        parts = [where]
        if hasattr(where, "mesh"):  # of which another process may have devices
            parts = where.device_set if where.is_fully_addressable else ["elsewhere"]
        host = strict or all("cpu" in str(part).lower() for part in parts)
        _ON_HOST[type(x), where] = host
        return on_host(x)
    except TypeError:  # CuPy's devices cannot be looked up
        return False


def is_traced() -> bool:
    """Whether tensors of PyTorch have no values to look at here.

    Where it writes down what happens, and would take a value for a constant; and in a
    transformation of ``torch.func``.
    """
    torch = sys.modules["torch"]
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return True
    return torch._C._functorch.maybe_current_level() is not None


def widest_floating(x: Array) -> DType:
    """Return float64 where the library and the device of `x` have it, else float32."""
    xp = namespace(x)
    if isinstance(x, np.ndarray):
        return xp.float64
    known = xp.__array_namespace_info__().dtypes(device=device(x), kind="real floating")
    return known.get("float64", xp.float32)


def size(x: Array) -> int:
    """Return the number of elements (``x.size`` is a method in torch)."""
    return math.prod(x.shape)


def either(xp: Namespace, condition: Array, f: Any, g: Any, x: Array) -> Array:
    """Return ``f(x)`` where the 0-d `condition` holds, else ``g(x)``; JAX computes one of them."""
    if library_name(xp) == "jax":
        return sys.modules["jax"].lax.cond(condition, f, g, x)
    return xp.where(condition, f(x), g(x))


def dtype_name(dtype: DType) -> str:
    """Return the name that `dtype` has in the standard: ``float32``, ``int64``, ``bfloat16``."""
    key = (type(dtype), dtype)  # the type first: dtypes of two libraries may refuse comparison
    try:
        return _DTYPE_NAMES[key]
    except KeyError:
        pass
    text = str(dtype)
    if text.startswith("torch."):  # without asking NumPy, which torch.compile cannot follow
        name = text.removeprefix("torch.")
    else:
        try:
            name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
        except TypeError:  # array-api-strict has dtypes of its own
            name = text.rpartition(".")[2]
    _DTYPE_NAMES[key] = name
    return name


DTYPE_PACKAGES = {"cupy": "ml-dtypes"}  # which give a library bfloat16


def itemsize(name: str) -> int:
    """Return the bytes of a number, by the name of its dtype."""
    return 2 if name == "bfloat16" else np.dtype(name).itemsize


def named_dtype(xp: Namespace, name: str) -> DType | None:
    """Return the dtype that has that name in the namespace `xp`; None if there is none."""
    if name == "bfloat16" and library_name(xp) == "cupy":  # it takes that of ml_dtypes
        try:
            import ml_dtypes
        except ImportError:
            return None
        return np.dtype(ml_dtypes.bfloat16)
    return getattr(xp, name, None)


def library(x: Array) -> str:
    """Return the name of the library of `x`, as people write it: ``numpy``, ``torch``, ``jax``."""
    return library_name(namespace(x))


def library_name(xp: Namespace) -> str:
    """Return the name of the library whose namespace `xp` is."""
    return xp.__name__.removeprefix("array_api_compat.").removesuffix(".numpy")
