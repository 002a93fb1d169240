"""Convolutions of CuPy arrays through cuDNN, by NVIDIA's ``nvidia-cudnn-frontend``.

**Not yet run on a GPU.** Graphs, layouts and keys of plans are tested against a stand-in that
computes what the graphs say, and where cuDNN is installed its frontend has to find them valid. The
portable body is what CuPy arrays get unless a `Cudnn` is asked for.

cuDNN is fastest where the channels of a place are side by side in memory (NHWC). So arrays are laid
out that way on the way in, unless they are so already, and results have that layout: as always
their shape is ``(n, c, *sizes)``, only the strides are others.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from xplayers._arrays import Array, dtype_name
from xplayers.cuda.kernels import channels_first, channels_last
from xplayers.cuda.planner import NotPlanned, Planner
from xplayers.layers.correlation import BODIES
from xplayers.layers.windows import Sizes, Window

__all__ = ["Cudnn"]

TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BFLOAT16"}
A, B, RESULT = 1, 2, 3  # the numbers of the tensors in a graph
ALIGNMENT = 16  # bytes; what the frontend says of a tensor that says nothing

_active: contextvars.ContextVar[Cudnn | None] = contextvars.ContextVar("cudnn", default=None)


class Key(NamedTuple):
    """What a plan depends on; all arrays are channels-last."""

    operation: str  # as the frontend calls it
    dtype: str
    a: Sizes
    b: Sizes
    result: Sizes
    window: Window
    device: int


class Plan(NamedTuple):
    """A graph that is built, and the memory that it works in."""

    graph: Any
    workspace: Any


class Cudnn(Planner):
    """Convolutions through cuDNN, each planned once.

    A plan is made when a convolution is met for the first time, and not while a CUDA graph is
    captured: the steps before it, as they stand, do that.

    Parameters
    ----------
    tf32 : bool
        Whether float32 is multiplied in TF32, which rounds factors to 10 bits of mantissa. PyTorch
        does so by default in convolutions. 16-bit arrays have float32 sums either way.
    deterministic : bool
        Leave out the algorithms that add up in an order of chance.
    runtime : optional
        Where calls go, for tests; by default CuPy and ``cudnn``.

    Raises
    ------
    ImportError
        If nvidia-cudnn-frontend or cuDNN is not installed.

    Notes
    -----
    Supported are float16, bfloat16 and float32, sequences, images and volumes, and all options of
    `xplayers.Convolution` and `ConvolutionTranspose`. What cuDNN has no algorithm for is computed
    by the portable body. Gradients of biases are sums of the library.

    References
    ----------
    NVIDIA, "cuDNN Frontend", chapter "Convolutions".

    Examples
    --------
    >>> def train(step, batches):
    ...     with Cudnn().convolutions():
    ...         for x, t in batches:
    ...             step(x, t)
    """

    def __init__(
        self, *, tf32: bool = False, deterministic: bool = True, runtime: Any = None
    ) -> None:
        self.tf32, self.deterministic = tf32, deterministic
        self.plans: dict[Key, Plan | None] = {}  # None: there is no algorithm
        self._runtime = Runtime() if runtime is None else runtime
        self._handles: dict[int, Any] = {}  # by device

    @contextlib.contextmanager
    def convolutions(self) -> Iterator[None]:
        """Let convolutions of CuPy arrays in layers go through this object, in this context."""
        BODIES[self._runtime.array] = active
        token = _active.set(self)
        try:
            yield
        finally:
            _active.reset(token)

    def close(self) -> None:
        """Give back plans, their memory and the handles; wait for the device first."""
        self.plans.clear()
        for handle in self._handles.values():
            self._runtime.cudnn.destroy_handle(handle)
        self._handles.clear()

    # A body of `xplayers.layers.correlation`; replays, which give it an `out`, are of the host.

    def correlate(
        self, x: Array, W: Array, b: Array, window: Window, groups: int, out: None = None
    ) -> Array | None:
        """Return the convolution of `x` with the filters `W`; None where cuDNN has none."""
        shape = (x.shape[0], W.shape[0], *window.outputs(x.shape[2:]))
        return self._run("conv_fprop", x, W, shape, window, b)

    def spread(
        self,
        dy: Array,
        W: Array,
        b: Array,
        window: Window,
        groups: int,
        sizes: Sequence[int],
        out: None = None,
    ) -> Array | None:
        """Return the transpose of `correlate` applied to `dy`; None where cuDNN has none."""
        shape = (dy.shape[0], W.shape[1] * groups, *sizes)
        return self._run("conv_dgrad", dy, W, shape, window, b)

    def filter_grads(
        self, x: Array, dy: Array, shape: Sizes, window: Window, groups: int, bias: bool
    ) -> tuple[Array, None] | None:
        """Return the gradient of the filters in `correlate`, and none of the bias."""
        dW = self._run("conv_wgrad", x, dy, shape, window)
        return dW if dW is None else (self._runtime.copied(dW), None)  # as the filters are

    def _run(
        self,
        operation: str,
        a: Array,
        b: Array,
        shape: Sizes,
        window: Window,
        bias: Array | None = None,
    ) -> Array | None:
        dtype = dtype_name(a.dtype)
        if dtype not in TYPES or b.dtype != a.dtype or 0 in (*a.shape, *b.shape, *shape):
            return None
        a, b = self._laid(a), self._laid(b)
        out = self._runtime.empty((shape[0], *shape[2:], shape[1]), a.dtype, a.device)
        out = channels_first(out)
        key = Key(operation, dtype, a.shape, b.shape, out.shape, window, a.device.id)
        if key not in self.plans:
            if self._frozen:
                message = (
                    f"Cudnn: {key} was not planned before the capture; each step has to compute "
                    "the same convolutions. Run it once more before (warmup=), or use "
                    "compile=False."
                )
                raise NotPlanned(message)
            self.plans[key] = self._planned(key, a.device)
        plan = self.plans[key]
        if plan is None:
            return None
        pointers = {A: a.data.ptr, B: b.data.ptr, RESULT: out.data.ptr}
        handle = self._handle(a.device)
        self._runtime.cudnn.set_stream(handle=handle, stream=self._runtime.stream())
        plan.graph.execute(pointers, plan.workspace.data.ptr, handle=handle)
        if bias is not None:
            self._runtime.add(out, bias.reshape(-1, *[1] * (out.ndim - 2)))
        return out

    def _laid(self, a: Array) -> Array:
        """Return `a` with the channels of a place side by side, itself or a copy."""
        inner = channels_last(a)
        fits = inner.flags.c_contiguous and a.data.ptr % ALIGNMENT == 0
        return a if fits else channels_first(self._runtime.copied(inner))

    def _handle(self, device: Any) -> Any:
        if device.id not in self._handles:
            self._handles[device.id] = self._runtime.handle(device)
        return self._handles[device.id]

    def _planned(self, key: Key, device: Any) -> Plan | None:
        """Return a new plan, None where there is no algorithm."""
        cudnn = self._runtime.cudnn
        kinds = cudnn.data_type
        graph = cudnn.pygraph(
            io_data_type=getattr(kinds, TYPES[key.dtype]),
            intermediate_data_type=kinds.FLOAT,
            compute_data_type=kinds.FLOAT,
            handle=self._handle(device),
        )
        build(graph, key)
        notes = cudnn.numerical_note
        unwanted = [notes.NONDETERMINISTIC] if self.deterministic else []
        if key.dtype == "float32" and not self.tf32:
            unwanted += [notes.TENSOR_CORE, notes.DOWN_CONVERT_INPUTS]
        try:
            graph.validate()
            graph.build_operation_graph()
            graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
            graph.deselect_numeric_notes(unwanted)
            graph.check_support()
            graph.build_plans(cudnn.build_plan_policy.HEURISTICS_CHOICE)
        except cudnn.cudnnGraphNotSupportedError:
            return None
        size = max(1, graph.get_workspace_size())
        return Plan(graph, self._runtime.empty((size,), "uint8", device))


def active() -> Cudnn | None:
    """Return the object that convolutions of CuPy arrays go through in this context."""
    return _active.get()


def build(graph: Any, key: Key) -> None:
    """Write a convolution into a graph of the frontend.

    Sequences are images of height 1: cuDNN begins with two axes.
    """
    short = key.window.axes == 1

    def laid(shape: Sizes) -> dict[str, list[int]]:
        dim = [*shape[:2], 1, *shape[2:]] if short else [*shape]
        # Elements of a place, a row and so on.
        *inner, sample = itertools.accumulate([dim[1], *reversed(dim[2:])], operator.mul)
        return {"dim": dim, "stride": [sample, 1, *reversed(inner)]}

    def each(values: Sequence[int], fill: int) -> list[int]:
        return [fill, *values] if short else [*values]

    a, b = (graph.tensor(uid=uid, **laid(shape)) for uid, shape in ((A, key.a), (B, key.b)))
    names = {
        "conv_fprop": ("image", "weight"),
        "conv_dgrad": ("loss", "filter"),
        "conv_wgrad": ("image", "loss"),
    }
    result = getattr(graph, key.operation)(
        **dict(zip(names[key.operation], (a, b), strict=True)),
        pre_padding=each([p for p, _ in key.window.padding], 0),
        post_padding=each([p for _, p in key.window.padding], 0),
        stride=each(key.window.stride, 1),
        dilation=each(key.window.dilation, 1),
    )
    at = laid(key.result)
    result.set_uid(RESULT).set_output(True).set_dim(at["dim"]).set_stride(at["stride"])


class Runtime:
    """CuPy and the frontend, as `Cudnn` uses them."""

    def __init__(self) -> None:
        try:
            # By its name: a type checker would take `import cudnn` for this file.
            cudnn: Any = importlib.import_module("cudnn")
            cudnn.backend_version()  # a RuntimeError without the library
        except (ImportError, RuntimeError) as error:
            message = (
                "Cudnn: needs cuDNN and its frontend: "
                'pip install "xplayers[cudnn]"; or do without, on the portable body.'
            )
            raise ImportError(message) from error
        import cupy

        self.cudnn, self.cupy, self.array = cudnn, cupy, cupy.ndarray

    def empty(self, shape: Sizes, dtype: Any, device: Any) -> Array:
        with device:
            return self.cupy.empty(shape, dtype)

    def handle(self, device: Any) -> Any:
        with device:
            return self.cudnn.create_handle()

    def add(self, y: Array, b: Array) -> None:
        y += b

    def copied(self, a: Array) -> Array:
        return a.copy(order="C")

    def stream(self) -> int:
        return self.cupy.cuda.get_current_stream().ptr
