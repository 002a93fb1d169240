"""What several test files need: references, tolerances, comparisons."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xplayers.arrays import operation
from xplayers.arrays.namespaces import device, dtype_name, namespace, on_host
from xplayers.arrays.transfer import to_numpy

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent  # of the repository

# Relative to the largest value, as rounding is: what a result may differ from float64.
TOLERANCE = {"float64": 1e-12, "float32": 1e-6, "float16": 4e-3, "bfloat16": 3e-2}


def values(shape: tuple[int, ...], seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, scale, shape)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, "float32")


def says(text: str) -> str:
    """Return the pattern of an error that has these words."""
    return re.escape(text)


def everything(xp: Any, x: Any, y: Any, k: Any, *, scale: float = 0.5) -> tuple[Any, ...]:
    """Return results of all operations that are compiled, for NumPy and for CuPy."""
    chosen = xp.where(x >= y, xp.sqrt(xp.abs(x)), -y)
    less = xp.astype(x < 0.25, x.dtype) + xp.astype(x != y, x.dtype)
    between = xp.where(x <= y, xp.where(x == y, x, y * y), x / (k * 3.0 - scale))
    clipped = xp.minimum(xp.maximum(x, -1.0), 3.0) + xp.maximum(x, y) * xp.minimum(y, x)
    return chosen + less * k, xp.square(between) - scale * xp.astype(y > 1.0, y.dtype), clipped


def python(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run an interpreter of its own, and return what it has said and how it has ended."""
    options = {"capture_output": True, "text": True, "timeout": 300, "check": False, **options}
    return subprocess.run([sys.executable, *map(str, arguments)], **options)


def assert_close(got: Any, expected: Any, tolerance: float, what: str = "result") -> None:
    got, expected = (
        np.asarray(to_numpy(a) if hasattr(a, "dtype") else a, "float64") for a in (got, expected)
    )
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    if not got.size:
        return
    scale = max(float(np.max(np.abs(expected))), 1e-30)
    error = float(np.max(np.abs(got - expected))) / scale
    assert error <= tolerance, f"{what}: relative error {error:.3g} is above {tolerance:g}"


def assert_same_bits(a: Any, b: Any, what: str = "values") -> None:
    a, b = to_numpy(a), to_numpy(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes(), f"{what} differ"


def assert_same_arrays(a: Any, b: Any, what: str = "values") -> None:
    """Check that two mappings, of arrays or of mappings, have the same names and bits."""
    if not isinstance(a, Mapping):
        assert_same_bits(a, b, what)
        return
    assert set(a) == set(b), f"{what}: {sorted(set(a) ^ set(b))} are in one of them only"
    for name in a:
        assert_same_arrays(a[name], b[name], name)


def assert_at_home(a: Any, like: Any, dtype: Any = None) -> None:
    """Check library, device and dtype of a result."""
    assert namespace(a) is namespace(like)
    assert str(device(a)) == str(device(like))
    assert dtype_name(a.dtype) == dtype_name(dtype or like.dtype)


def host_params(layer: Any) -> dict[str, np.ndarray]:
    return {name: to_numpy(a).astype("float64") for name, a in layer.params.items()}


def complex_step(f: Callable[[Any], Any], x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the derivative of `f` at `x` along `v`, exact to the last digits."""
    h = 1e-30
    return np.imag(f(x + 1j * h * v)) / h


def needs_values(xpv: Any) -> None:
    """Skip a test of errors that values raise, where values cannot be looked at without waiting."""
    if not on_host(xpv.asarray([0])):
        pytest.skip("values on a GPU are not looked at")


def share_memory(a: Any, b: Any) -> bool:
    """Whether two arrays share memory, where the library can tell."""
    name = namespace(a).__name__
    if "torch" in name:
        return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() and a.numel() > 0
    if "jax" in name or name == "ndonnx":
        return False  # immutable: sharing cannot be seen
    if name == "dpnp":
        return a.get_array()._pointer == b.get_array()._pointer and a.size > 0
    if "strict" in name:
        return np.shares_memory(a._array, b._array)
    if "cupy" in name:
        return a.data.ptr == b.data.ptr and a.size > 0
    return np.shares_memory(a, b)


def portably(monkeypatch: Any, *names: str) -> None:
    """Let operations of these names, or all, be computed by their portable bodies."""
    known = operation._TABLES
    monkeypatch.setattr(operation, "_TABLES", _Without(names))
    for kind, bodies in known.items():
        operation._TABLES[kind] = bodies


class _Without(dict):
    """Tables of bodies without some of them."""

    def __init__(self, names: Any) -> None:
        super().__init__()
        self.names = names

    def __setitem__(self, kind: Any, bodies: Any) -> None:
        if type(bodies) is dict:  # not that of tracers, which asks these
            gone = self.names or bodies
            bodies = {name: body for name, body in bodies.items() if name not in gone}
        super().__setitem__(kind, bodies)


def taker(step):
    """Return what takes the steps of a `TrainStep` that has seen arrays of one type."""
    (take,) = step._compiled.values()
    return take
