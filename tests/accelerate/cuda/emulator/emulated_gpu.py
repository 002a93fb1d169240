"""CuPy arrays over host memory, and cuBLASLt emulated on them, where there is no GPU."""

from __future__ import annotations

import ctypes
import enum
import math
from typing import Any

import numpy as np
import pytest


def fabricated(values: np.ndarray, device: int = 0) -> Any:
    """Return a CuPy array over the memory of a NumPy array; kernels cannot run on it."""
    import cupy

    if cupy.is_available():
        pytest.skip("a GPU is there: a kernel of CuPy would read memory that it cannot")
    base = values if values.base is None else values.base
    memory = cupy.cuda.memory.UnownedMemory(base.ctypes.data, base.nbytes, base, device)
    offset = values.ctypes.data - base.ctypes.data
    pointer = cupy.cuda.memory.MemoryPointer(memory, offset)
    return cupy.ndarray(values.shape, values.dtype, pointer, strides=values.strides)


def host(a: Any) -> np.ndarray:
    """Return the memory of such an array as NumPy sees it."""
    return view(a.data.ptr, a.dtype, a.shape, a.strides)


def view(pointer: int, dtype: Any, shape: Any, strides: Any = None) -> np.ndarray:
    """Return the memory at an address as an array, by rows if nothing else is said."""
    dtype = np.dtype(dtype)
    if strides is None:
        strides = [math.prod(shape[k + 1 :]) * dtype.itemsize for k in range(len(shape))]
    ends = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    before, after = sum(min(e, 0) for e in ends), sum(max(e, 0) for e in ends) + dtype.itemsize
    memory = np.frombuffer(
        (ctypes.c_char * (after - before)).from_address(pointer + before), np.uint8
    )
    return np.ndarray(shape, dtype, memory, offset=-before, strides=strides)


def _numbers(**names: int) -> Any:
    return enum.IntEnum("Numbers", names)


_STRUCTURE = np.dtype(
    [("algo", [("data_", "<u8", (8,))]), ("workspace_size", "<u8"), ("state", "<i4"),
     ("waves_count", "<f4"), ("reserved", "<i4", (4,))]
)  # fmt: skip
_TYPES = {0: np.float32, 1: np.float64, 2: np.float16}


class CublasLtError(Exception):
    """What the bindings raise for a status that is not success."""


class EmulatedCublasLt:
    """cuBLASLt's calls, on the host: computes what descriptors and layouts say, columns first.

    Names and numbers are those of ``nvmath.bindings.cublasLt``; a test compares them.

    Parameters
    ----------
    candidates : sequence of int
        The numbers of the algorithms that the heuristic names, each with a state of 0.
    """

    cuBLASLtError = CublasLtError
    matmul_heuristic_result_dtype = _STRUCTURE
    MatmulDescAttribute = _numbers(
        TRANSA=3, TRANSB=4, EPILOGUE=7, BIAS_POINTER=8, EPILOGUE_AUX_POINTER=11, EPILOGUE_AUX_LD=12
    )
    MatrixLayoutAttribute = _numbers(BATCH_COUNT=5, STRIDED_BATCH_OFFSET=6)
    MatmulPreferenceAttribute = _numbers(
        MAX_WORKSPACE_BYTES=1, MIN_ALIGNMENT_A_BYTES=5, MIN_ALIGNMENT_B_BYTES=6,
        MIN_ALIGNMENT_C_BYTES=7, MIN_ALIGNMENT_D_BYTES=8,
    )  # fmt: skip
    Epilogue = _numbers(
        DEFAULT=1, RELU=2, RELU_AUX=130, BIAS=4, RELU_BIAS=6, RELU_AUX_BIAS=134, DRELU=136,
        DRELU_BGRAD=152, GELU=32, GELU_AUX=160, GELU_BIAS=36, GELU_AUX_BIAS=164, DGELU=192,
        DGELU_BGRAD=208, BGRADA=256, BGRADB=512,
    )  # fmt: skip

    version = 130000
    drops_nan = passes_at_zero = False  # what the ReLU of a library might do

    def __init__(self, candidates: tuple[int, ...] = (0,)) -> None:
        self.candidates = candidates
        self.objects: dict[int, dict[str, int]] = {}  # what exists, with its attributes
        self.asked = 0  # how often for candidates
        self.algorithms: list[int] = []  # those that ran
        self.preferences: dict[str, int] = {}  # of the last heuristic
        self.streams: set[int] = set()

    def _new(self, **attributes: int) -> int:
        number = max(self.objects, default=100) + 1
        self.objects[number] = attributes
        return number

    def _delete(self, number: int) -> None:
        del self.objects[number]

    def create(self) -> int:
        return self._new()

    def get_version(self) -> int:
        return self.version

    def matmul_desc_create(self, compute_type: int, scale_type: int) -> int:
        return self._new(compute=compute_type, scale=scale_type)

    def matrix_layout_create(self, type: int, rows: int, cols: int, ld: int) -> int:
        assert ld >= rows
        return self._new(type=type, rows=rows, cols=cols, ld=ld)

    def matmul_preference_create(self) -> int:
        return self._new()

    destroy = matmul_desc_destroy = matrix_layout_destroy = matmul_preference_destroy = _delete

    def get_matmul_desc_attribute_dtype(self, attribute: int) -> Any:
        return {3: np.int32, 4: np.int32, 7: np.uint32}.get(attribute, np.int64)

    def get_matrix_layout_attribute_dtype(self, attribute: int) -> Any:
        return {5: np.int32, 6: np.int64}[attribute]

    def get_matmul_preference_attribute_dtype(self, attribute: int) -> Any:
        return np.uint64 if attribute == 1 else np.uint32

    def matmul_desc_set_attribute(self, target: int, attribute: Any, buf: int, size: int) -> None:
        value = int.from_bytes(ctypes.string_at(buf, size), "little")
        self.objects[target][attribute.name] = value

    matrix_layout_set_attribute = matmul_preference_set_attribute = matmul_desc_set_attribute

    def matmul_algo_get_heuristic(
        self, handle: int, desc: int, a: int, b: int, c: int, d: int, preference: int, count: int,
        results: int, found: int,
    ) -> None:  # fmt: skip
        self.asked += 1
        self.preferences = dict(self.objects[preference])
        offered = self.candidates[:count]
        structures = view(results, _STRUCTURE, (count,), (_STRUCTURE.itemsize,))
        for structure, number in zip(structures, offered, strict=False):
            structure["state"] = 0 if number >= 0 else 15
            structure["algo"]["data_"][0] = abs(number)
        view(found, np.int32, (1,), (4,))[0] = len(offered)

    def matmul(
        self, handle: int, desc: int, alpha: int, a: int, A: int, b: int, B: int, beta: int,
        c: int, C: int, d: int, D: int, algo: int, workspace: int, size: int, stream: int,
    ) -> None:  # fmt: skip
        assert handle in self.objects
        assert c == d
        self.streams.add(stream)
        self.algorithms.append(int(view(algo, np.uint64, (1,), (8,))[0]))
        how = self.objects[desc]
        scale = _TYPES[how["scale"]]
        size = np.dtype(scale).itemsize
        one, zero = (float(view(p, scale, (1,), (size,))[0]) for p in (alpha, beta))
        assert (one, zero) == (1.0, 0.0)
        fa, fb = self._matrices(a, A), self._matrices(b, B)
        fa = fa.mT if how.get("TRANSA") else fa
        fb = fb.mT if how.get("TRANSB") else fb
        self._finish(how, fa, fb, fa @ fb, self._matrices(d, D, exact=True))

    def _matrices(self, pointer: int, layout: int, exact: bool = False) -> np.ndarray:
        """Return the batch of matrices that a layout describes, in columns."""
        at = self.objects[layout]
        dtype = np.dtype(_TYPES[at["type"]])
        n, size = at.get("BATCH_COUNT", 1), dtype.itemsize
        strides = (at.get("STRIDED_BATCH_OFFSET", 0) * size, size, at["ld"] * size)
        seen = view(pointer, dtype, (n, at["rows"], at["cols"]), strides)
        return seen if exact else seen.astype(np.float64)

    def _finish(
        self, how: dict[str, int], a: np.ndarray, b: np.ndarray, z: np.ndarray, d: np.ndarray
    ) -> None:
        name = self.Epilogue(how["EPILOGUE"]).name
        assert a.shape[2] > 1 or not name.startswith(("DRELU", "DGELU")), "memory of others"
        rows, cols = d.shape[1:]
        dtype = d.dtype

        def vector(n: int) -> np.ndarray:
            return view(how["BIAS_POINTER"], dtype, (n,), (dtype.itemsize,))

        def kept() -> np.ndarray:
            ld, pointer = how["EPILOGUE_AUX_LD"], how["EPILOGUE_AUX_POINTER"]
            if "RELU" in name:
                assert ld % 128 == 0
                assert ld >= rows
                return view(pointer, np.uint8, (cols, ld // 8), (ld // 8, 1))
            assert ld % 8 == 0
            return view(pointer, dtype, (cols, ld), (ld * dtype.itemsize, dtype.itemsize))

        if name in ("BIAS", "RELU_BIAS", "RELU_AUX_BIAS", "GELU_BIAS", "GELU_AUX_BIAS"):
            z = z + vector(rows)[:, None]
        if name.startswith("DRELU"):
            z = z * np.unpackbits(kept(), axis=1, bitorder="little")[:, :rows].T
        elif name.startswith("DGELU"):
            z = z * gelu_derivative(kept()[:, :rows].T.astype(np.float64))
        elif "AUX" in name and "RELU" in name:
            mask = z[0].T >= 0 if self.passes_at_zero else z[0].T > 0
            bits = np.packbits(mask, axis=1, bitorder="little")
            kept()[:, : bits.shape[1]] = bits
        elif "AUX" in name:
            kept()[:, :rows] = z[0].T
        if name.startswith("RELU"):
            z = (np.fmax if self.drops_nan else np.maximum)(z, 0)
        elif name.startswith("GELU"):
            z = gelu(z)
        if "BGRAD" in name:
            sums = {"BGRADA": a.sum(axis=2), "BGRADB": b.sum(axis=1)}.get(name, z.sum(axis=2))[0]
            vector(len(sums))[:] = sums
        d[...] = z


def gelu(x: np.ndarray) -> np.ndarray:
    """The tanh form, as cuBLASLt has it."""
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_derivative(x: np.ndarray) -> np.ndarray:
    h = 1e-20
    return np.imag(gelu(x + 1j * h)) / h


class EmulatedRuntime:
    """What a `Gemm` asks of CuPy, on host memory.

    Parameters
    ----------
    lt : EmulatedCublasLt
        Where products are computed.
    times : dict of int to float
        The milliseconds of each algorithm.
    """

    def __init__(self, lt: EmulatedCublasLt | None = None, times: dict[int, float] | None = None):
        import cupy

        self.lt = EmulatedCublasLt() if lt is None else lt
        self.times = {} if times is None else times
        self.array = cupy.ndarray
        self.copies = 0

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        n = math.prod(shape) * np.dtype(dtype).itemsize
        memory = np.full(n + 512, 0xFF, np.uint8)  # NaN
        start = -memory.ctypes.data % 512  # as CuPy's pool gives it
        return fabricated(memory[start : start + n].view(dtype).reshape(shape))

    def contiguous(self, a: Any) -> Any:
        self.copies += 1
        return fabricated(np.array(host(a), order="C"))

    def stream(self) -> int:
        return 7

    def full(self, size: int, dtype: str, value: float = 0.0) -> Any:
        made = self.empty((size,), dtype)
        host(made)[...] = value
        return made

    def host(self, a: Any) -> np.ndarray:
        return host(a)

    def milliseconds(self, functions: Any) -> list[float]:
        times = []
        for function in functions:
            function()
            times.append(self.times[self.lt.algorithms[-1]])
        return times
