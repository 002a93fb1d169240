"""What the arrays say: their namespace, device and dtype, and the checks that hold them together.

Everything the library knows about array libraries is in this room. No array library but NumPy is
imported here: a type that is seen for the first time is looked up by ``array_api_compat``, which
asks only modules that are already loaded.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, TypeAlias

import array_api_compat
import numpy as np

from xplayers._checks import shown

Array: TypeAlias = Any  # an array of any library; the standard has no type for it
Namespace: TypeAlias = Any
DType: TypeAlias = Any

# One dictionary look-up (0.1 us) where array_namespace() takes 0.8 us. Keyed by type alone, so it
# also holds for JAX tracers and inside torch.compile. Only successes are kept.
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_DTYPES = ("bool", *_INTEGERS, *_FLOATS, "complex64", "complex128")

_NAMESPACES: dict[type, Namespace] = {}
_FLOATING: dict[tuple[type, DType], bool] = {}
_INTEGER: dict[tuple[type, DType], bool] = {}
_REAL: dict[tuple[type, DType], bool] = {}
_HALF: dict[Any, bool] = {}
_DTYPE_NAMES: dict[tuple[type, DType], str] = {}
_WITH_DEVICE: set[type] = set()
_ON_HOST: dict[tuple[type, Any], bool] = {}


_FLOAT32 = np.dtype("float32")


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
    """Return the Array API namespace of `x`, or raise the TypeError that says what to pass."""
    try:
        return _NAMESPACES[type(x)]
    except KeyError:
        return _first_sight(x, owner, name)


def introduce(kind: type, xp: Namespace) -> None:
    """Let `namespace` know the namespace of a type of tracers."""
    _NAMESPACES[kind] = xp


def _has_other_arithmetic(x: object) -> bool:
    """Whether `*` and sums of `x` mean something else; NumPy imports `ma`, slowly, when asked."""
    subclass = isinstance(x, np.ndarray) and type(x) is not np.ndarray
    return subclass and isinstance(x, (np.matrix, np.ma.MaskedArray))


def _first_sight(x: Array, owner: object, name: str) -> Namespace:
    if _has_other_arithmetic(x):
        message = (
            f"{owner}: {name} is a {type(x).__name__}; pass a plain array: np.asarray({name})."
        )
        if isinstance(x, np.ma.MaskedArray):
            message = f"{message[:-1]} drops the mask, {name}.filled(0) takes 0 for what is hidden."
        raise TypeError(message)
    if not array_api_compat.is_array_api_obj(x):
        raise TypeError(_not_an_array(x, owner, name))
    native = _NUMPY_IS_STANDARD and isinstance(x, np.ndarray | np.generic)
    xp = np if native else array_api_compat.array_namespace(x)
    _NAMESPACES[type(x)] = xp
    return xp


def _not_an_array(x: Any, owner: object, name: str) -> str:
    # Labels are integers; all else is floating-point.
    dtype = "" if name in ("t", "target", "labels") else ", dtype='float32'"
    return (
        f"{owner}: {name} is a {type(x).__name__}; expected an array of numpy, cupy, torch, jax or "
        f"another Array API library, for example np.asarray({name}{dtype})."
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
    """Whether `x` is of a real floating-point dtype (float16, bfloat16, float32, float64).

    Others are told by name: 8 bits, 80 and 128 bits, and another order of the bytes do not count.
    """
    key = (type(x), x.dtype)
    try:
        return _FLOATING[key]
    except KeyError:
        _FLOATING[key] = kind = _is_one_of(x.dtype, _FLOATS)
        return kind


def is_integer(x: Array) -> bool:
    """Whether `x` holds integers of 8 to 64 bits (bool does not count)."""
    key = (type(x), x.dtype)
    try:
        return _INTEGER[key]
    except KeyError:
        _INTEGER[key] = kind = _is_one_of(x.dtype, _INTEGERS)
        return kind


def is_real(x: Array) -> bool:
    """Whether `x` holds real numbers: bool, integers or floating-point values."""
    key = (type(x), x.dtype)
    try:
        return _REAL[key]
    except KeyError:
        _REAL[key] = kind = _is_one_of(x.dtype, ("bool", *_INTEGERS, *_FLOATS))
        return kind


def _is_one_of(dtype: DType, names: tuple[str, ...]) -> bool:
    return dtype_name(dtype) in names and getattr(dtype, "isnative", True)


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


def device(x: Array) -> Any:
    """Return the device of `x`; None for a JAX tracer, which has none yet."""
    kind = type(x)
    if kind is np.ndarray:
        return "cpu"
    if kind in _WITH_DEVICE:
        return x.device
    if kind.__name__ in ("Tensor", "ArrayImpl"):  # of torch and JAX, whose tracers are others
        _WITH_DEVICE.add(kind)
    return array_api_compat.device(x)


def on_host(x: Array) -> bool:
    """Whether the values of `x` can be looked at without a transfer: no GPU, no JAX tracer."""
    if isinstance(x, np.ndarray):
        return True
    where = device(x)
    try:
        return _ON_HOST[type(x), where]
    except KeyError:
        strict = namespace(x).__name__ == "array_api_strict"
        _ON_HOST[type(x), where] = host = strict or "cpu" in str(where).lower()
        return host
    except TypeError:  # CuPy's devices cannot be looked up
        return False


def is_traced() -> bool:
    """Whether PyTorch writes down what happens here, and would take a value for a constant."""
    torch = sys.modules["torch"]
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


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


def out_of_range(x: Array, n: int) -> int | None:
    """Return one of the integers of `x` that is not in ``[0, n)``, or None. Looks at all values."""
    if not size(x):
        return None
    xp, x = namespace(x), signed(x)
    low, high = int(xp.min(x)), int(xp.max(x))
    return low if low < 0 else high if high >= n else None


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


def check_dtype(owner: object, dtype: DType, *, floating: bool = False) -> None:
    """Check that `dtype` is one, of any library, or the name of one."""
    try:
        name = dtype_name(dtype)
    except TypeError:  # it cannot be looked up
        name = ""
    if name not in (_FLOATS if floating else _DTYPES):
        expected = "float16, bfloat16, float32 or float64" if floating else "a dtype or its name"
        message = f"{owner}: dtype is {shown(dtype)}; expected {expected}."
        raise TypeError(message)


DTYPE_PACKAGES = {"cupy": "ml-dtypes"}  # which give a library bfloat16


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


def place(x: Array) -> str:
    """Say in words what `x` is and where: ``a cupy array on cuda:0``."""
    where = device(x)
    name = f"cuda:{where.id}" if array_api_compat.is_cupy_array(x) else str(where)
    name = name.rpartition("Device(")[2].strip("')")  # array-api-strict's
    cpu = ("cpu", "cpu:0", "cpu_device", "tfrt_cpu_0", "none")  # the fourth is JAX 0.8's
    on = "the CPU" if name.lower() in cpu else name
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
    found = _extreme(x, "min")
    if found >= low:
        found = high if math.isinf(high) else _extreme(x, "max")
        if found <= high:
            return
    message = f"{owner}: {name} has a value of {found:g}; expected {expected}."
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
        if dtype is _FLOAT32 or (dtype.char in "efd" and dtype.isnative):
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
        raise TypeError(_not_an_array(x, owner, name))
    check_off_tape(owner, name, x)
    dtype, where = x.dtype, device(x)
    if library_name(xp) == "cupy":
        _check_current(owner, name, x, where)
    for key, a in arrays.items():
        if namespace(a) is not xp or elsewhere(device(a), where):
            message = f"{owner}: {name} is {place(x)}, {key} is {place(a)}. Call layer.to(like=x)."
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
            f"{owner}: {name} is {place(x)}, and CuPy would compute on cuda:{current.id}. "
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
        message = f"{owner}: {name} is {place(a)}, {like_name} is {place(like)}. {fix}"
        raise TypeError(message)
    if type(like) is not np.ndarray and array_api_compat.is_cupy_array(like):
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


def as_plain(a: Array) -> Array:
    """Return an array of a subclass of NumPy's that computes as those do as the array that it is.

    As of a file that is mapped to memory. Bodies and replays know arrays by their type.
    """
    if type(a) is np.ndarray or not isinstance(a, np.ndarray):
        return a
    own = type(a).__array_ufunc__ is not np.ndarray.__array_ufunc__
    return a if own or _has_other_arithmetic(a) else a.view(np.ndarray)


def to_numpy(x: Array) -> np.ndarray:
    """Return the values of `x`, of any library, as a NumPy array on the host (a transfer).

    bfloat16, which NumPy does not have, comes as float32.
    """
    if type(x) is np.ndarray:
        return x
    xp = namespace(x, "to_numpy")
    if isinstance(x, np.ndarray):
        return x
    if array_api_compat.is_torch_array(x):
        x = x.detach()
    if dtype_name(x.dtype) == "bfloat16":
        x = xp.astype(x, xp.float32)
    if array_api_compat.is_cupy_array(x):
        return x.get()
    if array_api_compat.is_torch_array(x):
        return x.cpu().numpy()
    try:
        return np.asarray(x)
    except (RuntimeError, TypeError):  # array-api-strict away from its CPU device
        return np.from_dlpack(x)


def asarray(values: np.ndarray, like: Array, dtype: DType = None) -> Array:
    """Return host `values` as an array of the library and device of `like` (an upload)."""
    return _upload(values, namespace(like), device(like), dtype or like.dtype)


def move(
    x: Array, *, like: Array = None, xp: Namespace = None, device: Any = None, dtype: DType = None
) -> Array:
    """Return a copy of `x` in another library, on another device or of another dtype.

    Parameters
    ----------
    x : array
        Of any library.
    like : array, optional
        Take library and device from this array, and its dtype where both are floating-point.
    xp : module, optional
        The library to go to, for example ``numpy``, ``cupy``, ``torch`` or ``jax.numpy``.
    device : optional
        A device of that library.
    dtype : optional
        A dtype of that library, or its name.

    Returns
    -------
    array
        Never shares memory with `x`.

    Notes
    -----
    The values go through the host, which is right for every pair of libraries. DLPack would save
    a copy, but it shares memory where a copy was asked for (``jnp.from_dlpack(copy=True)``) and
    aborts the process on negative strides (``torch.from_dlpack``).
    """
    namespace(x, "move")
    if dtype_name(x.dtype) not in _DTYPES:
        message = f"move: x is {x.dtype}; expected numbers. {converted('x', x.dtype, 'float32')}"
        raise TypeError(message)
    floating = is_floating(x)
    if like is not None:
        namespace(like, "move", "like")
        xp, device = (
            namespace(like),
            device if device is not None else array_api_compat.device(like),
        )
        if dtype is None and floating and is_floating(like):
            dtype = like.dtype
    target = namespace(x) if xp is None else as_namespace(xp)
    if device is None and target is namespace(x):
        device = array_api_compat.device(x)
    if dtype is None and dtype_name(x.dtype) == "bfloat16":
        dtype = named_dtype(target, "bfloat16") or target.float32  # the host values are float32
    if isinstance(dtype, str):
        known = named_dtype(target, dtype) if dtype in _DTYPES else None
        if known is None:
            message = f"move: {library_name(target)} has no dtype {dtype!r}."
            raise TypeError(message)
        dtype = known
    elif dtype is not None:
        check_dtype("move", dtype)
    return _upload(to_numpy(x), target, device, dtype)


def _upload(values: np.ndarray, xp: Namespace, device: Any, dtype: DType) -> Array:
    """Return host `values` as a new array of `xp`; `dtype` None: as `values` (JAX: its 32 bits)."""
    name = None if dtype is None else dtype_name(dtype)
    if name not in (None, "bfloat16"):  # on the host: the device may not have the dtype of `values`
        values = np.asarray(values, dtype=name)
    if dtype_name(values.dtype) == "bfloat16":  # of ml_dtypes, which not every library reads
        values = values.astype(np.float32)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if any(stride < 0 for stride in values.strides) or not values.flags.writeable:
        values = values.copy()  # torch refuses the first and warns of the second
    if device not in (None, "cpu") and xp is np:
        message = (
            f"numpy has no device {shown(device)}; name the library of the device: "
            f"xp=torch, device={shown(device)}."
        )
        raise TypeError(message)
    there = xp.asarray(values, device=device, copy=True)
    return there if dtype is None or there.dtype == dtype else xp.astype(there, dtype)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library says that there is no more memory."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError"}:  # of Python, NumPy and CuPy; of PyTorch's GPUs
        return True
    said = (
        "RESOURCE_EXHAUSTED",
        "can't allocate memory",
        "not enough memory",
    )  # JAX; PyTorch's CPU
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)
