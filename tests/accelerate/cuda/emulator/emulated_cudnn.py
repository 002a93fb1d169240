"""cuDNN's frontend, emulated on the host: it computes what graphs and strides say."""

from __future__ import annotations

import enum
import math
from typing import Any

import numpy as np
import pytest

from emulator import cudnn_operations as operations
from emulator.emulated_gpu import fabricated, host, view
from xplayers.accelerate.cuda.cudnn_graphs import TYPES, build
from xplayers.accelerate.cuda.cudnn_plans import variance


def host_dtype(name: str) -> np.dtype:
    """Return NumPy's dtype of that name, bfloat16 too."""
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    return np.dtype(name)


def assert_valid(cudnn: Any, key: Any) -> None:
    """Assert that the frontend, which needs no GPU for this, finds the graph of a plan valid."""
    kinds = cudnn.data_type
    options = {"intermediate_data_type": kinds.FLOAT, "compute_data_type": kinds.FLOAT}
    graph = cudnn.pygraph(**options, sm_version=90)  # attention asks for it
    build(cudnn, graph, key)
    graph.validate()


def _names(*names: str) -> Any:
    return enum.Enum("Names", names)


FAILS = "cuDNN failed"  # in the place of a time: the algorithm is built, but cannot be run


class NotSupported(Exception):
    """As cuDNN's, where it has no algorithm."""


class EmulatedCudnn:
    """The calls of ``cudnn`` that `xplayers.accelerate.cuda.cudnn` makes.

    Parameters
    ----------
    unsupported : container of str
        The operations that have no algorithm.
    times : sequence of float or None
        The milliseconds of the algorithms for each of the others; None of one that is not built.
    line : int
        What the bytes of the channels of a batch normalization are a multiple of.
    put : callable
        Runs a function when its turn comes, in the stream of a handle.
    """

    cudnnGraphNotSupportedError = NotSupported
    data_type = _names("FLOAT", "HALF", "BFLOAT16")
    numerical_note = _names(
        "NONDETERMINISTIC", "TENSOR_CORE", "DOWN_CONVERT_INPUTS", "FFT",
        "REDUCED_PRECISION_REDUCTION",
    )  # fmt: skip
    heur_mode = _names("A", "FALLBACK")
    norm_forward_phase = _names("TRAINING")

    def __init__(
        self, unsupported: Any = (), times: Any = (1.0,), line: int = 1, put: Any = None
    ) -> None:
        self.unsupported, self.times, self.line = unsupported, times, line
        self.put = put or self._now
        self.handles: dict[int, int] = {}  # and their streams
        self.graphs: list[EmulatedGraph] = []

    @staticmethod
    def _now(function: Any, stream: int) -> None:
        assert stream == 7  # that of the runtime
        function()

    def backend_version(self) -> int:
        return 92800

    def create_handle(self) -> int:
        self.handles[len(self.handles) + 50] = 0
        return max(self.handles)

    def destroy_handle(self, handle: int) -> None:
        del self.handles[handle]

    def set_stream(self, handle: int, stream: int) -> None:
        self.handles[handle] = stream

    def pygraph(self, **options: Any) -> EmulatedGraph:
        self.graphs.append(EmulatedGraph(self, **options))
        return self.graphs[-1]


class EmulatedTensor:
    def __init__(self, **what: Any) -> None:
        self.uid = self.dim = self.stride = self.data_type = None
        self.is_output = self.is_pass_by_value = False
        self.__dict__ |= what

    def __getattr__(self, name: str) -> Any:
        """Return a setter."""
        if not name.startswith("set_"):
            raise AttributeError(name)

        def set_it(value: Any) -> EmulatedTensor:
            key = name.removeprefix("set_")
            self.__dict__["is_output" if key == "output" else key] = value
            return self

        return set_it


class EmulatedGraph:
    STAGES = (
        "validate", "build_operation_graph", "create_execution_plans", "deselect_numeric_notes",
        "deselect_workspace_greater_than", "check_support",
    )  # fmt: skip

    def __init__(self, cudnn: EmulatedCudnn, **options: Any) -> None:
        self.cudnn, self.options = cudnn, options
        self.tensors: list[EmulatedTensor] = []
        self.done: list[str] = []
        self.operation = ""
        self.arguments: dict[str, Any] = {}
        self.built: list[int] = []
        self.ran: list[int] = []  # algorithms

    def __getattr__(self, name: str) -> Any:
        """Return a stage: each has to follow the one before."""
        if name not in self.STAGES:
            raise AttributeError(name)
        assert self.STAGES.index(name) == len(self.done)

        def stage(*arguments: Any) -> None:
            if name == "check_support" and self._unsupported():
                raise NotSupported
            self.done.append(name)
            self.arguments[name] = arguments

        return stage

    def _unsupported(self) -> bool:
        x, channels = self.computed[1][0], self.operation.startswith("batchnorm")
        odd = channels and x.dim[1] * _dtype(x).itemsize % self.cudnn.line != 0
        wide = self.operation.startswith("sdpa") and _dtype(x).itemsize != 2
        return odd or wide or self.operation.removesuffix(" causal") in self.cudnn.unsupported

    def tensor(self, **what: Any) -> EmulatedTensor:
        self.tensors.append(EmulatedTensor(**what))
        return self.tensors[-1]

    def conv_fprop(
        self, image: EmulatedTensor, weight: EmulatedTensor, **window: Any
    ) -> EmulatedTensor:
        return self._operation("conv_fprop", operations.fprop, [image, weight], window)[0]

    def conv_dgrad(
        self, loss: EmulatedTensor, filter: EmulatedTensor, **window: Any
    ) -> EmulatedTensor:
        return self._operation("conv_dgrad", operations.dgrad, [loss, filter], window)[0]

    def conv_wgrad(
        self, image: EmulatedTensor, loss: EmulatedTensor, **window: Any
    ) -> EmulatedTensor:
        return self._operation("conv_wgrad", operations.wgrad, [image, loss], window)[0]

    def batchnorm(
        self, input: Any, scale: Any, bias: Any, in_running_mean: None, in_running_var: None,
        epsilon: Any, momentum: None,
    ) -> list[Any]:  # fmt: skip
        assert in_running_mean is in_running_var is momentum is None
        assert epsilon.is_pass_by_value
        given = [input, scale, bias, epsilon]
        return [*self._operation("batchnorm", operations.batchnorm, given, results=3), None, None]

    def batchnorm_backward(
        self, grad: Any, input: Any, scale: Any, mean: Any, inv_variance: Any
    ) -> list[Any]:
        given = [grad, input, scale, mean, inv_variance]
        return self._operation("batchnorm_backward", operations.batchnorm_vjp, given, results=3)

    def layernorm(
        self, norm_forward_phase: Any, input: Any, scale: Any, bias: Any, epsilon: Any
    ) -> list[Any]:
        assert norm_forward_phase is self.cudnn.norm_forward_phase.TRAINING
        assert epsilon.is_pass_by_value
        given = [input, scale, bias, epsilon]
        return self._operation("layernorm", operations.layernorm, given, results=3)

    def layernorm_backward(
        self, grad: Any, input: Any, scale: Any, mean: Any, inv_variance: Any
    ) -> list[Any]:
        given = [grad, input, scale, mean, inv_variance]
        return self._operation("layernorm_backward", operations.layernorm_vjp, given, results=3)

    def rmsnorm(self, norm_forward_phase: Any, input: Any, scale: Any, epsilon: Any) -> list[Any]:
        assert norm_forward_phase is self.cudnn.norm_forward_phase.TRAINING
        assert epsilon.is_pass_by_value
        return self._operation("rmsnorm", operations.rmsnorm, [input, scale, epsilon], results=2)

    def rmsnorm_backward(
        self, grad: Any, input: Any, scale: Any, inv_variance: Any, has_dbias: bool
    ) -> list[Any]:
        assert has_dbias is False
        given = [grad, input, scale, inv_variance]
        made = self._operation("rmsnorm_backward", operations.rmsnorm_vjp, given, results=2)
        return [*made, None]

    def sdpa(
        self, q: Any, k: Any, v: Any, generate_stats: bool, use_causal_mask: bool
    ) -> list[Any]:
        assert generate_stats is True
        name = "sdpa causal" if use_causal_mask else "sdpa"
        return self._operation(name, operations.ATTENTION[name], [q, k, v], results=2)

    def sdpa_backward(
        self, q: Any, k: Any, v: Any, o: Any, dO: Any, stats: Any, use_causal_mask: bool,
        use_deterministic_algorithm: bool,
    ) -> list[Any]:  # fmt: skip
        name = "sdpa_backward causal" if use_causal_mask else "sdpa_backward"
        given = [q, k, v, o, dO, stats]
        return self._operation(name, operations.ATTENTION[name], given, results=3)

    def _operation(
        self, name: str, function: Any, given: list[EmulatedTensor], window: Any = None,
        results: int = 1,
    ) -> list[EmulatedTensor]:  # fmt: skip
        self.operation = name
        self.results = [EmulatedTensor() for _ in range(results)]
        self.computed = function, given, () if window is None else (window,)
        self.after: list[Any] = []
        return self.results

    def bias(self, input: EmulatedTensor, bias: EmulatedTensor) -> EmulatedTensor:
        return self._after("bias", np.add, input, bias)

    def relu(self, input: EmulatedTensor) -> EmulatedTensor:
        return self._after("relu", lambda y: np.maximum(y, 0), input)

    def _after(
        self, name: str, function: Any, y: EmulatedTensor, *given: EmulatedTensor
    ) -> EmulatedTensor:
        assert self.results == [y]
        assert y.uid is None, "written, though it is no result"
        self.operation += f" + {name}"
        self.after.append((function, given))
        self.results = [EmulatedTensor()]
        return self.results[0]

    def get_execution_plan_count(self) -> int:
        return len(self.cudnn.times)

    def build_plan_at_index(self, index: int) -> None:
        assert self.done == list(self.STAGES)
        if self.cudnn.times[index] is None:
            raise NotSupported
        self.built.append(index)

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        assert index in self.built
        return 48 * index

    def execute_plan_at_index(
        self, pointers: dict[int, int], workspace: int, index: int, handle: int
    ) -> None:
        assert index in self.built
        self.ran.append(index)
        if self.cudnn.times[index] == FAILS:
            raise RuntimeError(FAILS)
        assert all(t.is_output for t in self.results)
        assert workspace
        function, given, options = self.computed
        memory = {t: self._memory(t, pointers) for t in given}
        memory |= {t: a.copy() for t, a in memory.items() if t.is_pass_by_value}
        outs = [self._memory(t, pointers) for t in self.results]
        after = [(also, [self._memory(t, pointers) for t in given]) for also, given in self.after]
        assert len(pointers) == len(given) + len(outs) + sum(len(others) for _, others in after)

        def run() -> None:
            made = function(*_wide(memory[t] for t in given), outs[0].shape, *options)
            for also, others in after:
                made = also(made, *_wide(others))
            for out, values in zip(outs, made if len(outs) > 1 else [made], strict=True):
                assert out.shape == values.shape
                out[...] = values

        self.cudnn.put(run, self.cudnn.handles[handle])

    def _memory(self, t: EmulatedTensor, pointers: dict[int, int]) -> np.ndarray:
        dtype = _dtype(t)
        strides = [s * dtype.itemsize for s in t.stride]
        assert t.is_pass_by_value or pointers[t.uid] % 16 == 0, "aligned"
        inner = 3 if self.operation.startswith("sdpa") else 1
        assert t.stride[inner] == 1, "channels side by side, or the features of a head"
        return view(pointers[t.uid], dtype, tuple(t.dim), tuple(strides))


def _dtype(t: EmulatedTensor) -> np.dtype:
    (name,) = (name for name, kind in TYPES.items() if kind == t.data_type.name)
    return host_dtype(name)


def _wide(arrays: Any) -> list[np.ndarray]:
    return [a.astype("float64") for a in arrays]


def _aligned(a: np.ndarray) -> np.ndarray:
    """Return a copy in rows that begins where CuPy's arrays may."""
    memory = np.empty(a.nbytes + 512, np.uint8)
    start = -memory.ctypes.data % 512
    made = memory[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    made[...] = a
    return made


class EmulatedRuntime:
    """What a `Cudnn` asks of CuPy, on host memory."""

    def __init__(self, unsupported: Any = (), times: Any = (1.0,)) -> None:
        import array_api_compat.cupy
        import cupy

        self.cudnn = EmulatedCudnn(unsupported, times)
        self.array = cupy.ndarray
        self.xp = array_api_compat.cupy
        self.copies = 0

    def empty(self, shape: Any, dtype: Any, device: Any) -> Any:
        return fabricated(_aligned(np.ones(shape, dtype)), device.id)

    def handle(self, device: Any) -> int:
        return self.cudnn.create_handle()

    def copied(self, a: Any) -> Any:
        self.copies += 1
        return fabricated(_aligned(host(a)), a.device.id)

    def add(self, y: Any, b: Any) -> None:
        host(y)[...] += host(b)

    def cast(self, a: Any, dtype: Any) -> Any:
        return a if a.dtype == dtype else fabricated(_aligned(host(a).astype(dtype)), a.device.id)

    def variance(self, r: Any, eps: float) -> Any:
        return fabricated(_aligned(variance(host(r), eps)), r.device.id)

    def stream(self) -> int:
        return 7

    def milliseconds(self, functions: Any) -> list[float]:
        times = []
        for function in functions:
            try:
                function()
                times.append(self.cudnn.times[self.cudnn.graphs[-1].ran[-1]])
            except RuntimeError:
                times.append(math.inf)
        return times
