"""What a matrix product is to cuBLASLt: layouts, epilogues, and the key of its plan.

Pure functions of shapes, strides and pointers; the calls are in `gemm`. cuBLASLt
counts along columns first. A row-major matrix is then its own transpose, and
``d = a @ b`` in rows is ``d.T = b.T @ a.T`` in columns: the factors change places, nothing is
copied, and the bias, which is the same for all rows here, is the same for all columns there, which
is the one that cuBLASLt can add.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xplayers.arrays.namespaces import Array, dtype_name

# cudaDataType and cublasComputeType_t, by the dtype of the factors and the precision asked for.
# 16-bit factors are summed in float32 in any case.
DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
COMPUTE_TYPES = {
    ("float64", "float64"): 70,  # COMPUTE_64F
    ("float32", "float32"): 68,  # COMPUTE_32F
    ("float32", "tf32"): 77,  # COMPUTE_32F_FAST_TF32
    ("float32", "bfloat16"): 75,  # COMPUTE_32F_FAST_16BF
    ("float16", "float32"): 68,
    ("bfloat16", "float32"): 68,
}
ALIGNMENT = 256  # bytes; what cuBLASLt supposes, and what allocators give


class Epilogue(NamedTuple):
    """What is done to a product before it is written.

    Parameters
    ----------
    name : str
        Of the constant ``CUBLASLT_EPILOGUE_...``.
    bias : {"", "in", "out"}
        Whether the vector of n numbers is added, or is a result: a sum over the rows.
    aux : {"", "in", "out"}
        Whether the input of the activation is read, or is a result; of ReLU it is a mask of bits.
    """

    name: str
    bias: str = ""
    aux: str = ""


# The gradient of a bias is a sum over the rows of the second factor, which cuBLASLt calls A.
EPILOGUES = {
    "none": Epilogue("DEFAULT"),
    "bias": Epilogue("BIAS", "in"),
    "relu": Epilogue("RELU"),
    "relu_bias": Epilogue("RELU_BIAS", "in"),
    "relu_aux": Epilogue("RELU_AUX", "", "out"),
    "relu_aux_bias": Epilogue("RELU_AUX_BIAS", "in", "out"),
    "gelu": Epilogue("GELU"),
    "gelu_bias": Epilogue("GELU_BIAS", "in"),
    "gelu_aux": Epilogue("GELU_AUX", "", "out"),
    "gelu_aux_bias": Epilogue("GELU_AUX_BIAS", "in", "out"),
    "drelu": Epilogue("DRELU", "", "in"),
    "drelu_bgrad": Epilogue("DRELU_BGRAD", "out", "in"),
    "dgelu": Epilogue("DGELU", "", "in"),
    "dgelu_bgrad": Epilogue("DGELU_BGRAD", "out", "in"),
    "bgradb": Epilogue("BGRADA", "out"),
}


class Factor(NamedTuple):
    """A matrix, or a batch of them, as cuBLASLt finds it in memory.

    Parameters
    ----------
    transposed : bool
        Whether its columns, and not its rows, are contiguous.
    ld : int
        Elements from one contiguous line to the next.
    stride : int
        Elements from one matrix to the next; 0 where one matrix serves the whole batch.
    alignment : int
        Of its address, in bytes.
    """

    transposed: bool
    ld: int
    stride: int
    alignment: int


class Key(NamedTuple):
    """All that decides about a plan; two products of one key may share it.

    Parameters
    ----------
    m, n, k : int
        ``(m, k) @ (k, n)``, in rows.
    batch : int
        How many of them.
    a, b, d : Factor
        The factors and the result, in rows.
    dtype, out_dtype : str
        Of the factors, and of the result.
    compute : str
        "float32", "tf32", "bfloat16" or "float64".
    epilogue : str
        One of `EPILOGUES`.
    device : int
        The number of the GPU.
    """

    m: int
    n: int
    k: int
    batch: int
    a: Factor
    b: Factor
    d: Factor
    dtype: str
    out_dtype: str
    compute: str
    epilogue: str
    device: int

    def __str__(self) -> str:
        batch = f"{self.batch} times " if self.batch > 1 else ""
        return (
            f"{batch}({self.m}, {self.k}) @ ({self.k}, {self.n}) of {self.dtype}, "
            f"compute {self.compute}, epilogue {self.epilogue}"
        )


class Layout(NamedTuple):
    """A ``cublasLtMatrixLayout``: rows, columns and leading dimension, columns first."""

    rows: int
    cols: int
    ld: int
    batch: int
    stride: int


def factor(a: Array) -> Factor | None:
    """Return how a matrix, or a batch ``(..., rows, columns)``, lies in memory.

    None where neither rows nor columns are contiguous, or the matrices of the batch are not at
    equal distances: then it has to be copied.
    """
    size, stride = a.dtype.itemsize, _distance(a)
    (rows, cols), (down, along) = a.shape[-2:], a.strides[-2:]
    for transposed, (lines, length), (far, near) in (
        (False, (rows, cols), (down, along)),
        (True, (cols, rows), (along, down)),
    ):
        contiguous = near == size or length == 1
        if lines == 1:  # its stride means nothing
            far = size * max(length, 1)
        if contiguous and far >= size * length and stride is not None:
            return Factor(transposed, far // size, stride, alignment(a.data.ptr))
    return None


def _distance(a: Array) -> int | None:
    """Return the elements between the matrices of a batch, or None where they are not equal."""
    lead = [(n, s) for n, s in zip(a.shape[:-2], a.strides[:-2], strict=True) if n != 1]
    if not lead:
        return 0
    for (_, outer), (n, inner) in itertools.pairwise(lead):
        if outer != n * inner:
            return None
    stride = lead[-1][1]
    return stride // a.dtype.itemsize if stride >= 0 else None


def alignment(pointer: int) -> int:
    """Return the largest power of two up to `ALIGNMENT` that divides an address."""
    return math.gcd(pointer, ALIGNMENT)


def batch_shape(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...] | None:
    """Return the leading axes of ``a @ b`` for those shapes; None where they do not broadcast."""
    try:
        return np.broadcast_shapes(tuple(a[:-2]), tuple(b[:-2]))
    except ValueError:
        return None


def key_of(a: Array, b: Array, d: Array, *, compute: str, epilogue: str, device: int) -> Key | None:
    """Return the key of ``d = a @ b``, or None where one of them lies unfit in memory."""
    factors = [f for f in map(factor, (a, b, d)) if f is not None]
    if len(factors) < 3:
        return None
    (m, k), n, batch = a.shape[-2:], b.shape[-1], math.prod(d.shape[:-2])
    names = dtype_name(a.dtype), dtype_name(d.dtype)
    return Key(
        m, n, k, batch, factors[0], factors[1], factors[2], *names, compute, epilogue, device
    )


def compute_of(dtype: str, compute: str | None) -> str:
    """Return the precision of a product, by default that of the dtype; check that there is one."""
    if compute is None:
        return "float64" if dtype == "float64" else "float32"
    if (dtype, compute) not in COMPUTE_TYPES:
        there = ", ".join(c for d, c in COMPUTE_TYPES if d == dtype) or "none"
        message = f"Gemm: compute is {compute!r} for {dtype} matrices; expected {there}."
        raise ValueError(message)
    return compute


def layouts(key: Key) -> tuple[Layout, Layout, Layout]:
    """Return the layouts of cuBLASLt's A, B and D: `b`, `a` and `d`, each in columns."""
    a, b, d = key.a, key.b, key.d
    return (
        Layout(*_in_columns(key.k, key.n, b.transposed), b.ld, key.batch, b.stride),
        Layout(*_in_columns(key.m, key.k, a.transposed), a.ld, key.batch, a.stride),
        Layout(key.n, key.m, d.ld, key.batch, d.stride),
    )


def _in_columns(rows: int, cols: int, transposed: bool) -> tuple[int, int]:
    return (rows, cols) if transposed else (cols, rows)


def is_refused(key: Key, version: int) -> bool:
    """Whether cuBLASLt names algorithms for a product that it does not compute.

    Where the first factor has one column: derivatives of activations, as below a map to one
    feature, and in older versions sums, as of one sample. ``nvmath.linalg`` refuses these, its
    bindings do not.
    """
    derives = EPILOGUES[key.epilogue].aux == "in"
    return key.k == 1 and (derives or (key.epilogue == "bgradb" and version < 120304))


def size_of(f: Factor, rows: int, cols: int) -> int:
    """Return how many elements a matrix takes from its first one on."""
    return f.ld * (cols if f.transposed else rows)


def attributes(key: Key) -> dict[str, int]:
    """Return the attributes of the ``cublasLtMatmulDesc``, but for pointers and the epilogue."""
    values = {"TRANSA": int(key.b.transposed), "TRANSB": int(key.a.transposed)}
    if EPILOGUES[key.epilogue].aux:
        _, width = aux_shape(key)
        values["EPILOGUE_AUX_LD"] = width * 8 if "relu" in key.epilogue else width
    return values


def aux_shape(key: Key) -> tuple[int, int]:
    """Return the shape of the array that keeps the input of an activation, in rows.

    Of ReLU a mask of bits, uint8, each row padded to 128 bits; of GELU the values in the dtype of
    the result, each row padded to 8.
    """
    if "relu" in key.epilogue:
        return key.m, -(-key.n // 128) * 16
    return key.m, -(-key.n // 8) * 8


def aux_dtype(key: Key) -> str:
    """Return the dtype of that array."""
    return "uint8" if "relu" in key.epilogue else key.out_dtype


def check_operands(a: Array, b: Array, epilogue: str, vectors: dict[str, Any]) -> None:
    """Check the shapes and dtypes of a product, and that the epilogue has what it takes."""
    if epilogue not in EPILOGUES:
        message = f"Gemm: epilogue is {epilogue!r}; expected one of {', '.join(EPILOGUES)}."
        raise ValueError(message)
    if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[-1] != b.shape[-2]:
        message = (
            f"Gemm: a has shape {tuple(a.shape)}, b has shape {tuple(b.shape)}; "
            "expected (..., m, k) and (..., k, n)."
        )
        raise ValueError(message)
    if a.dtype != b.dtype or dtype_name(a.dtype) not in DATA_TYPES:
        message = (
            f"Gemm: a is {a.dtype}, b is {b.dtype}; expected the same, one of "
            f"{', '.join(DATA_TYPES)}."
        )
        raise TypeError(message)
    if a.device != b.device:
        message = f"Gemm: a is on cuda:{a.device.id}, b is on cuda:{b.device.id}. Move one of them."
        raise TypeError(message)
    if 0 in a.shape or 0 in b.shape:
        message = f"Gemm: {tuple(a.shape)} @ {tuple(b.shape)} has no elements. Use a @ b."
        raise ValueError(message)
    if batch_shape(a.shape, b.shape) is None:
        message = (
            f"Gemm: {tuple(a.shape)} @ {tuple(b.shape)} has no common batch; expected leading "
            "axes that broadcast."
        )
        raise ValueError(message)
    kind = EPILOGUES[epilogue]
    if epilogue != "none" and (len(a.shape) > 2 or len(b.shape) > 2):
        message = f"Gemm: epilogue {epilogue!r} is for two matrices, not for batches of them."
        raise ValueError(message)
    for name, role in (("bias", kind.bias), ("aux", kind.aux)):
        if (vectors[name] is not None) != (role == "in"):
            what = "needs" if role == "in" else "takes no"
            message = f"Gemm: epilogue {epilogue!r} {what} {name}."
            raise ValueError(message)


def fits(a: Array, b: Array) -> bool:
    """Whether cuBLASLt has such products: floats of one dtype, at least two axes, not empty."""
    return (
        a.dtype == b.dtype
        and dtype_name(a.dtype) in DATA_TYPES
        and min(len(a.shape), len(b.shape)) >= 2
        and 0 not in (*a.shape, *b.shape)
        and batch_shape(a.shape, b.shape) is not None
    )
