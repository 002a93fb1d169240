"""Checks of arguments, in constructors and at first use, not in every call.

Errors name the owner, the argument, its value, what was expected, and the next step:
``SGD: lr is -1; expected a positive number.`` A wrong value is a ValueError, a wrong type a
TypeError. Numbers are returned as Python's, which never affect the dtype of an array: with
``eps=np.float64(1e-5)`` unchanged, float32 arrays would become float64.
"""

from __future__ import annotations

import inspect
import math
import numbers
import operator
import reprlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def shown(value: Any) -> str:
    """Return a short description of `value` for error messages."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"an array of shape {tuple(shape)}"
    if isinstance(value, np.generic):
        value = value.item()
    text = _SHORT.repr(value)
    if text.startswith("<") and not isinstance(value, str):  # <xplayers... object at 0x7f...>
        name = getattr(value, "__name__", None)
        return f"the {type(value).__name__} {name}" if name else _a(type(value).__name__)
    return " ".join(text.split())


def number(
    owner: object,
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    finite: bool = True,
    hint: str = "",
) -> float:
    """Return `value`, a real number of Python, NumPy or a 0-d array, as a float.

    It is at least `least` or above `above`, and at most `most` or below `below`. Infinity is
    refused if it has to be `finite`, NaN always. `owner` is what was called, with the argument
    `name`; `hint` is the next step.
    """
    x = value if type(value) is float else _real(value)
    if x is None:
        expected = _range(least, above, most, below)
        expected = expected if "number" in expected else f"a number from {expected}"
        raise TypeError(_wrong(owner, name, value, expected, hint))
    in_range = (
        not math.isnan(x)
        and (not finite or math.isfinite(x))
        and (least is None or x >= least)
        and (above is None or x > above)
        and (most is None or x <= most)
        and (below is None or x < below)
    )
    if not in_range:
        raise ValueError(_wrong(owner, name, value, _range(least, above, most, below), hint))
    return x


def positive(owner: object, name: str, value: Any, *, finite: bool = True, hint: str = "") -> float:
    """Return `value` as a float above 0."""
    return number(owner, name, value, above=0, finite=finite, hint=hint)


def integer(
    owner: object,
    name: str,
    value: Any,
    *,
    least: int | None = 1,
    in_range: str = "",
    hint: str = "",
) -> int:
    """Return `value`, an integer of Python, NumPy or a 0-d array, as an int of `least` or more.

    `in_range` describes those of `least` or more, where "an integer of at least" would not.
    """
    expected = "an integer" if least is None or in_range else f"an integer of at least {least}"
    try:
        if _is_bool(value):
            raise TypeError
        n = operator.index(value)
    except TypeError:
        real = _real(value)
        if not hint and real is not None and real.is_integer():
            hint = f"Use // to divide, or int({name})."
        raise TypeError(_wrong(owner, name, value, expected, hint)) from None
    if least is not None and n < least:
        raise ValueError(_wrong(owner, name, value, in_range or expected, hint))
    return n


def optional(
    owner: object, name: str, value: Any, *, check: Callable[..., Any], **limits: Any
) -> Any:
    """Return None as it is, and any other `value` as a function of this file does."""
    return None if value is None else check(owner, name, value, **limits)


def flag(owner: object, name: str, value: Any) -> bool:
    """Return `value`, True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(_wrong(owner, name, value, "True or False", ""))
    return bool(value)


def choice(owner: object, name: str, value: Any, choices: Sequence[Any], *, hint: str = "") -> Any:
    """Return `value`, which is one of `choices`."""
    value = bool(value) if isinstance(value, np.bool_) else value
    for option in choices:
        if value is option or (isinstance(value, str) and value == option):
            return option
    expected = " or ".join(filter(None, (", ".join(map(repr, choices[:-1])), repr(choices[-1]))))
    message = _wrong(owner, name, value, expected, hint)
    raise (ValueError if isinstance(value, str) else TypeError)(message)


def instance(
    owner: object, name: str, value: Any, kinds: Any, expected: str, *, hint: str = ""
) -> Any:
    """Return `value`, an instance of `kinds` (a class or a tuple); `expected` describes them."""
    if isinstance(value, kinds):
        return value
    if isinstance(value, type) and issubclass(value, kinds):
        hint = f"Call the class: {constructor_call(value)}."
    raise TypeError(_wrong(owner, name, value, expected, hint))


def function(owner: object, name: str, value: Any, expected: str = "a function") -> Any:
    """Return `value`, a callable."""
    if not callable(value):
        raise TypeError(_wrong(owner, name, value, expected, ""))
    return value


def processes(owner: object, group: Any) -> Any:
    """Check a group of processes; None is none."""
    names = ("rank", "size", "sum_", "broadcast_", "barrier", "abort")
    if group is not None and (
        isinstance(group, type) or not all(hasattr(group, name) for name in names)
    ):
        expected = "a group of processes, as xplayers.parallel.group() returns it"
        raise TypeError(_wrong(owner, "group", group, expected, ""))
    return group


def generator(owner: object, name: str, value: Any) -> np.random.Generator:
    """Return the generator for `value`: an int is a seed, None draws fresh entropy."""
    expected = "an int (a seed), a numpy.random.Generator or None"
    empty = isinstance(value, list | tuple) and not value
    if _is_bool(value) or isinstance(value, str | bytes) or empty:
        raise TypeError(_wrong(owner, name, value, expected, ""))
    try:
        return np.random.default_rng(value)
    except (TypeError, ValueError) as error:
        message = _wrong(owner, name, value, expected, "")
        raise (ValueError if isinstance(error, ValueError) else TypeError)(message) from None


class Option:
    """Descriptor of an attribute that is checked whenever it is set.

    It is declared in the class, with a function of this file: ``eps = Option(number, least=0)``.
    The value is in the ``__dict__`` of the object, so reading is as fast as for others.
    """

    def __init__(self, check: Callable[..., Any], /, **limits: Any) -> None:
        self.check, self.limits = check, limits

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __set__(self, obj: Any, value: Any) -> None:
        checked = self.check(type(obj).__name__, self.name, value, **self.limits)
        obj.__dict__[self.name] = checked

    if TYPE_CHECKING:  # a __get__ would slow down reading

        def __get__(self, obj: Any, owner: type | None = None) -> Any: ...


def floating(owner: object, name: str, value: Any) -> np.dtype:
    """Return the NumPy dtype of `value`: a floating dtype of any library, or its name."""
    expected = "'float32', 'float64' or 'float16'"
    text = str(value)
    try:
        dtype = np.dtype(text.removeprefix("torch.") if text.startswith("torch.") else value)
    except TypeError:
        dtype = None
    if value is None or dtype is None:
        kind = ValueError if isinstance(value, str) else TypeError
        hint = ""
        if text.endswith("bfloat16"):  # not a dtype of NumPy
            hint = "Make it in float32, and call to(like=x)."
        raise kind(_wrong(owner, name, value, expected, hint))
    if dtype.name not in ("float16", "float32", "float64", "bfloat16") or not dtype.isnative:
        raise TypeError(_wrong(owner, name, value, expected, ""))
    return dtype


def sizes(owner: object, name: str, value: Any, *, least: int | None = 1) -> tuple[int, ...]:
    """Return a sequence of integers of `least` or more as a tuple of ints."""
    each = "integers" if least is None else f"integers of at least {least}"
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(_wrong(owner, name, value, f"a sequence of {each}", ""))
    try:
        return tuple([integer(owner, name, n, least=least) for n in value])
    except (TypeError, ValueError) as error:
        raise type(error)(_wrong(owner, name, value, each, "")) from None


def one_by_one(owner: object, name: str, values: tuple[Any, ...], call: str, least: int = 1) -> Any:
    """Return sizes that a function takes as separate arguments, ``f(*values)``, as ints."""
    if len(values) == 1 and isinstance(values[0], tuple | list):
        arguments = ", ".join(map(repr, values[0]))
        message = f"{owner}: {name} is {shown(values[0])}; expected separate integers."
        raise TypeError(f"{message} Write {call}({arguments}).")
    return sizes(owner, name, values, least=least)


def constructor_call(kind: type) -> str:
    """Return the call that creates a `kind`, with its required arguments: ``Relu()``."""
    name, make = kind.__name__, kind.__init__
    if isinstance(inspect.getattr_static(kind, "init", None), classmethod):
        name, make = f"{name}.init", kind.init
    return f"{name}({', '.join(required_arguments(make))})"


def required_arguments(make: Callable[..., Any]) -> list[str]:
    """Return the names of the required arguments of a function or ``__init__``."""
    if make is object.__init__:
        return []
    return [
        f"*{p.name}" if p.kind is p.VAR_POSITIONAL else p.name
        for p in inspect.signature(make).parameters.values()
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD and p.name != "self"
    ]


def _wrong(owner: object, name: str, value: Any, expected: str, hint: str) -> str:
    return f"{owner}: {name} is {shown(value)}; expected {expected}." + (f" {hint}" if hint else "")


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _is_bool(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return isinstance(value, bool | np.bool_) or str(dtype).rpartition(".")[2] == "bool"


def _real(value: Any) -> float | None:
    """Return a real number as a float, else None."""
    scalar = getattr(value, "shape", None) == ()  # a NumPy scalar, or a 0-d array of any library
    if _is_bool(value) or not (scalar or isinstance(value, numbers.Real)):
        return None
    if getattr(getattr(value, "dtype", None), "kind", "f") not in "iufV":  # V: bfloat16
        return None
    try:
        return float(value)
    except OverflowError:
        return -math.inf if str(value).startswith("-") else math.inf
    except (TypeError, ValueError):  # complex, a tracer of JAX, a record
        return None


def _range(
    least: float | None, above: float | None, most: float | None, below: float | None
) -> str:
    """Describe a range."""
    low, high = above if least is None else least, below if most is None else most
    if high is None:
        if low is None:
            return "a number"
        if low == 0:
            return "a positive number" if least is None else "a number of 0 or more"
        return f"a number above {low}" if least is None else f"a number of {low} or more"
    upper = f"less than {high}" if most is None else f"{high}"
    if low is None:
        return f"a number of at most {high}" if most is not None else f"a number below {high}"
    if least is not None:
        return f"{low} to {upper}"
    return f"a number above {low} and {'at most' if most is not None else 'below'} {high}"
