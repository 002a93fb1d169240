"""Objects as the code that makes them, for `repr`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

from xplayers._drawing import Box, svg


def drawing(layer: Any, path: Sequence[str] = (), mark: str = "") -> str:
    """Return a layer as SVG: its parts, and how many parameters they have.

    `path` has the names of a part, from the outside to the inside, at which `mark` is written.
    """
    return svg(_box(layer, "", path, mark), f"{layer._owner}: {_count(layer)}")


def _box(layer: Any, name: str, path: Sequence[str], mark: str) -> Box:
    parts = tuple(
        _box(p.layer, p.name, path[1:], mark if path[:1] == (p.name,) else "")
        for p in getattr(layer, "_parts", ())
    )
    title = f"{name}: {layer._owner}" if name else layer._owner
    count = (_count(layer),) if layer.params else ()
    side_by_side = getattr(layer, "_side_by_side", False)
    return Box((title, *count), parts, side_by_side, "" if path else mark)


def _count(layer: Any) -> str:
    n = sum(math.prod(a.shape) for a in layer.params.values())
    return f"{n:,} parameter{'s' * (n != 1)}"


def init_call(layer: Any, sizes: Sequence[int]) -> str:
    """Return the call of `init` with these positional arguments, and what differs from defaults."""
    kind = type(layer)
    values = {**vars(layer), "bias": any(name[0] == "b" for name in layer.params)}
    named = [
        p for p in inspect.signature(kind.init).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]
    changed = [p.name for p in named if values.get(p.name, p.default) != p.default]
    arguments = [*map(str, sizes), *(f"{name}={values[name]!r}" for name in changed)]
    return f"{kind.__name__}.init({', '.join(arguments)})"


def options(layer: Any, kind: type | None = None) -> list[str]:
    """Return the constructor arguments that are not arrays and differ from their defaults."""
    arguments, kind = [], kind or type(layer)
    for name, p in inspect.signature(kind.__init__).parameters.items():
        value = layer.__dict__.get(name, p.default)
        if p.kind is p.VAR_KEYWORD and kind.__base__ is not None:  # passed on to the base class
            arguments += [o for o in options(layer, kind.__base__) if o not in arguments]
        elif value is not p.default and value != p.default:
            arguments.append(f"{name}={value!r}")
    return arguments


def code(obj: Any, parts: Sequence[str], rest: Sequence[str]) -> str:
    """Return a constructor call, one argument a line: attributes named `parts`, then `rest`."""
    rows = [*(repr(getattr(obj, name)).replace("\n", "\n    ") for name in parts), *rest]
    return "\n    ".join([f"{type(obj).__name__}(", *(f"{row}," for row in rows)]) + "\n)"
