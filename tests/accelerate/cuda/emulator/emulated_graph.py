"""CuPy's streams, pools, graphs and arrays, emulated on the host.

While a stream captures, nothing is computed: operations are written down, into arrays that hold
NaN, and a launch runs them. What CuPy refuses in a capture raises here too: matrix products, and
every look at a value.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from xplayers.accelerate.cuda.affine_fusion import AffineFusion
from xplayers.accelerate.cuda.fusion import fusing
from xplayers.accelerate.cuda.graph import CapturedStep
from xplayers.arrays.operation import laid
from xplayers.arrays.products import column_sums

REFUSED = "the current stream is capturing, so synchronous API calls are disallowed"
NO_CUBLAS = "calling cuBLAS API during stream capture is currently unsupported"


class GpuArray(np.ndarray):
    """An array whose operations a capturing stream writes down."""

    cuda: EmulatedCuda  # the one that is tested

    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any
    ):
        if ufunc is np.matmul and self.cuda.tape is not None:
            raise NotImplementedError(NO_CUBLAS)
        target = None if out is None else out[0]
        return self.cuda.perform(lambda *a: getattr(ufunc, method)(*a, **options), inputs, target)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        assert not any(isinstance(a, GpuArray) for a in kwargs.values())
        return self.cuda.perform(lambda *a: function(*a, **kwargs), args, None)

    def __getitem__(self, key: Any) -> Any:
        return self.cuda.perform(lambda a, *k: a[k[0] if k else key], self._with(key), None)

    def __setitem__(self, key: Any, value: Any) -> None:
        view = np.ndarray.__getitem__(self.view(np.ndarray), key)
        self.cuda.perform(lambda v: v, (value,), view.view(GpuArray))

    def _with(self, key: Any) -> tuple:
        return (self, key) if isinstance(key, GpuArray) else (self,)

    def astype(self, dtype: Any, copy: bool = True) -> Any:
        return self.cuda.perform(lambda a: a.astype(dtype), (self,), None)

    def copy(self) -> Any:
        return self.cuda.perform(lambda a: a.copy(), (self,), None)

    def fill(self, value: float) -> None:
        self.cuda.perform(lambda: np.asarray(value), (), self)

    def sum(self, *args: Any, **kwargs: Any) -> Any:
        return self.cuda.perform(lambda a: a.sum(*args, **kwargs), (self,), None)

    def item(self) -> Any:  # elementwise asks for it where NumPy has numbers and CuPy has arrays
        return self

    def _look(self, *args: Any) -> Any:
        if self.cuda.tape is not None:
            raise RuntimeError(REFUSED)
        return self.view(np.ndarray)

    def __float__(self) -> float:
        return float(self._look())

    def __bool__(self) -> bool:
        return bool(self._look())

    get = tolist = _look


class EmulatedCuda:
    """What `CapturedStep` asks of ``cupy.cuda``."""

    def __init__(self) -> None:
        self.tape: list[Callable[[], None]] | None = None
        self.log: list[str] = []
        self.pools: list[EmulatedPool] = []
        self.fail: BaseException | None = None  # what the next allocation raises
        self.null = EmulatedStream(self, "null")
        self._streams = [self.null]
        self._allocators: list[Any] = [None]
        GpuArray.cuda = self

    def array(self, values: Any, dtype: Any = None) -> Any:
        return np.array(values, dtype).view(GpuArray)

    # cupy.cuda

    def Stream(self, non_blocking: bool = False) -> EmulatedStream:
        return EmulatedStream(self, "non-blocking" if non_blocking else "blocking")

    def MemoryPool(self) -> EmulatedPool:
        self.pools.append(EmulatedPool())
        return self.pools[-1]

    def get_current_stream(self) -> EmulatedStream:
        return self._streams[-1]

    @contextlib.contextmanager
    def using_allocator(self, malloc: Any) -> Iterator[None]:
        self._allocators.append(malloc.__self__)
        try:
            yield
        finally:
            self._allocators.pop()

    # the arrays

    def perform(self, function: Callable[..., Any], inputs: tuple, target: Any) -> Any:
        plain = [_plain(a) for a in inputs]
        result = np.asarray(function(*plain))
        if target is None and any(np.shares_memory(result, a) for a in _arrays(plain)):
            return result.view(GpuArray)  # a view
        if target is None:
            made = target = self._allocated(result.shape, result.dtype)
        else:
            made = target
        place = target.view(np.ndarray)

        def run() -> None:
            place[...] = function(*plain)

        if self.tape is not None:
            self.tape.append(run)
        else:
            place[...] = result
        return made

    def _allocated(self, shape: Any, dtype: Any) -> Any:
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        memory = np.empty(shape, dtype)
        memory.fill(np.nan if memory.dtype.kind == "f" else 0)
        made = memory.view(GpuArray)
        pool = self._allocators[-1]
        if pool is not None:
            pool.arrays.append(weakref.ref(memory))
        return made


def _plain(a: Any) -> Any:
    if isinstance(a, list | tuple):
        return type(a)(map(_plain, a))
    return a.view(np.ndarray) if isinstance(a, GpuArray) else a


def _arrays(values: Any) -> Iterator[np.ndarray]:
    for a in values:
        if isinstance(a, list | tuple):
            yield from _arrays(a)
        elif isinstance(a, np.ndarray):
            yield a


class EmulatedPool:
    """A memory pool: which of its arrays are held, and what was held when it was emptied."""

    def __init__(self) -> None:
        self.arrays: list[weakref.ref] = []
        self.held_at_the_end: int | None = None
        self.held_in_capture: int | None = None  # when it began

    def malloc(self, size: int) -> Any:
        raise AssertionError("only its owner is looked at")

    def held(self) -> int:
        return sum(a() is not None for a in self.arrays)

    def free_all_blocks(self) -> None:
        self.held_at_the_end = self.held()


class EmulatedStream:
    def __init__(self, cuda: EmulatedCuda, kind: str) -> None:
        self.cuda, self.kind = cuda, kind

    def __enter__(self) -> EmulatedStream:
        self.cuda._streams.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        self.cuda._streams.pop()

    def record(self) -> str:
        return f"event of {self.kind}"

    def wait_event(self, event: str) -> None:
        self.cuda.log.append(f"{self.kind} waits for {event}")

    def synchronize(self) -> None:
        if self.cuda.tape is not None:
            raise RuntimeError(REFUSED)
        self.cuda.log.append(f"wait for {self.kind}")

    def begin_capture(self) -> None:
        assert self.kind == "non-blocking", "only a non-blocking stream can capture here"
        assert self.cuda.get_current_stream() is self
        self.cuda.tape = []
        self.cuda.log.append("begin")
        for pool in self.cuda.pools[-1:]:
            pool.held_in_capture = pool.held()

    def end_capture(self) -> EmulatedGraph:
        tape, self.cuda.tape = self.cuda.tape, None
        self.cuda.log.append("end")
        assert tape is not None
        return EmulatedGraph(self.cuda, tape)


class EmulatedGraph:
    def __init__(self, cuda: EmulatedCuda, tape: list[Callable[[], None]]) -> None:
        self.cuda, self.tape = cuda, tape

    def upload(self, stream: EmulatedStream) -> None:
        self.cuda.log.append("upload")

    def launch(self) -> None:
        assert self.cuda.tape is None
        self.cuda.log.append(f"launch on {self.cuda.get_current_stream().kind}")
        for run in self.tape:
            run()


_joiner = functools.partial(AffineFusion.joined, library=lambda: laid("gemm")[0])


class EmulatedGemm:
    """What `CapturedStep` asks of a `Gemm`: products that can be captured, once planned."""

    made: list[EmulatedGemm]

    def __init__(self) -> None:
        self.planned: set[Any] = set()
        self.is_frozen = self.closed = False
        EmulatedGemm.made.append(self)

    @contextlib.contextmanager
    def products(self) -> Iterator[None]:
        names = ("matmul", "product", "product_and_sums")
        bodies = {name: getattr(self, name) for name in names}
        with fusing(GpuArray, _joiner, {**bodies, "gemm": self}):
            yield

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        self.is_frozen = True
        yield
        self.is_frozen = False

    def matmul(
        self, a: Any, b: Any, *, epilogue: str = "none", bias: Any = None, aux: Any = None
    ) -> Any:
        key = (a.shape, b.shape, epilogue)
        if self.is_frozen and key not in self.planned:
            message = f"{key} was not planned."
            raise RuntimeError(message)
        self.planned.add(key)
        y = GpuArray.cuda.perform(lambda a, b: a @ b, (a, b), None)
        if epilogue == "drelu_bgrad":
            y = y * aux
            return y, column_sums(y)
        y = y if bias is None else y + bias
        assert epilogue in ("none", "bias", "relu_aux_bias")
        return (np.maximum(y, 0), (y > 0).astype(y.dtype)) if "relu" in epilogue else y

    def product(self, a: Any, b: Any, bias: Any = None) -> Any:
        return self.matmul(a, b, epilogue="none" if bias is None else "bias", bias=bias)

    def product_and_sums(self, a: Any, b: Any) -> Any:
        return self.matmul(a, b), column_sums(b)

    def close(self) -> None:
        self.closed = True


@contextlib.contextmanager
def capturing(cuda: EmulatedCuda) -> Iterator[Callable[..., CapturedStep]]:
    """Yield what captures a step on the emulated GPU, and close all of them at the end."""
    made = []

    def make(pure: Any, **options: Any) -> CapturedStep:
        options = {"gemm": EmulatedGemm, "cuda": cuda, **options}
        made.append(CapturedStep(pure, **options))
        return made[-1]

    yield make
    for step in made:
        step.close()


def plain(tree: Any) -> Any:
    """Return a copy of a tree of arrays, as those of NumPy."""
    if isinstance(tree, dict):
        return {name: plain(a) for name, a in tree.items()}
    return np.array(tree.view(np.ndarray))


def same(a: Any, b: Any) -> bool:
    """Whether two trees have the same bits."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
