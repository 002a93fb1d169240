"""The ``np`` of a reader's script: NumPy's interface, with its arrays on a device.

A call without arrays of the device is computed by NumPy, and what it returns moves there: so random
numbers are the same on every device. A call with such arrays is computed by their library; what
that has not, by NumPy on the host. An element, ``x[i]``, is a number, as in NumPy, and an array of
the host that meets one of the device moves there.
"""

from __future__ import annotations

import contextlib
import operator
import pickle
import types
from importlib import import_module
from typing import Any

import numpy as np

# Functions that write to their first argument; where NumPy computes them, it is copied back.
WRITING = {"shuffle", "copyto", "put", "place", "putmask", "fill_diagonal", "at"}
# What a library raises that lacks a function, or a part of itself; or what is wrong anyway.
UNKNOWN = (AttributeError, TypeError, ValueError, NotImplementedError, ImportError)


class Device:
    """A library and a device of it, with the conversions of arrays that come and go."""

    def __init__(self, name: str = "numpy", dtype: str = "float64") -> None:
        self.dtype = np.dtype(dtype)
        self.on_host: set[str] = set()  # names of functions that NumPy computed for the device
        self.kind: Any = ()
        library, _, where = name.partition(":")
        if library == "cupy":
            import cupy

            self.library, self.kind, self._upload = cupy, cupy.ndarray, cupy.asarray
        elif library == "torch":
            torch: Any = import_module("torch")
            interface = import_module("torch._numpy")  # NumPy's, of tensors

            self.library, self.kind = interface, interface.ndarray
            self._upload = lambda a: interface.ndarray(torch.tensor(a.copy(), device=where or None))
        elif library == "numpy" and not where:
            self.library = None
        else:
            message = f"--on is {name!r}; expected numpy, cupy, torch, or a device as torch:cuda."
            raise ValueError(message)
        self.np = Namespace(self, np, self.library)
        self.pickle: Any = types.ModuleType("pickle")
        vars(self.pickle).update(vars(pickle))
        self.pickle.load = lambda *args, **options: self.moved(pickle.load(*args, **options))
        self.pickle.loads = lambda *args, **options: self.moved(pickle.loads(*args, **options))

    @property
    def is_plain(self) -> bool:
        """Whether all of it is NumPy."""
        return self.library is None and self.dtype == np.float64

    def accelerated(self) -> Any:
        """Return a context in which its kernels are fused."""
        if self.library is None or self.library.__name__ != "cupy":
            return contextlib.nullcontext()
        from xplayers.cuda import fused

        return fused()

    def array(self, a: np.ndarray) -> Any:
        """Return an array of the host as one of the device."""
        if self.library is None or a.dtype.kind not in "biuf":
            return a
        return ndarray(self, self._upload(a))

    def moved(self, value: Any) -> Any:
        """Return what NumPy returned with its arrays on the device, and its scalars as numbers."""
        if isinstance(value, np.ndarray):
            narrow = value.dtype == np.float64 != self.dtype
            return self.array(value.astype(self.dtype) if narrow else value)
        if isinstance(value, np.generic):
            return value.item()
        return _each(self.moved, value)

    def wrapped(self, value: Any) -> Any:
        """Return what the library returned as arrays of NumPy's interface."""
        return ndarray(self, value) if isinstance(value, self.kind) else _each(self.wrapped, value)

    def unwrapped(self, value: Any) -> Any:
        """Return an argument as the library takes it."""
        if isinstance(value, ndarray):
            return value.raw
        if isinstance(value, np.ndarray):
            return self.unwrapped(self.array(value)) if value.dtype.kind in "biuf" else value
        if isinstance(value, np.generic):
            return value.item()
        is_dtype = isinstance(value, np.dtype)
        if is_dtype or (isinstance(value, type) and issubclass(value, np.generic)):
            return np.dtype(value).name
        return _each(self.unwrapped, value)

    def hosted(self, value: Any) -> Any:
        """Return an argument as NumPy takes it."""
        return value.__array__() if isinstance(value, ndarray) else _each(self.hosted, value)


def _each(convert: Any, value: Any) -> Any:
    """Return a container with its values converted; all else as it is."""
    kind: Any = type(value)
    if kind in (list, tuple):
        return kind([convert(v) for v in value])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return kind(*map(convert, value))
    return {k: convert(v) for k, v in value.items()} if isinstance(value, dict) else value


def _holds(value: Any) -> bool:
    """Whether there is an array of a device in it."""
    if isinstance(value, list | tuple | dict):
        return any(map(_holds, value.values() if isinstance(value, dict) else value))
    return isinstance(value, ndarray)


class Namespace(types.ModuleType):
    """The module ``numpy``, or one in it, for a device; `there` is its counterpart, or None."""

    def __init__(self, device: Device, host: types.ModuleType, there: Any) -> None:
        super().__init__(host.__name__)
        self.__all__ = getattr(host, "__all__", [])
        self._device, self._host, self._there = device, host, there

    def __getattr__(self, name: str) -> Any:
        if name == "asnumpy":  # of CuPy
            return self._device.hosted
        there = getattr(self._there, name, None)
        host = getattr(self._host, name, there) if there is not None else getattr(self._host, name)
        if name == "ndarray":
            value = ndarray if self._device.library else np.ndarray
        elif isinstance(host, types.ModuleType):  # random numbers are NumPy's
            own = host.__name__.startswith("numpy")
            value = (
                Namespace(self._device, host, there if name != "random" else None) if own else host
            )
        elif callable(host) and not isinstance(host, type):
            value = Function(self._device, name, host, there)
        else:
            value = Indexed(self._device, host) if hasattr(type(host), "__getitem__") else host
        setattr(self, name, value)
        return value


class Function:
    """A function of NumPy, or a method of its arrays, for a device."""

    def __init__(self, device: Device, name: str, host: Any, there: Any) -> None:
        self.device, self.__name__, self.host, self.there = device, name, host, there

    def __call__(self, *args: Any, **options: Any) -> Any:
        device, is_there = self.device, _holds((args, options))
        if is_there and self.there is not None:
            try:
                there = device.unwrapped(args), device.unwrapped(options)
                return device.wrapped(self.there(*there[0], **there[1]))
            except UNKNOWN:  # if it is an error, NumPy's is the one that readers know
                pass
        here, by_name = device.hosted(args), device.hosted(options)
        result = self.host(*here, **by_name)
        if is_there:
            if not hasattr(np.random, self.__name__):  # which are meant to
                device.on_host.add(self.__name__)
            if self.__name__ in WRITING:
                args[0][...] = here[0]
            if "out" in by_name:
                options["out"][...] = by_name["out"]
        return device.moved(result)

    def __getattr__(self, name: str) -> Any:  # np.add.at
        return Function(
            self.device, name, getattr(self.host, name), getattr(self.there, name, None)
        )


class Indexed:
    """``np.r_`` and its like, for a device."""

    def __init__(self, device: Device, host: Any) -> None:
        self.device, self.host = device, host

    def __getitem__(self, key: Any) -> Any:
        return self.device.moved(self.host[self.device.hosted(key)])


class ndarray:
    """An array on a device, `raw`, with the interface of NumPy's arrays."""

    __slots__ = ("device", "raw")

    def __init__(self, device: Device, raw: Any) -> None:
        self.device, self.raw = device, raw

    @property
    def own(self) -> Any:
        """The array of its library, without NumPy's interface."""
        return getattr(self.raw, "tensor", self.raw)

    def like_this(self, own: Any) -> ndarray:
        """Return an array of its library with NumPy's interface."""
        kind = self.device.kind
        return ndarray(self.device, own if isinstance(own, kind) else kind(own))

    @property
    def dtype(self) -> np.dtype:
        """The dtype, NumPy's."""
        return np.dtype(self.raw.dtype.name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        host = getattr(np.ndarray, name)
        there = getattr(type(self.raw), name, None)
        if not callable(host):
            return self.device.wrapped(getattr(self.raw, name))
        return types.MethodType(Function(self.device, name, host, there), self)

    def __getitem__(self, key: Any) -> Any:
        part = self.raw[self._index(key)]
        return part.item() if part.ndim == 0 else ndarray(self.device, part)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, list | tuple):
            value = np.asarray(self.device.hosted(value))
        self.raw[self._index(key)] = self.device.unwrapped(value)

    def _index(self, key: Any) -> Any:
        if isinstance(key, tuple):
            return tuple([self._index(k) for k in key])
        is_number = isinstance(key, ndarray) and key.ndim == 0 and key.dtype.kind in "iu"
        return int(key) if is_number else self.device.unwrapped(key)

    def __iter__(self) -> Any:
        if self.ndim == 1:  # in one transfer
            return iter(self.__array__())
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        return len(self.raw)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        own = self.own
        return np.asarray(own.get() if hasattr(own, "get") else own.cpu().numpy(), dtype).copy()

    to_numpy = __array__  # Matplotlib asks for it

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        function = getattr(self.device.np, ufunc.__name__)  # NumPy's own, called with this array
        if method != "__call__":
            return getattr(function, method)(*inputs, **options)
        if isinstance(options.get("out", (None,))[0], np.ndarray):
            return ufunc(*self.device.hosted(inputs), **options)
        return function(*inputs, **options)

    def __reduce__(self) -> Any:
        return self.__array__().__reduce__()  # a pickle is NumPy's

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    def __hash__(self) -> int:
        return hash(self.raw.item())

    def __float__(self) -> float:
        return float(self.__array__())

    def __int__(self) -> int:
        return int(self.__array__())

    def __index__(self) -> int:
        return operator.index(self.__array__())

    def __bool__(self) -> bool:
        return bool(self.__array__())

    def __str__(self) -> str:
        return str(self.__array__()[()])

    def __repr__(self) -> str:
        return repr(self.__array__())

    def __format__(self, spec: str) -> str:
        return format(self.__array__()[()], spec)


def place(*arrays: Any) -> ndarray | None:
    """Return the first array on a device, or None: then NumPy computes."""
    return next((a for a in arrays if isinstance(a, ndarray)), None)


def entered(a: Any, at: ndarray | None) -> Any:
    """Return an array of the reader as one of its library, beside `at`."""
    if isinstance(a, ndarray):
        return a.own
    return np.asarray(a) if at is None else at.device.array(np.asarray(a)).own


def left(a: Any, at: ndarray | None) -> Any:
    """Return an array of a library as the reader gets it, beside `at`; of NumPy's 0-d a number."""
    if at is not None:
        return at.like_this(a)
    return a if a.shape else a[()]


def _operator(name: str, reflected: bool = False) -> Any:
    apply = getattr(operator, f"__{name}__")

    def method(self: ndarray, *other: Any) -> Any:
        operands = self.raw, *self.device.unwrapped(other)
        return self.device.wrapped(apply(*(operands[::-1] if reflected else operands)))

    return method


def _in_place(name: str) -> Any:
    apply, apart = getattr(operator, f"__i{name}__"), _operator(name)

    def method(self: ndarray, other: Any) -> ndarray:
        if self.ndim == 0:  # the result of a sum is a number, which others may have
            return apart(self, other)
        self.raw = apply(self.raw, self.device.unwrapped(other))
        return self

    return method


_ARITHMETIC = (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
)
for _name in _ARITHMETIC:
    setattr(ndarray, f"__{_name}__", _operator(_name))
    setattr(ndarray, f"__r{_name}__", _operator(_name, reflected=True))
    setattr(ndarray, f"__i{_name}__", _in_place(_name))
for _name in ("lt", "le", "eq", "ne", "gt", "ge", "neg", "pos", "abs", "invert"):
    setattr(ndarray, f"__{_name}__", _operator(_name))
