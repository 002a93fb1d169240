"""What layers say of arguments that are not what they should be."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

from xplayers._checks import constructor_call, shown
from xplayers._foreign import ARGUMENTS
from xplayers.arrays.checks import check_off_tape, described, elsewhere
from xplayers.arrays.namespaces import Array, device, namespace


def positional(owner: str, value: Any) -> str:
    """Return the error message for ``net.to("cuda")``."""
    if isinstance(value, ModuleType):
        hint = f"xp={value.__name__}"
    elif not isinstance(value, type | np.dtype) and hasattr(value, "dtype"):
        hint = "like=x"
    elif "float" in str(value):
        hint = f"dtype={value.__name__!r}" if isinstance(value, type) else f"dtype={value!r}"
    else:
        hint = f"xp=torch, device={str(value)!r}"
    alternative = "To the device of an array: to(like=x)." if hint != "like=x" else ""
    message = (
        f"{owner}: {shown(value)} is positional; expected a keyword argument. "
        f"Write to({hint}). {alternative}"
    )
    return message.strip()


def missing(layer: Any, name: str, *extra: Any) -> NoReturn:
    """Refuse a call of a layer without its argument, ``x`` or ``dy``, or with `extra` ones."""
    if not hasattr(layer, "_owner"):  # Relu.forward(x), where `layer` is that x
        method = "forward(x)" if name == "x" else "backward(dy)"
        message = f"{method} is called on a class; expected a layer, as Relu().{method}."
    elif extra:
        message = (
            f"{layer._owner}.backward: {', '.join(map(shown, extra))} is positional; expected "
            "backward(dy, *, input_grad=True)."
        )
        if type(extra[0]) is bool:
            message += f" Write backward(dy, input_grad={extra[0]})."
    elif name == "x":
        message = f"{layer._owner}: x is missing; expected forward(x) or predict(x)."
    else:
        message = (
            f"{layer._owner}.backward: dy is missing; expected the gradient of the output. Write "
            "backward(loss.backward())."
        )
    raise TypeError(message)


def check_gradient(owner: str, dy: Array, y: Array) -> None:
    """Check that the gradient `dy` fits the output `y`."""
    if namespace(dy, owner, "dy") is not namespace(y) or elsewhere(device(dy), device(y)):
        message = f"{owner}: dy is {described(dy)}; the output of forward was {described(y)}."
        raise TypeError(message)
    if dy.shape != y.shape:
        message = f"{owner}: dy has shape {tuple(dy.shape)}; expected {tuple(y.shape)}."
        raise ValueError(message)
    if dy.dtype != y.dtype:
        message = (
            f"{owner}: dy is {dy.dtype}; the output of forward was {y.dtype}. "
            "Convert it: xp.astype(dy, y.dtype)."
        )
        raise TypeError(message)
    check_off_tape(owner, "dy", dy)


def check_inputs(layer: Any, inputs: Sequence[Any], named: Mapping[str, Any]) -> None:
    """Raise an error if a layer takes no such further inputs."""
    signature = inspect.signature(layer.apply)
    try:
        signature.bind({}, None, *inputs, **named)
    except TypeError as error:
        parameters = [*signature.parameters.values()][1:]
        known = ", ".join([str(p.replace(annotation=p.empty)) for p in parameters])
        message = f"{layer._owner}: {error}; expected forward({known})."
        if not inputs and not named and len(parameters) == 0:
            takes = ", ".join(["self", *signature.parameters])
            message = f"{layer._owner} defines apply({takes}); expected apply(self, arrays, x)."
        if "train_flg" in named or any(type(a) is bool for a in inputs):
            message += f" {ARGUMENTS['train_flg']}"
        raise TypeError(message) from None


def with_initial_values(kind: type) -> str:
    """Return the next step for who calls a class that has an `init`."""
    if "fit" in vars(kind):
        return f"{kind.__name__}.fit(x) computes them of samples."
    return f"With initial values it is {constructor_call(kind)}."
