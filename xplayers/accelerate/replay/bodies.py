"""The table of tracers: how an operation is written down.

What has a body for the array itself is written down as one call of it; what has none is called with
the tracers, and its portable body writes itself down.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from xplayers.accelerate.host import activations as host_activations
from xplayers.accelerate.host.elementwise import is_alike, program_of, viewed
from xplayers.accelerate.host.roots import root, with_exact_root
from xplayers.accelerate.host.softmax import is_for_kernels
from xplayers.accelerate.pytorch import activations as pytorch_activations
from xplayers.accelerate.replay.recording import RecordingNamespace, Tracer, instances, values
from xplayers.arrays.elementwise import scalar
from xplayers.arrays.namespaces import namespace, on_host
from xplayers.arrays.operation import OPERATIONS, body_of, portable_body


class _Bodies(dict[str, Callable[..., Any]]):
    """The bodies that are asked for, each made at first sight."""

    def __missing__(self, name: str) -> Callable[..., Any]:
        function = OPERATIONS[name]

        def body(x: Any, *args: Any, **options: Any) -> Any:
            first = next(instances(Tracer, x))
            own = body_of(function, first.value)
            if own is None or _is_in_parts(name, first.value):
                return NotImplemented
            # Of the library's body, if it takes such arrays, as it then does in every replay.
            result = first.recording.call("call", own, (x, *args), options)
            if result is NotImplemented and name not in _IN_PARTS | _ELSE_IN_PARTS:
                result = first.recording.call("call", function, (x, *args), options)
            return result

        self[name] = body
        return body

    def get(self, name: str, default: Any = None) -> Any:
        return self[name]


_TORCH = "array_api_compat.torch"


def evaluate(x: Any, function: Any, operands: tuple, out: Any, options: dict[str, Any]) -> Any:
    """Write an elementwise function down as one call, or let it write itself down."""
    if x.shape or not isinstance(x.value, np.ndarray | np.generic):
        operands = (x, *map(_scalar, operands[1:]))
    plain = [a.value if isinstance(a, Tracer) else a for a in operands]
    if x.xp.__name__ == _TORCH:
        kernel = pytorch_activations.kernel_of(function, (*plain,), None, options, recorded=True)
    else:
        kernel = host_activations.kernel_of(function, plain[0])
    if kernel is not None:
        return x.recording.call("call", kernel, operands, {})
    if not _is_one_call(function, plain, options):
        on_cpu = x.xp.__name__ == _TORCH and on_host(x)
        xp = _with_exact_root(x.xp) if on_cpu else x.xp
        return function.function(xp, *operands, **options)
    buffers = None
    if out is not None:  # `out` itself is written when all has gone well
        outs = [values(o) for o in (out if isinstance(out, tuple) else (out,))]
        buffers = tuple([namespace(o).empty_like(o) for o in outs])
        buffers = buffers if isinstance(out, tuple) else buffers[0]
    results = function(*plain, out=buffers, **options)
    many = isinstance(results, tuple)
    tracers = [x.recording.tracer(r) for r in (results if many else (results,))]
    # A 0-d tensor of the host takes part as a number, as it does without a recording.
    operands = tuple([a.item() if isinstance(a, Tracer) and not a.shape else a for a in operands])
    x.recording.add("elementwise", function, operands, options, tracers, many=many)
    return tuple(tracers) if many else tracers[0]


def _is_one_call(function: Any, operands: list, options: dict[str, Any]) -> bool:
    """Whether a replay can leave the operands to a program, with the same bits."""
    seen = viewed(operands)
    if seen is None or not operands[0].shape:
        return False
    program = program_of(function, seen, options)
    return program is not None and (seen is operands or is_alike(program, operands))


def _scalar(a: Any) -> Any:
    """Return a NumPy scalar or its tracer as a Python number or its tracer."""
    if isinstance(a, Tracer) and isinstance(a.value, np.ndarray | np.generic) and not a.shape:
        return a.item()
    return scalar(a)


@functools.cache
def _with_exact_root(xp: RecordingNamespace) -> RecordingNamespace:
    exact: Any = RecordingNamespace(xp._real)
    plain: Any = with_exact_root(xp._real).sqrt

    def sqrt(x: Any) -> Any:
        tracer = isinstance(x, Tracer)
        return x.recording.call("call", root, (x,), {}) if tracer else plain(x)

    exact.sqrt = sqrt
    return exact


def examine(x: Any, check: Callable[..., None], *args: Any) -> None:
    """Check now, and in every replay."""
    tracer = next(instances(Tracer, (x, args)))
    check(*values((x, *args)))
    tracer.recording.add("call", check, (x, *args), {}, [])


def _one_call(name: str) -> Callable[..., Any]:
    """Return a body that writes the portable one down as one call."""

    def body(x: Any, *args: Any) -> Any:
        own = portable_body(OPERATIONS[name])
        return next(instances(Tracer, x)).recording.call("call", own, (x, *args), {})

    return body


def _portable(*args: Any, **options: Any) -> Any:
    return NotImplemented


BODIES = _Bodies(
    evaluate=evaluate,
    evaluate_rows=_portable,
    zero_unless=_portable,
    relu_and_sign=_portable,  # ReLU is written over what comes in
    scaled=_portable,
    examine=examine,
    host_values=lambda a: None,  # they differ in every replay
    host_number=lambda a: a.item(),
    corrections=_one_call("corrections"),  # of a number, which takes Python's functions
    summed=_one_call("summed"),  # with other processes
    over_ranks=_one_call("over_ranks"),
)
_IN_PARTS = {"product", "cross_entropy_of_labels"}


def _is_in_parts(name: str, x: Any) -> bool:
    """Whether replays on NumPy have memory for the parts, which so cost less than a call."""
    return (
        name in _IN_PARTS
        and isinstance(x, np.ndarray)
        and not (name == "cross_entropy_of_labels" and is_for_kernels(x))
    )


# And of these, where there is no kernel for such arrays.
_ELSE_IN_PARTS = {
    "attention_weights",
    "softmax_along",
    "softmax_gradient",
    "lstm_cell",
    "lstm_cell_gradient",
    "recurrence",
    "recurrence_gradient",
    "drop",
    "masked",
} | {
    f"{kind}_normalization{of}"
    for kind in ("batch", "group", "layer", "rms")
    for of in ("", "_gradient")
}
