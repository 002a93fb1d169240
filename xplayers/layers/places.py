"""Where in a network an error was raised: notes on the error, and in notebooks a drawing."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from xplayers._checks import shown
from xplayers._terminal import in_notebook
from xplayers.layers.representation import drawing
from xplayers.layers.variables import Parameter

RETURNED = {  # what a layer of one's own has to return, and an example
    "apply": "the output and a tuple of what vjp needs, as in `return y, (x,)`",
    "vjp": "the gradient of the input and those of the parameters, as in `return dx, {}`",
}

PURE = {  # what the pure functions of a layer take
    "apply": "arrays, x", "infer": "arrays, x", "vjp": "cache, dy", "param_grads": "cache, dy",
}  # fmt: skip


def locate(error: Exception, container: Any, part: Any) -> None:
    """Note on an error in which part of a container it was raised."""
    explain(error, part.layer)
    error.add_note(f"In part {part.name!r} of {type(container).__name__}.")
    if in_notebook():
        inner = getattr(error, "_render_traceback_", None)
        names = inner.names if isinstance(inner, Place) else ()
        # It is what IPython calls, if it is there, to show an error that nobody has caught.
        error._render_traceback_ = Place(error, container, (part.name, *names))  # type: ignore


class Place:
    """The traceback of an error in a notebook, and above it the network with the part marked."""

    def __init__(self, error: Any = None, container: Any = None, names: tuple = ()) -> None:
        self.error, self.container, self.names = error, container, names

    def __reduce__(self) -> tuple[Any, ...]:
        return Place, ()  # an error that goes to another process leaves the network here

    def __call__(self) -> list[str]:
        ipython: Any = sys.modules["IPython"]
        container, self.container = self.container, None  # once: kernels ask more than once
        if container is not None:
            with contextlib.suppress(Exception):  # nothing may hide the error
                html = drawing(container, self.names, f"{type(self.error).__name__} here")
                ipython.display.display(ipython.display.HTML(html))
        error: Any = self.error or sys.exc_info()[1]
        show = ipython.get_ipython().InteractiveTB.structured_traceback
        return show(type(error), error, error.__traceback__)


def explain(error: Exception, layer: Any) -> None:
    """Note on an error which array the layer does not have, or what its functions have to take.

    It is noted once, where the error was raised.
    """
    if getattr(error, "__notes__", None):
        return
    if isinstance(error, TypeError) and (message := _misdefined(layer)):
        error.add_note(message)
    if not isinstance(error, KeyError):
        return
    name = error.args[0] if error.args else None
    if not isinstance(name, str):
        return
    if isinstance(inspect.getattr_static(type(layer), name, None), Parameter):
        error.add_note(f"{layer._owner}: {name} has no value. Set it in __init__: self.{name} = a.")
    else:
        has = ", ".join(layer.arrays) or "none"
        error.add_note(f"{layer._owner}: there is no array {name!r}; its arrays: {has}.")


def _misdefined(layer: Any) -> str:
    """Return which function of a layer of one's own does not take what it is given."""
    for name, takes in PURE.items():
        signature = inspect.signature(getattr(layer, name))
        try:  # `apply` may need further inputs
            (signature.bind if "dy" in takes else signature.bind_partial)(None, None)
        except TypeError:
            own = ", ".join(["self", *signature.parameters])
            return f"{layer._owner} defines {name}({own}); expected {name}(self, {takes})."
    return ""


def check_pair(layer: Any, method: str, result: Any) -> None:
    """Check that `apply` or `vjp` of a layer of one's own has returned a pair, not an array."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        message = f"{layer._owner}.{method} returned {shown(result)}; expected {RETURNED[method]}."
        raise TypeError(message)


def check_grads(layer: Any, grads: Any) -> None:
    """Check that what `vjp` has returned second are gradients by name."""
    if not isinstance(grads, Mapping):
        message = (
            f"{layer._owner}.vjp returned {shown(grads)} for the gradients of the parameters; "
            "expected a dict by their names, {} without parameters."
        )
        raise TypeError(message)


def unknown_gradient(layer: Any, name: Any) -> KeyError:
    """Return the error for a gradient of what is no parameter."""
    error = KeyError(name)
    has, hint = ", ".join(layer.params) or "none", f"Declare it in the class: {name} = Parameter()."
    returned = f"{layer._owner}.vjp returned a gradient of {name!r}; its parameters: {has}."
    error.add_note(f"{returned} {hint}" if str(name).isidentifier() else returned)
    return error


def no_gradient(layer: Any, name: str, grads: Mapping[str, Any]) -> KeyError:
    """Return the error for a parameter of which `vjp` returns no gradient."""
    error = KeyError(name)
    got = f"one of {', '.join(map(repr, grads))}" if grads else "none"
    message = f"{layer._owner}.vjp returned no gradient of the parameter {name!r}, but {got}."
    error.add_note(f"{message} Return dx, {{{name!r}: gradient}}.")
    return error


def locate_backward(
    error: Exception, container: Any, parts: Sequence[Any], i: int, dy: Any
) -> None:
    """As `locate`, and say of what shape the gradient was, and who has returned it."""
    shape = getattr(dy, "shape", None)
    if shape is not None and i + 1 < len(parts) and not getattr(error, "__notes__", None):
        explain(error, parts[i].layer)
        source = f"part {parts[i + 1].name!r}, {parts[i + 1].layer._owner}"
        error.add_note(f"It got a gradient of shape {tuple(shape)} from {source}.")
    locate(error, container, parts[i])
