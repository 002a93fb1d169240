"""A stand-in for cuDNN's frontend on the host: computes what graphs and strides say."""

from __future__ import annotations

import enum
import itertools
from typing import Any

import numpy as np
from host_gpu import _view, fabricated, host


def _names(*names: str) -> Any:
    return enum.Enum("Names", names)


class NotSupported(Exception):
    """As cuDNN's, where it has no algorithm."""


class HostCudnn:
    """The calls of ``cudnn`` that `xplayers.cuda.cudnn` makes.

    Parameters
    ----------
    supported : bool
        Whether there is an algorithm.
    """

    cudnnGraphNotSupportedError = NotSupported
    data_type = _names("FLOAT", "HALF", "BFLOAT16")
    numerical_note = _names("NONDETERMINISTIC", "TENSOR_CORE", "DOWN_CONVERT_INPUTS")
    heur_mode = _names("A", "FALLBACK")
    build_plan_policy = _names("HEURISTICS_CHOICE")

    def __init__(self, supported: bool = True) -> None:
        self.supported = supported
        self.handles: dict[int, int] = {}  # and their streams
        self.graphs: list[HostGraph] = []

    def create_handle(self) -> int:
        self.handles[len(self.handles) + 50] = 0
        return max(self.handles)

    def destroy_handle(self, handle: int) -> None:
        del self.handles[handle]

    def set_stream(self, handle: int, stream: int) -> None:
        self.handles[handle] = stream

    def pygraph(self, **options: Any) -> HostGraph:
        self.graphs.append(HostGraph(self, **options))
        return self.graphs[-1]


class HostTensor:
    def __init__(self, uid: int | None = None, dim: Any = None, stride: Any = None) -> None:
        self.uid, self.dim, self.stride, self.is_output = uid, dim, stride, False

    def set_uid(self, uid: int) -> HostTensor:
        self.uid = uid
        return self

    def set_output(self, on: bool) -> HostTensor:
        self.is_output = on
        return self

    def set_dim(self, dim: list[int]) -> HostTensor:
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> HostTensor:
        self.stride = stride
        return self


class HostGraph:
    STAGES = (
        "validate", "build_operation_graph", "create_execution_plans", "deselect_numeric_notes",
        "check_support", "build_plans",
    )  # fmt: skip

    def __init__(self, cudnn: HostCudnn, **options: Any) -> None:
        self.cudnn, self.options = cudnn, options
        self.tensors: list[HostTensor] = []
        self.done: list[str] = []
        self.arguments: dict[str, Any] = {}
        self.runs = 0

    def __getattr__(self, name: str) -> Any:
        """Return a stage: each has to follow the one before."""
        if name not in self.STAGES:
            raise AttributeError(name)
        assert self.STAGES.index(name) == len(self.done)

        def stage(*arguments: Any) -> None:
            if name == "check_support" and not self.cudnn.supported:
                raise NotSupported
            self.done.append(name)
            self.arguments[name] = arguments

        return stage

    def tensor(self, **what: Any) -> HostTensor:
        self.tensors.append(HostTensor(**what))
        return self.tensors[-1]

    def conv_fprop(self, image: HostTensor, weight: HostTensor, **window: Any) -> HostTensor:
        return self._operation(_fprop, image, weight, window)

    def conv_dgrad(self, loss: HostTensor, filter: HostTensor, **window: Any) -> HostTensor:
        return self._operation(_dgrad, loss, filter, window)

    def conv_wgrad(self, image: HostTensor, loss: HostTensor, **window: Any) -> HostTensor:
        return self._operation(_wgrad, image, loss, window)

    def _operation(self, function: Any, a: HostTensor, b: HostTensor, window: Any) -> HostTensor:
        self.result = HostTensor()
        self.computed = function, a, b, window
        return self.result

    def get_workspace_size(self) -> int:
        return 48

    def execute(self, pointers: dict[int, int], workspace: int, handle: int) -> None:
        assert self.done == list(self.STAGES)
        assert self.result.is_output
        assert workspace
        assert self.cudnn.handles[handle] == 7  # the stream of the runtime
        function, *given, window = self.computed
        a, b = (self._memory(t, pointers).astype("float64") for t in given)
        out = self._memory(self.result, pointers)
        out[...] = function(a, b, out.shape, window)
        self.runs += 1

    def _memory(self, t: HostTensor, pointers: dict[int, int]) -> np.ndarray:
        name = self.options["io_data_type"].name
        dtype = np.dtype({"FLOAT": "float32", "HALF": "float16"}.get(name, "bfloat16"))
        strides = [s * dtype.itemsize for s in t.stride]
        assert pointers[t.uid] % 16 == 0, "aligned"
        assert t.stride[1] == 1, "channels side by side"
        return _view(pointers[t.uid], dtype, tuple(t.dim), tuple(strides))


def _places(size: Any, outputs: Any, window: Any) -> Any:
    """Return each place of a window, and where all windows have it in padded inputs."""
    for place in itertools.product(*map(range, size)):
        yield (
            place,
            tuple(
                slice(k * d, k * d + s * (n - 1) + 1, s)
                for k, d, s, n in zip(
                    place, window["dilation"], window["stride"], outputs, strict=True
                )
            ),
        )


def _padded(x: np.ndarray, window: Any) -> np.ndarray:
    around = zip(window["pre_padding"], window["post_padding"], strict=True)
    return np.pad(x, [(0, 0), (0, 0), *around])


def _groups(channels: int, per_group: int, filters: int) -> Any:
    groups = channels // per_group
    for g in range(groups):
        yield (
            slice(g * per_group, (g + 1) * per_group),
            slice(g * filters // groups, (g + 1) * filters // groups),
        )


def _fprop(x: np.ndarray, W: np.ndarray, shape: Any, window: Any) -> np.ndarray:
    y, x = np.zeros(shape), _padded(x, window)
    for c, f in _groups(x.shape[1], W.shape[1], W.shape[0]):
        for place, where in _places(W.shape[2:], shape[2:], window):
            seen = x[(slice(None), c, *where)]
            y[:, f] += np.einsum("nc...,fc->nf...", seen, W[(f, slice(None), *place)])
    return y


def _dgrad(dy: np.ndarray, W: np.ndarray, shape: Any, window: Any) -> np.ndarray:
    dx = _padded(np.zeros(shape), window)
    for c, f in _groups(shape[1], W.shape[1], W.shape[0]):
        for place, where in _places(W.shape[2:], dy.shape[2:], window):
            given = np.einsum("nf...,fc->nc...", dy[:, f], W[(f, slice(None), *place)])
            dx[(slice(None), c, *where)] += given
    inner = zip(window["pre_padding"], shape[2:], strict=True)
    return dx[(..., *(slice(p, p + n) for p, n in inner))]


def _wgrad(x: np.ndarray, dy: np.ndarray, shape: Any, window: Any) -> np.ndarray:
    dW, x = np.zeros(shape), _padded(x, window)
    for c, f in _groups(x.shape[1], shape[1], shape[0]):
        for place, where in _places(shape[2:], dy.shape[2:], window):
            seen = x[(slice(None), c, *where)]
            axes = [0, *range(2, dy.ndim)]
            dW[(f, slice(None), *place)] = np.tensordot(dy[:, f], seen, (axes, axes))
    return dW


def _aligned(a: np.ndarray) -> np.ndarray:
    """Return a copy in rows that begins where CuPy's arrays may."""
    memory = np.empty(a.nbytes + 512, np.uint8)
    start = -memory.ctypes.data % 512
    made = memory[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    made[...] = a
    return made


class HostRuntime:
    """What a `Cudnn` asks of CuPy, on host memory."""

    def __init__(self, supported: bool = True) -> None:
        import cupy

        self.cudnn = HostCudnn(supported)
        self.array = cupy.ndarray
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

    def stream(self) -> int:
        return 7
