"""The seam: who computes a thing here.

A function of arrays that may have a faster body is an `operation`. Its portable body is the
definition, and names no library. The bodies of a library are a table, ``accelerate/<library>.py``,
which is looked up at the first sight of a type of array; where there is none, all is portable. What
is asked for by name is a table too, which a context lays over that one: `using`.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np

from xplayers.arrays.namespaces import Array, library, namespace

# By the names of operations. A body has the signature of its operation, and returns NotImplemented
# for what it does not compute. Whether it does depends on types, shapes, dtypes, layouts and
# devices, never on values. It gives the bits of the portable body, or says by how much not.
Bodies = Mapping[str, Any]
Function = TypeVar("Function", bound=Callable[..., Any])

_TABLES: dict[type, Bodies] = {float: {}, int: {}}  # numbers of Python have no bodies
_LIBRARIES: dict[type, str] = {}
_MET: set[str] = set()
# Kinds (a type of array, or the name of a library) and their bodies, the innermost first.
_Laid = tuple[tuple[Any, Bodies], ...]
_laid: contextvars.ContextVar[_Laid] = contextvars.ContextVar("xplayers.using", default=())
# What has ever been laid for: of other arrays nobody asks a context, of which `torch.compile` does
# not know.
_LAID_FOR: set[Any] = set()

OPERATIONS: dict[str, Callable[..., Any]] = {}


def operation(portable: Function) -> Function:
    """Make a function of arrays an operation: it is its own body where there is no other.

    Its name is that of the function. The first argument says who computes: an array, or a list of
    arrays, of which it is the first.
    """
    name = portable.__name__

    @functools.wraps(portable)
    def call(x: Any, *args: Any, **options: Any) -> Any:
        try:
            body = _TABLES[type(x)].get(name)
        except KeyError:
            body = _bodies(x).get(name)
        if _LAID_FOR and _is_laid_for(x):
            result = _by_what_is_laid(name, x, args, options)
            if result is not NotImplemented:
                return result
        if body is not None:
            result = body(x, *args, **options) if options else body(x, *args)
            if result is not NotImplemented:
                return result
        return portable(x, *args, **options)

    OPERATIONS[name] = call
    return call  # pyright: ignore[reportReturnType]


def portable_body(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the portable body of an operation."""
    return function.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]


@contextlib.contextmanager
def using(kind: type | str, bodies: Bodies, on: bool = True) -> Iterator[None]:
    """Lay a table over those of a type of array, in this context; not `on`: take it away.

    `kind` may be the name of a library, for all of its types.
    """
    _LAID_FOR.add(kind)
    before, pair = _laid.get(), (kind, bodies)
    _laid.set((pair, *before) if on else tuple([p for p in before if p[1] is not bodies]))
    try:
        yield
    finally:  # in the order or the context in which generators end, too
        _laid.set(tuple([p for p in _laid.get() if p is not pair]) if on else before)


def laid(name: str, kind: type | str | None = None) -> list[Any]:
    """Return what this context has laid under a name over the bodies of a kind; the last first."""
    return [
        bodies[name] for array, bodies in _laid.get()
        if (kind is None or array == kind) and name in bodies
    ]  # fmt: skip


def body_of(function: Callable[..., Any], x: Array) -> Callable[..., Any] | None:
    """Return the body that an operation has for an array in its library's table."""
    name = getattr(function, "__name__", "")
    return _bodies(x).get(name) if OPERATIONS.get(name) is function else None


def _is_laid_for(x: Any) -> bool:
    kind = type(x[0] if type(x) is list else x)
    return (kind in _LAID_FOR or _LIBRARIES.get(kind) in _LAID_FOR) and bool(_laid.get())


def _by_what_is_laid(name: str, x: Any, args: tuple, options: dict[str, Any]) -> Any:
    kind = type(x[0] if type(x) is list else x)
    for array, bodies in _laid.get():
        body = bodies.get(name)
        if body is not None and (array is kind or array == _LIBRARIES.get(kind)):
            result = body(x, *args, **options)
            if result is not NotImplemented:
                return result
    return NotImplemented


def table(library: str, name: str) -> Bodies:
    """Return a table of ``accelerate/<library>.py``, which is empty where there is none."""
    names = "xplayers.accelerate", f"xplayers.accelerate.{library}"
    return (
        getattr(importlib.import_module(names[1]), name, {}) if all(map(find_spec, names)) else {}
    )


def tabulate(kind: type, bodies: Bodies) -> None:
    """Let a type of tracers have these bodies."""
    _TABLES[kind] = bodies


def _bodies(x: Any) -> Bodies:
    """Return the table of an array, or of the first of a list, which is found at first sight."""
    x = x[0] if type(x) is list else x
    if type(x) not in _TABLES:
        meet_tensors()
    if type(x) not in _TABLES:
        _LIBRARIES[type(x)] = library(x)
        # A subclass of NumPy's array may compute otherwise.
        known = not isinstance(x, np.ndarray) or type(x) is np.ndarray
        _TABLES[type(x)] = table(library(x), "BODIES") if known else {}
    return _TABLES[type(x)]


def meet_tensors() -> None:
    """Let PyTorch's tensors have their bodies, where it has been imported.

    `torch.compile` cannot follow a first look into what it writes down, so it must not be the first
    to see them.
    """
    torch: Any = sys.modules.get("torch")
    if "torch" in _MET or not hasattr(torch, "nn"):  # or it is being imported
        return
    _MET.add("torch")
    bodies = table("torch", "BODIES")
    namespace(torch.empty(0, device="cpu"))
    for kind in (torch.Tensor, torch.nn.Parameter):
        _LIBRARIES[kind] = "torch"
        _TABLES.setdefault(kind, bodies)
