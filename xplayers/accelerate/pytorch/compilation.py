"""A training step by `torch.compile`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from xplayers.accelerate.fingerprint import Sources

# What PyTorch calls the modules that nobody changes between steps: this one, whose names stand as
# they are, and those of the package and of the libraries below it.
_OWN = re.compile(
    r"G\['(?!__import_)|G\['__import_(xplayers|array_api_compat|torch|numpy)(_dot_|'\])"
)
_OWN_AND_STEP = re.compile(rf"{_OWN.pattern}|\btwin\b")  # what a compiled function reads, below


def compiled_step(step: Any) -> Callable[..., Any]:
    """Return the pure function of a step, compiled.

    PyTorch keeps what it has compiled with the code of a function, and gives up after the eighth:
    each step has code of its own. Whether parameters are tied still is asked before it is used.

    Before each call PyTorch asks for everything that it has looked at while it compiled, by the
    hundred. It need not ask for functions and constants of this package, nor, where `Sources` sees
    all of them, for the attributes of the step.
    """
    twin = object.__new__(type(step))
    vars(twin).update(vars(step))
    twin._reset()  # it holds no arrays
    twin._tied = step.net._ties.rows()

    def whole(*arguments: Any) -> Any:
        return twin.pure(*arguments)

    whole.__code__ = whole.__code__.replace()
    torch, sources = sys.modules["torch"], Sources()
    sources.hold(step)
    if not hasattr(torch.compiler, "skip_guard_on_globals_unsafe"):  # before PyTorch 2.8
        return torch.compile(whole)
    known = _OWN_AND_STEP if sources.proved else _OWN

    def asked(guards: Iterable[Any]) -> list[bool]:
        return [not known.search(str(guard.name)) for guard in guards]

    return torch.compile(whole, options={"guard_filter_fn": asked})
