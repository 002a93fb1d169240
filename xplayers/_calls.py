"""Calls with arguments that are missing, too many or unknown.

Python's own words for them name neither what was called on which object nor the next step. Here
they are those of all other refusals: ``Adam.update: grads is missing; expected Adam.update(params,
grads, *, lr=None). Pass update(net.params, net.grads).``
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
Function = TypeVar("Function", bound=Callable[..., Any])
Kind = TypeVar("Kind", bound=type)


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING: Final = _Missing()


class _Default:
    """A default value that is a function, shown by its name."""

    def __init__(self, value: Any) -> None:
        self.name = value.__name__

    def __repr__(self) -> str:
        return self.name


def call_signature(function: Callable[..., Any], *, bound: bool) -> inspect.Signature:
    """Return the signature without annotations, as people write a call; `bound`: without self."""
    parameters = []
    for p in [*inspect.signature(function).parameters.values()][bound:]:
        named = inspect.isroutine(p.default)
        default = _Default(p.default) if named else p.default
        parameters.append(p.replace(annotation=p.empty, default=default))
    return inspect.Signature(parameters)


def wrong_call(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Any) -> str:
    """Return what is wrong with the arguments of a call, or nothing."""
    try:
        arguments = signature.bind_partial(*args, **kwargs).arguments
    except TypeError as error:
        return str(error)
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    *names, last = [
        name
        for name, p in signature.parameters.items()
        if name not in arguments and p.default is p.empty and p.kind not in optional
    ] or [""]
    if names:
        return f"{', '.join(names)} and {last} are missing"
    return f"{last} is missing" if last else ""


def explained(
    hint: str | Callable[[], str] = "", *, name: str = ""
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function or method, so that calls with wrong arguments say what is expected.

    `hint` is the next step, or a function that returns it. A method is named by the class of its
    object, or as `name`. It adds a fraction of a microsecond to a call: what is called for each
    layer has `or_missing`. Signatures are looked at where a call is wrong, not on import.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except TypeError as error:
                trace = error.__traceback__
                if trace is None or trace.tb_next is not None:  # raised by what was called
                    raise
                refused = _refusal(function, args, kwargs, hint, name)
                if refused is None:
                    raise
            raise refused

        return call

    return decorate


def explained_data(kind: Kind) -> Kind:
    """Decorate a data class, whose constructor is generated, as `explained` does a function."""
    data: Any = kind
    data.__init__ = explained()(data.__init__)
    return kind


def _refusal(
    function: Callable[..., Any], args: Any, kwargs: Any, hint: str | Callable[[], str], name: str
) -> TypeError | None:
    bound = next(iter(inspect.signature(function).parameters), "") in ("self", "cls")
    signature = call_signature(function, bound=bound)
    wrong = wrong_call(signature, args[bound:], kwargs)
    if not wrong:
        return None
    owner = function.__name__
    if bound:
        of, _, method = function.__qualname__.rpartition(".")
        kind = args[0] if args and isinstance(args[0], type) else type(args[0] if args else None)
        if of in [c.__qualname__ for c in kind.__mro__]:
            of = kind.__name__
        owner = of if method in ("__init__", "__call__") else f"{of}.{method}"
    next_step: str = hint() if callable(hint) else hint
    return refusal(owner, signature, kwargs, wrong, next_step, name or owner)


def refusal(
    owner: str, signature: inspect.Signature, kwargs: Any, wrong: str, hint: str, name: str
) -> TypeError:
    """Return the error of a call of `name` that is wrong, as `wrong_call` says."""
    from xplayers._foreign import foreign  # which imports this file

    hints = " ".join(filter(None, (foreign(signature, kwargs), hint)))
    return TypeError(f"{owner}: {wrong}; expected {name}{signature}. {hints}".strip())


def or_missing(method: Function) -> Function:
    """Let a method refuse required arguments that are missing: their default is `MISSING`.

    The signature stays, without `extra`, and a call costs nothing more.
    """
    function: Any = method
    signature = inspect.signature(function)
    shown = [p for p in signature.parameters.values() if p.name != "extra"]
    signature = signature.replace(parameters=shown)
    positional = [
        p
        for p in [*signature.parameters.values()][1:]
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty
    ]
    function.__signature__ = signature
    function.__defaults__ = (MISSING,) * len(positional) + (function.__defaults__ or ())
    return method
