"""Plans of cuDNN, each made once for its key, and what they are run with."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from xplayers.accelerate.cuda.cudnn_graphs import Key, Tensor, build, memory_order
from xplayers.accelerate.cuda.planner import NotPlanned, Planner, fastest, milliseconds
from xplayers.arrays.elementwise import elementwise
from xplayers.arrays.namespaces import Array, Namespace, dtype_name, named_dtype
from xplayers.layers.windows import Sizes

CANDIDATES = 8  # algorithms that are timed
WORKSPACE = 1 << 30  # bytes that one may work in
ALIGNMENT = 16  # bytes; what the frontend says of a tensor that says nothing


class Plan(NamedTuple):
    """A graph, the number of its algorithm, and what that works in and is passed by the host."""

    graph: Any
    algorithm: int
    workspace: int  # bytes
    values: dict[int, ctypes.c_float]


class Plans(Planner):
    """Operations of cuDNN on CuPy arrays.

    Parameters
    ----------
    tf32, deterministic, autotune : bool
        As in `Cudnn`.
    runtime
        Where calls go.
    """

    def __init__(self, tf32: bool, deterministic: bool, autotune: bool, runtime: Any) -> None:
        self.tf32, self.deterministic, self.autotune = tf32, deterministic, autotune
        self.plans: dict[Key, Plan | None] = {}  # None: there is no algorithm
        self._runtime = runtime
        self._handles: dict[int, Any] = {}  # by device

    def close(self) -> None:
        """Give back plans, their memory and the handles; wait for the device first."""
        self.plans.clear()
        for handle in self._handles.values():
            self._runtime.cudnn.destroy_handle(handle)
        self._handles.clear()

    def run(
        self,
        operation: str,
        inputs: Mapping[str, Array],
        results: Sequence[tuple[Sizes, Any]],
        after: tuple[str, ...] = (),
        **options: Any,
    ) -> list[Array] | None:
        """Return the results of an operation; None where cuDNN has no algorithm for it.

        Parameters
        ----------
        operation : str
            As the frontend calls it.
        inputs : mapping of str to array
            By the frontend's names, each of at least two axes, on one device. What has no elements
            is computed elsewhere.
        results : sequence of (shape, dtype)
            In the frontend's order.
        after : tuple of str
            As in `Key`.
        **options
            As in `Key`.

        Raises
        ------
        NotPlanned
            If there is no plan yet, and a capture is going on.
        """
        device = next(iter(inputs.values())).device
        key = Key(
            operation,
            tuple(Tensor(name, a.shape, dtype_name(a.dtype)) for name, a in inputs.items()),
            tuple(Tensor("", shape, dtype_name(dtype)) for shape, dtype in results),
            tuple(options.items()),
            device.id,
            after,
        )
        plan = self._plan(key, device)
        if plan is None:
            return None
        arrays = [self._laid(operation, a) for a in inputs.values()]
        outs = [self._empty(operation, shape, dtype, device) for shape, dtype in results]
        self._execute(plan, [*arrays, *outs], device)
        return outs

    def _empty(self, operation: str, shape: Sizes, dtype: Any, device: Any) -> Array:
        """Return an array without values that lies as the operation has it."""
        order = memory_order(operation, shape)
        array = self._runtime.empty(tuple([shape[axis] for axis in order]), dtype, device)
        return array.transpose(_inverse(order))

    def _execute(
        self, plan: Plan, arrays: Sequence[Array], device: Any, workspace: Any = None
    ) -> None:
        pointers = {k: a.data.ptr for k, a in enumerate(arrays, 1)}
        pointers |= {k: ctypes.addressof(value) for k, value in plan.values.items()}
        if workspace is None:  # of the pool of the stream, in whose order it is used again
            workspace = self._runtime.empty((plan.workspace,), "uint8", device)
        handle = self._handle(device)
        self._runtime.cudnn.set_stream(handle=handle, stream=self._runtime.stream())
        plan.graph.execute_plan_at_index(
            pointers, workspace.data.ptr, plan.algorithm, handle=handle
        )

    def _laid(self, operation: str, a: Array) -> Array:
        """Return `a` as it lies for the operation, itself or a copy."""
        order = memory_order(operation, a.shape)
        inner = a.transpose(order)
        fits = inner.flags.c_contiguous and a.data.ptr % ALIGNMENT == 0
        return a if fits else self._runtime.copied(inner).transpose(_inverse(order))

    def _handle(self, device: Any) -> Any:
        if device.id not in self._handles:
            self._handles[device.id] = self._runtime.handle(device)
        return self._handles[device.id]

    def _plan(self, key: Key, device: Any) -> Plan | None:
        if key not in self.plans:
            if self._frozen:
                message = (
                    f"Cudnn: {key} was not planned before the capture; each step has to compute "
                    "the same operations. Run it once more before (warmup=), or use compile=False."
                )
                raise NotPlanned(message)
            self.plans[key] = self._planned(key, device)
        return self.plans[key]

    def _planned(self, key: Key, device: Any) -> Plan | None:
        """Return a new plan, None where there is no algorithm."""
        plans = self._candidates(key, device)
        if len(plans) < 2:
            return plans[0] if plans else None
        dtypes = [named_dtype(self._runtime.xp, t.dtype) for t in (*key.inputs, *key.results)]
        shapes = [t.shape for t in (*key.inputs, *key.results)]
        try:  # any values will do
            arrays = [
                self._empty(key.operation, s, d, device)
                for s, d in zip(shapes, dtypes, strict=True)
            ]
        except MemoryError:
            return plans[0]

        workspace: Any = None
        while workspace is None:  # the largest, of those that there is room for
            size = max(plan.workspace for plan in plans)
            try:
                workspace = self._runtime.empty((size,), "uint8", device)
            except MemoryError:
                smaller = [plan for plan in plans if plan.workspace < size]
                if not smaller:
                    return plans[0]
                plans = smaller
        return fastest(plans, lambda: self._runtime.milliseconds([
            functools.partial(self._execute, plan, arrays, device, workspace) for plan in plans
        ]))  # fmt: skip

    def _candidates(self, key: Key, device: Any) -> list[Plan]:
        """Return a plan for each of the first algorithms that can be built."""
        cudnn = self._runtime.cudnn
        kinds, notes = cudnn.data_type, cudnn.numerical_note
        graph = cudnn.pygraph(
            intermediate_data_type=kinds.FLOAT,
            compute_data_type=kinds.FLOAT,
            handle=self._handle(device),
        )
        values = {k: ctypes.c_float(v) for k, v in build(cudnn, graph, key).items()}
        unwanted = [notes.FFT, notes.REDUCED_PRECISION_REDUCTION]  # they round more
        if self.deterministic:
            unwanted.append(notes.NONDETERMINISTIC)
        if key.inputs[0].dtype == "float32" and not self.tf32:
            unwanted += [notes.TENSOR_CORE, notes.DOWN_CONVERT_INPUTS]
        try:
            graph.validate()
            graph.build_operation_graph()
            graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
            graph.deselect_numeric_notes(unwanted)
            graph.deselect_workspace_greater_than(WORKSPACE)
            graph.check_support()
        except cudnn.cudnnGraphNotSupportedError:
            return []
        except RuntimeError:
            if key.after:  # which can do without
                return []
            raise
        plans: list[Plan] = []
        for k in range(graph.get_execution_plan_count()):
            try:
                graph.build_plan_at_index(k)
            except cudnn.cudnnGraphNotSupportedError:
                continue  # deselected, or not for this device
            size = graph.get_workspace_size_plan_at_index(k)
            plans.append(Plan(graph, k, max(1, size), values))
            if len(plans) == (CANDIDATES if self.autotune else 1):
                break
        return plans


def _inverse(order: Sizes) -> Sizes:
    return tuple([order.index(axis) for axis in range(len(order))])


@elementwise
def variance(xp: Namespace, r: Array, eps: float) -> Array:
    """Return the variance that ``r = 1 / sqrt(var + eps)`` was made of.

    An error of r of two units in the last place, which CUDA allows a reciprocal root, and the
    roundings here are together less than ``1e-6 * (var + eps)``. It is only ever used as
    ``var + eps``.
    """
    return xp.maximum(1.0 / (r * r) - eps, 0.0)


class Runtime:
    """CuPy and the frontend, as `Plans` and `Cudnn` use them."""

    def __init__(self) -> None:
        with contextlib.suppress(Exception):
            # The frontend opens libcudart by its name, which a wheel is not found by.
            importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib("cudart")
        try:
            # By its name: a type checker would take `import cudnn` for the file beside this one.
            cudnn: Any = importlib.import_module("cudnn")
            cudnn.backend_version()  # a RuntimeError without the library
        except (ImportError, RuntimeError) as error:
            message = (
                "Cudnn: needs cuDNN and its frontend: "
                'pip install "xplayers[cudnn]"; or do without, on the portable body.'
            )
            raise ImportError(message) from error
        import array_api_compat.cupy

        cupy: Any = importlib.import_module("cupy")

        self.cudnn, self.cupy, self.array = cudnn, cupy, cupy.ndarray
        self.xp = array_api_compat.cupy

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

    def cast(self, a: Array, dtype: Any) -> Array:
        return a.astype(dtype, copy=False)

    def variance(self, r: Array, eps: float) -> Array:
        return variance(r, eps)

    def milliseconds(self, functions: Sequence[Callable[[], None]]) -> list[float]:
        return milliseconds(self.cupy.cuda, functions)

    def stream(self) -> int:
        return self.cupy.cuda.get_current_stream().ptr
