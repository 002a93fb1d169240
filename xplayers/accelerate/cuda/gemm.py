"""Matrix products of CuPy arrays through cuBLASLt, NVIDIA's library behind ``nvmath-python``.

Keys, layouts, epilogues and the order of the calls are tested against two emulated cuBLASLt, which
compute what the descriptors say, one of them behind nvmath-python. CuPy's ``@`` is what CuPy arrays
get unless a `Gemm` is asked for.

Why it stands beside ``@``: CuPy refuses cuBLAS while a stream captures, so a CUDA graph of a
training step needs products of its own; cuBLASLt takes precision, workspace and algorithm as
arguments of each product, and adds bias, activation and gradient of the bias in the same kernel.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xplayers.accelerate.cuda.affine_fusion import AffineFusion
from xplayers.accelerate.cuda.fusion import fusing
from xplayers.accelerate.cuda.layouts import (
    COMPUTE_TYPES,
    DATA_TYPES,
    EPILOGUES,
    Key,
    attributes,
    aux_dtype,
    aux_shape,
    batch_shape,
    check_operands,
    compute_of,
    factor,
    fits,
    is_refused,
    key_of,
    layouts,
    size_of,
)
from xplayers.accelerate.cuda.planner import NoAlgorithm, NotPlanned, Planner, fastest, milliseconds
from xplayers.arrays.namespaces import Array, dtype_name, named_dtype, namespace
from xplayers.arrays.operation import laid

__all__ = ["Gemm", "NoAlgorithm", "NotPlanned"]

WORKSPACE = 32 << 20  # bytes; what NVIDIA advises for Hopper
CANDIDATES = 16  # algorithms that are timed


class Plan(NamedTuple):
    """What a product needs beside its pointers; `algorithm` is a ``cublasLtMatmulAlgo_t``."""

    key: Key
    desc: int
    layouts: tuple[int, int, int]
    algorithm: np.ndarray


class Gemm(Planner):
    """Matrix products through cuBLASLt, each planned once.

    A plan is made when a product is met for the first time: cuBLASLt names candidates, each is
    timed on the arrays at hand, and the fastest is kept. That synchronises, so in the capture of a
    CUDA graph there are no new plans.

    Parameters
    ----------
    compute : {None, "float32", "tf32", "bfloat16"}
        How float32 matrices are multiplied, by default in float32: "tf32" rounds the factors to 10
        bits of mantissa, "bfloat16" to 7; sums are float32. 16-bit matrices have float32 sums,
        float64 ones float64 sums.
    autotune : bool
        False: take the first candidate without timing. Two algorithms round differently, so with
        timing two processes may differ in the last bits.
    workspace : int
        Bytes on the device that an algorithm may use. They belong to this object, so its products
        follow each other: those of another stream wait for the last one.
    runtime : optional
        Where calls go, for tests; by default CuPy and ``nvmath.bindings.cublasLt``.

    Raises
    ------
    ImportError
        If nvmath-python is not installed.

    Notes
    -----
    Supported are float16, bfloat16, float32 and float64, matrices whose rows or columns are
    contiguous (others are copied first) and batches of them.

    References
    ----------
    NVIDIA, "cuBLAS", chapter "Using the cuBLASLt API".

    Examples
    --------
    >>> import xplayers as xl
    >>> from xplayers.cuda import Gemm
    >>> net, loss, optimizer = xl.mlp([64, 50, 10], rng=0), xl.SoftmaxWithLoss(), xl.Adam()
    >>> step = xl.TrainStep(net, loss, optimizer, gemm=lambda: Gemm("tf32"))
    """

    def __init__(
        self,
        compute: str | None = None,
        *,
        autotune: bool = True,
        workspace: int = WORKSPACE,
        runtime: Any = None,
    ) -> None:
        if compute is not None:
            compute_of("float32", compute)
        self.compute, self.autotune = compute, autotune
        self.plans: dict[Key, Plan] = {}
        self._without: set[Key] = set()  # products for which there is no algorithm
        self._runtime = Runtime() if runtime is None else runtime
        self._lt = self._runtime.lt
        self._handle: Any = self._lt.create()
        self._workspace: Any = self._runtime.empty((workspace,), "uint8")
        self._scales = {name: np.asarray([1, 0], name) for name in ("float32", "float64")}
        self._pointers = np.zeros(2, np.int64)  # of bias and aux, in the order of their attributes

    def matmul(
        self,
        a: Array,
        b: Array,
        *,
        epilogue: str = "none",
        bias: Array = None,
        aux: Array = None,
        compute: str | None = None,
        dtype: str | None = None,
        out: Array = None,
    ) -> Any:
        """Return ``a @ b``, and what the epilogue makes of it.

        Parameters
        ----------
        a : array of shape (m, k) or (..., m, k)
            CuPy array.
        b : array of shape (k, n) or (..., k, n)
            Of the dtype of `a`. Leading axes broadcast; a factor that is neither a single matrix
            nor has all of them is copied.
        epilogue : str
            ``"none"``; ``"bias"`` adds it; ``"relu"``, ``"gelu"`` (the tanh form) with ``"_aux"``
            and ``"_bias"`` in this order; ``"drelu"``, ``"dgelu"``: the product, a gradient, times
            the derivative of the activation; with ``"_bgrad"`` also its sum over the rows;
            ``"bgradb"``: also the sum of `b` over its rows, the gradient of a bias.
        bias : array of shape (n,), optional
            For the epilogues with ``"bias"``.
        aux : array, optional
            For ``"drelu"`` and ``"dgelu"``: what the product with ``"_aux"`` gave.
        compute : str, optional
            As in `Gemm`, for this product.
        dtype : str, optional
            Of the result, by default that of `a`. float32 goes with 16-bit factors.
        out : array, optional
            Where to put the result: ``(..., m, n)``, with contiguous rows.

        Returns
        -------
        array or tuple of two arrays
            The product ``(..., m, n)``; with ``"_aux"`` and the mask or the input of the
            activation, with ``"bgrad"`` and the sums ``(n,)``.

        Raises
        ------
        ValueError
            If shapes, the epilogue and its arrays, or compute and dtype do not fit.
        TypeError
            If dtypes or devices do not fit.
        NoAlgorithm
            If cuBLASLt has none; ``"none"`` and a pass over memory is the way on.
        NotPlanned
            If it is met in a capture for the first time.
        """
        check_operands(a, b, epilogue, {"bias": bias, "aux": aux})
        name = dtype_name(a.dtype)
        if compute is None and (name, self.compute) in COMPUTE_TYPES:
            compute = self.compute
        compute = compute_of(name, compute)
        lead = batch_shape(a.shape, b.shape) or ()
        a, b = self._laid(a, lead), self._laid(b, lead)
        shape = (*lead, a.shape[-2], b.shape[-1])
        d = self._runtime.empty(shape, dtype or name) if out is None else out
        key = key_of(a, b, d, compute=compute, epilogue=epilogue, device=a.device.id)
        if key is None or tuple(d.shape) != shape or key.d.transposed:
            message = f"Gemm: out has shape {tuple(d.shape)}; expected {shape}, contiguous rows."
            raise ValueError(message)
        kind = EPILOGUES[epilogue]
        if kind.bias:
            bias = self._vector("bias", bias, kind.bias, (key.n,), key.out_dtype)
        if kind.aux:
            aux = self._vector("aux", aux, kind.aux, aux_shape(key), aux_dtype(key))
        plan = self.plans.get(key) or self._planned(key, a, b, d, bias, aux)
        self._run(plan, a, b, d, bias, aux)
        extra = [x for x, role in ((bias, kind.bias), (aux, kind.aux)) if role == "out"]
        return (d, *extra) if extra else d

    def products(self) -> contextlib.AbstractContextManager[None]:
        """Let the products of CuPy arrays in layers go through this object, in this context.

        Affine maps with ReLU or GELU between them are products alone, see `affine_fusion`.
        """
        names = ("matmul", "product", "product_and_sums")
        bodies = {name: getattr(self, f"_{name}") for name in names}
        return fusing(self._runtime.array, _joiner, {**bodies, "gemm": self})

    def _matmul(self, a: Array, b: Array) -> Any:
        return self.matmul(a, b) if fits(a, b) else NotImplemented

    def _product(self, a: Array, b: Array, bias: Array | None = None) -> Any:
        if bias is None or bias.dtype != a.dtype or not fits(a, b):
            return NotImplemented
        try:
            return self.matmul(a, b, epilogue="bias", bias=bias)
        except NoAlgorithm:
            return NotImplemented

    def _product_and_sums(self, a: Array, b: Array) -> Any:
        if not fits(a, b):
            return NotImplemented
        try:
            return self.matmul(a, b, epilogue="bgradb")
        except NoAlgorithm:
            return NotImplemented

    def close(self) -> None:
        """Give back plans, workspace and handle; wait for the device first."""
        if self._handle is None:
            return
        for plan in self.plans.values():
            self._destroy(plan.desc, plan.layouts)
        self.plans.clear()
        self._lt.destroy(self._handle)
        self._handle = self._workspace = None

    def _laid(self, x: Array, lead: tuple[int, ...]) -> Array:
        """Return a factor of a batch as cuBLASLt can read it: itself or a copy."""
        if x.shape[:-2] != lead and math.prod(x.shape[:-2]) != 1:
            x = namespace(x).broadcast_to(x, (*lead, *x.shape[-2:]))
        return x if factor(x) else self._runtime.contiguous(x)

    def _vector(self, name: str, x: Array, role: str, shape: tuple[int, ...], dtype: str) -> Array:
        """Return the array for a pointer of an epilogue: a new one, or the one given, checked."""
        if role == "out":
            return self._runtime.empty(shape, dtype)
        if tuple(x.shape) != shape or dtype_name(x.dtype) != dtype or not x.flags.c_contiguous:
            message = (
                f"Gemm: {name} is {x.dtype} of shape {tuple(x.shape)}; expected {dtype} of shape "
                f"{shape}, contiguous."
            )
            raise ValueError(message)
        return x

    def _planned(self, key: Key, a: Array, b: Array, d: Array, bias: Array, aux: Array) -> Plan:
        if key in self._without or is_refused(key, self._lt.get_version()):
            raise NoAlgorithm(self._none(key))
        if self._frozen:
            message = (
                f"Gemm: {key} was not planned before the capture; each step has to compute the "
                "same products. Run it once more before (warmup=), or use compile=False."
            )
            raise NotPlanned(message)
        lt = self._lt
        scale = DATA_TYPES["float64" if key.compute == "float64" else "float32"]
        desc = lt.matmul_desc_create(COMPUTE_TYPES[key.dtype, key.compute], scale)
        created: list[int] = []
        try:
            for name, value in attributes(key).items():
                self._set("matmul_desc", desc, name, value)
            self._set("matmul_desc", desc, "EPILOGUE", lt.Epilogue[EPILOGUES[key.epilogue].name])
            self._point(desc, bias, aux)  # candidates depend on what is there
            types = (key.dtype, key.dtype, key.out_dtype)
            for layout, dtype in zip(layouts(key), types, strict=True):
                rows, cols, ld, batch, stride = layout
                created.append(lt.matrix_layout_create(DATA_TYPES[dtype], rows, cols, ld))
                if batch > 1:
                    self._set("matrix_layout", created[-1], "BATCH_COUNT", batch)
                    self._set("matrix_layout", created[-1], "STRIDED_BATCH_OFFSET", stride)
            three = (created[0], created[1], created[2])
            candidates = self._candidates(key, desc, three)
            plans = [Plan(key, desc, three, candidates[i : i + 1]) for i in range(len(candidates))]
            plan = fastest(plans, lambda: self._runtime.milliseconds([
                functools.partial(self._run, plan, a, b, d, bias, aux) for plan in plans
            ]))  # fmt: skip
            if not self._keeps_numbers(plan):
                raise NoAlgorithm(self._none(key))
        except BaseException as error:
            if isinstance(error, NoAlgorithm):
                self._without.add(key)
            self._destroy(desc, created)
            raise
        self.plans[key] = plan
        return plan

    def _candidates(self, key: Key, desc: int, three: tuple[int, int, int]) -> np.ndarray:
        """Return the algorithms that cuBLASLt names for a product, as its array of structures."""
        lt = self._lt
        candidates: Any = np.zeros(
            CANDIDATES if self.autotune else 1, lt.matmul_heuristic_result_dtype
        )
        count = np.zeros(1, np.int32)
        preference = lt.matmul_preference_create()
        try:
            self._set(
                "matmul_preference", preference, "MAX_WORKSPACE_BYTES", self._workspace.nbytes
            )
            for name, f in (("A", key.b), ("B", key.a), ("C", key.d), ("D", key.d)):
                attribute = f"MIN_ALIGNMENT_{name}_BYTES"
                self._set("matmul_preference", preference, attribute, f.alignment)
            A, B, D = three
            lt.matmul_algo_get_heuristic(
                self._handle, desc, A, B, D, D, preference, len(candidates), candidates.ctypes.data,
                count.ctypes.data,
            )  # fmt: skip
        except lt.cuBLASLtError as error:
            raise NoAlgorithm(self._none(key)) from error
        finally:
            lt.matmul_preference_destroy(preference)
        candidates = candidates[: count[0]]
        candidates = candidates[candidates["state"] == 0]
        if not len(candidates):
            raise NoAlgorithm(self._none(key))
        return candidates

    def _keeps_numbers(self, plan: Plan) -> bool:
        """Whether an activation makes 0 of 0, with a derivative of 0, and NaN of NaN.

        NVIDIA says of neither what its ReLU makes of it, and a network whose NaN become 0 learns on
        without a word. So each plan is asked once, with factors of zeros, and of NaN.
        """
        key, kind = plan.key, EPILOGUES[plan.key.epilogue]
        if not kind.name.startswith(("RELU", "GELU")):
            return True
        full = self._runtime.full
        b, d = full(size_of(key.b, key.k, key.n), key.dtype), full(key.d.ld * key.m, key.out_dtype)
        bias = full(key.n, key.out_dtype) if kind.bias else None
        aux = full(math.prod(aux_shape(key)), aux_dtype(key)) if kind.aux else None
        for value in (0.0, math.nan):
            a = full(size_of(key.a, key.m, key.k), key.dtype, value)
            self._run(plan, a, b, d, bias, aux)
            row = self._runtime.host(d[: key.n])
            if not (np.isnan(row) if value else row == 0).all():
                return False
            if kind.aux and "relu" in key.epilogue:
                bits = np.unpackbits(self._runtime.host(aux), bitorder="little")
                if bits[: key.n].any():
                    return False
        return True

    @staticmethod
    def _none(key: Key) -> str:
        way_on = "a @ b" if key.epilogue == "none" else "epilogue='none', and the rest by itself"
        return f"Gemm: cuBLASLt has no algorithm for {key}. Use {way_on}."

    def _run(self, plan: Plan, a: Array, b: Array, d: Array, bias: Array, aux: Array) -> None:
        self._point(plan.desc, bias, aux)
        A, B, D = plan.layouts
        scales = self._scales["float64" if plan.key.compute == "float64" else "float32"]
        one, zero = scales.ctypes.data, scales.ctypes.data + scales.itemsize
        out = d.data.ptr
        self._lt.matmul(
            self._handle, plan.desc, one, b.data.ptr, A, a.data.ptr, B, zero, out, D, out, D,
            plan.algorithm.ctypes.data, self._workspace.data.ptr, self._workspace.nbytes,
            self._runtime.stream(),
        )  # fmt: skip

    def _point(self, desc: int, bias: Array, aux: Array) -> None:
        names = ("BIAS_POINTER", "EPILOGUE_AUX_POINTER")
        for i, (name, x) in enumerate(zip(names, (bias, aux), strict=True)):
            if x is not None:
                self._pointers[i] = x.data.ptr
                address = self._pointers.ctypes.data + i * self._pointers.itemsize
                attribute = self._lt.MatmulDescAttribute[name]
                self._lt.matmul_desc_set_attribute(desc, attribute, address, 8)

    def _set(self, kind: str, target: int, name: str, value: int) -> None:
        """Set an attribute of a descriptor, a layout or a preference."""
        lt = self._lt
        enum = "".join(word.capitalize() for word in kind.split("_")) + "Attribute"
        attribute = getattr(lt, enum)[name]
        memory = np.asarray(value, getattr(lt, f"get_{kind}_attribute_dtype")(attribute))
        setter = getattr(lt, f"{kind}_set_attribute")
        setter(target, attribute, memory.ctypes.data, memory.nbytes)

    def _destroy(self, desc: int, matrix_layouts: Iterable[int]) -> None:
        for layout in matrix_layouts:
            self._lt.matrix_layout_destroy(layout)
        self._lt.matmul_desc_destroy(desc)


class Multiplied:
    """A function whose products go through a `Gemm` of its own."""

    def __init__(self, function: Callable[..., Any], gemm: Gemm) -> None:
        self._function, self._gemm = function, gemm
        self.close = weakref.finalize(self, gemm.close)

    def __call__(self, *arguments: Any) -> Any:
        with self._gemm.products():
            return self._function(*arguments)


class Runtime:
    """The calls of CuPy and nvmath-python that a `Gemm` makes, in one place."""

    def __init__(self) -> None:
        try:
            from nvmath.bindings import cublasLt
        except ImportError as error:
            message = 'Gemm: needs nvmath-python: pip install "xplayers[cublaslt]"; or use a @ b.'
            raise ImportError(message) from error
        import array_api_compat.cupy

        cupy: Any = importlib.import_module("cupy")

        self.lt, self.cupy, self.array = cublasLt, cupy, cupy.ndarray
        self.xp = array_api_compat.cupy
        self._last: Any = None  # stream

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        return self.cupy.empty(shape, named_dtype(self.xp, dtype))

    def contiguous(self, a: Array) -> Array:
        return self.cupy.ascontiguousarray(a)

    def stream(self) -> int:
        """Return the current stream; another than the last one waits for that: see `workspace`."""
        current = self.cupy.cuda.get_current_stream()
        if self._last is not None and current != self._last:
            current.wait_event(self._last.record())
        self._last = current
        return current.ptr

    def full(self, size: int, dtype: str, value: float = 0.0) -> Array:
        return self.cupy.full(size, value, named_dtype(self.xp, dtype))

    def host(self, a: Array) -> np.ndarray:
        return self.cupy.asnumpy(a)

    def milliseconds(self, functions: Sequence[Callable[[], None]]) -> list[float]:
        return milliseconds(self.cupy.cuda, functions)


def active() -> Gemm | None:
    """Return the object through which products go in this context."""
    return next(iter(laid("gemm")), None)


_joiner = functools.partial(AffineFusion.joined, library=active)
