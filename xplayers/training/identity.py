"""The identity of a training run: its data, and all options that affect its results.

Checkpoints store it, and a run only resumes from a checkpoint of the same run.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from xplayers.arrays.namespaces import Array, dtype_name, is_floating, itemsize
from xplayers.arrays.transfer import to_numpy
from xplayers.data.loading import Batches
from xplayers.saving.files import sha256
from xplayers.training.step import TrainStep

WHOLE = 2**26  # bytes up to which arrays are hashed whole; of larger ones a sample is
_SAMPLE = 2**24  # bytes of the sample
_BLOCKS = 256  # number of its blocks, evenly spaced
_RATES = (0, 1, 2, 3, 10, 100, 1000, 10_000)  # steps at which a custom schedule is evaluated


def data_identity(
    x: Any, t: Array | None, weights: Array | None = None, *, validation: Any = None
) -> dict[str, Any]:
    """Return the identity of the data of a run, as JSON, by the arguments of `Trainer.fit`."""
    samples = None if t is None else int(t.shape[0])
    own, other = _data("", x, t, weights), _data("validation ", *parts(validation))
    return {"samples": samples, **own, **other}


def step_identity(step: TrainStep) -> dict[str, Any]:
    """Return the identity of a step. Functions are compared by name, not by their code."""
    return {
        "precision": described(step.precision),
        "loss": described(step.loss),
        "optimizer": described(step.optimizer),
        "network": re.sub(r" at 0x[0-9a-fA-F]+", "", repr(step.net)).splitlines(),  # addresses
    }


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe the differences; values that an earlier version did not store are ignored."""
    return [f"{name} was {before}, is {after}" for name, before, after in changes(was, now)]


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the names of what differs, with both values as text."""
    for name, after in now.items():
        before = was.get(name, after)
        if before == after:
            continue
        if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            pairs = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
            before, after = ([str(pair[i]).strip() for pair in pairs] for i in (0, 1))
        yield name, _shown(before), _shown(after)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def are_arrays(data: Any) -> bool:
    """Whether `data` are samples and targets, and weights perhaps, rather than batches."""
    return isinstance(data, tuple) and is_short(data) and hasattr(data[0], "shape")


def is_short(data: Any) -> bool:
    """Whether there are two parts, or floating-point weights as the third."""
    third = data[2] if len(data) == 3 else None
    return len(data) == 2 or (hasattr(third, "dtype") and is_floating(third))


def parts(data: Any) -> tuple[Any, Array | None, Array | None]:
    """Return samples, targets and weights or None; or batches and None."""
    if not are_arrays(data):
        return data, None, None
    return data[0], data[1], data[2] if len(data) > 2 else None


# Data


def _data(prefix: str, x: Any, t: Any, weights: Array | None) -> dict[str, Any]:
    batches, w = None, None if weights is None else digest(weights)
    if t is not None:
        x, t = digest(x), digest(t)
    elif isinstance(x, Batches):
        rng = "a generator" if isinstance(x.rng, np.random.Generator) else x.rng
        batches = (
            f"batch_size={x.batch_size}, rng={rng}, drop_last={x.drop_last}, "
            f"transform={described(x.transform)}"
        )
        w = None if x.sample_weight is None else digest(x.sample_weight)
        x, t = digest(x.x), digest(x.t)
    elif isinstance(x, list | tuple):
        x = _of_list(x)
    elif x is not None:
        kind = "function" if callable(x) else type(x).__name__
        count = getattr(x, "__len__", None)
        x = f"a {kind}" + ("" if count is None else f" of {count()} batches")
    names = ("x", "t", "sample_weight", "batches")
    return {f"{prefix}{name}": v for name, v in zip(names, (x, t, w, batches), strict=True)}


def _of_list(batches: list[Any] | tuple[Any, ...]) -> str:
    """Return the digest of a list of batches: of all, or of an evenly spaced sample."""
    spaced = np.linspace(0, len(batches) - 1, _BLOCKS)
    chosen = sorted({round(i) for i in spaced}) if batches else []
    most = WHOLE // max(len(chosen), 1)
    digests = [digest(a, most) for i in chosen for a in batches[i]]
    return f"{len(batches)} batches {sha256(repr(digests).encode()).hexdigest()[:16]}"


def digest(a: Array, most: int = WHOLE) -> str:
    """Return dtype, shape and a digest of the values of an array of any library.

    Integers of all widths are equivalent in training. Above `most` bytes a sample is hashed.
    """
    dtype, shape = dtype_name(a.dtype), tuple(map(int, a.shape))
    integers = "int" in dtype
    size = math.prod(shape) * itemsize(dtype)
    if size <= most:
        a = to_numpy(a)
    hashed = sha256()
    for begin, end in _blocks(shape, size, most):
        values = to_numpy(a[begin:end, ...]) if shape else to_numpy(a)
        kind = np.dtype("<i8") if integers else values.dtype.newbyteorder("<")
        hashed.update(np.ascontiguousarray(values, dtype=kind).reshape(-1).view("u1").data)
    return f"{'integers' if integers else dtype} {shape} {hashed.hexdigest()[:16]}"


def _blocks(shape: tuple[int, ...], size: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield the range of samples of each block to hash."""
    rows = shape[0] if shape else 1
    if not size:
        return
    row = size // rows
    if size <= most:
        block = max(2**20 // row, 1)
        yield from ((i, i + block) for i in range(0, rows, block))
        return
    sample = min(_SAMPLE, most)
    count = max(min(_BLOCKS, sample // row), 2)
    block = max(sample // count // row, 1)
    for i in sorted({int(i) for i in np.linspace(0, rows - block, count)}):
        yield i, i + block


# Options


def described(value: Any, depth: int = 4) -> str:
    """Describe an object and its options, identically in every process."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | complex | str):
        return repr(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"<{digest(value)}>"
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, functools.partial):
        parts = [described(value.func), *map(described, value.args)]
        parts += [f"{name}={described(v)}" for name, v in value.keywords.items()]
        return f"partial({', '.join(parts)})"
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    if not depth:
        return type(value).__name__
    if isinstance(value, Mapping):
        pairs = (f"{described(k)}: {described(v, depth - 1)}" for k, v in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"({', '.join(described(v, depth - 1) for v in value)})"
    return f"{type(value).__name__}({', '.join(_options(value, depth))})"


def _options(value: Any, depth: int) -> Iterator[str]:
    for name, option in getattr(value, "__dict__", {}).items():
        if name.startswith("_") or name == "state":  # of an optimizer; checkpoints store it
            continue
        yield f"{name}={described(option, depth - 1)}"
        if name == "lr" and callable(option) and not dataclasses.is_dataclass(option):
            yield from _rates(option)
    for name, a in getattr(value, "arrays", {}).items():  # a loss
        yield f"{name}={described(a)}"


def _rates(schedule: Callable[[Any], Any]) -> Iterator[str]:
    """Yield sample rates of a custom schedule, whose name does not identify it."""
    try:
        rates = [float(schedule(np.asarray(step, "int32"))) for step in _RATES]
    except Exception:  # a schedule that does not accept NumPy
        return
    yield f"rates={', '.join(f'{rate:.6g}' for rate in rates)}"
