"""A training step as a CUDA graph: what Python and CuPy do in each step is done once.

In the tests CuPy captures and launches every layer on an emulated GPU, which refuses what a capture
refuses: a step has the bits that it has without a graph.

A graph is a list of kernels with fixed addresses. So parameters, buffers and state stay in the
arrays that the first step was given, a batch is copied into arrays of the graph, the learning rate
is a 0-d array, and what the step makes in between lies in a memory pool of its own, which lives as
long as the graph: in the shared pool its addresses would be given to others.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import traceback
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from xplayers.accelerate.cuda.cudnn import active
from xplayers.accelerate.cuda.gemm import Gemm
from xplayers.arrays.joining import stack
from xplayers.arrays.namespaces import Array, dtype_name, namespace
from xplayers.arrays.transfer import is_out_of_memory

__all__ = ["CaptureError", "CapturedStep"]

Tree = dict[str, Any]  # nested dicts of arrays
Trees = tuple[Tree, Tree, Tree, Tree]  # parameters, buffers, arrays of the loss, state
Pure = Callable[..., tuple[Array, Tree, Tree, Tree]]


class CaptureError(RuntimeError):
    """A step does something that a CUDA graph cannot hold."""


class CapturedStep:
    """A pure training step on CuPy arrays, captured as one CUDA graph for each shape of a batch.

    The first step with a shape runs `pure` some times to compile kernels and plan products, puts
    parameters, buffers and state back, and captures it; from then on a step is a launch.

    Parameters
    ----------
    pure : callable
        ``pure(params, buffers, loss_arrays, state, x, t, lr) -> value, params, buffers, state``, as
        `TrainStep.pure`, the four being nested dicts of arrays. It may write over what it is given.
        It must not look at values, and has to do the same each time.
    gemm : callable or None
        Makes the object through which the products of layers go in a graph, as CuPy refuses
        cuBLAS in a capture; None: ``@``.
    limit : int
        How many graphs are kept; the one that has waited longest is closed first.
    warmup : int
        How often a step runs before it is captured, at least once.
    cuda : module, optional
        Where streams, pools and graphs come from, for tests; by default ``cupy.cuda``.
    together : callable, optional
        ``together(kind, history) -> kinds, histories``, the numbers that all processes pass, where
        `pure` has a sum over them.

    Notes
    -----
    A sum over processes is captured by all or by none, and a graph that has one is launched with
    those that were captured with it. So a graph is kept for each shape of the batches of all
    processes, and where one of them has closed its graphs all do.

    The arrays of the first call are those that all graphs read and write: later values that are
    given in other arrays are copied into them. Close the step, or drop it, to give its memory back.

    Examples
    --------
    >>> import xplayers as xl
    >>> net, loss, optimizer = xl.mlp([64, 50, 10], rng=0), xl.SoftmaxWithLoss(), xl.Adam()
    >>> step = xl.TrainStep(net, loss, optimizer, compile="graph")  # makes one of CuPy arrays
    """

    def __init__(
        self,
        pure: Pure,
        *,
        gemm: Callable[[], Any] | None = Gemm,
        limit: int = 4,
        warmup: int = 2,
        cuda: Any = None,
        together: Callable[[int, int], tuple[tuple[int, ...], tuple[int, ...]]] | None = None,
    ) -> None:
        if warmup < 1 or limit < 1:
            message = f"CapturedStep: warmup is {warmup}, limit is {limit}; expected at least 1."
            raise ValueError(message)
        if cuda is None:
            cupy: Any = importlib.import_module("cupy")

            cuda = cupy.cuda
        self.pure, self.gemm, self.limit, self.warmup = pure, gemm, limit, warmup
        self._cuda, self._together = cuda, together
        self._history = 0  # captures, and when graphs were closed: of all processes as many
        self._graphs: OrderedDict[Any, Graph] = OrderedDict()  # the one used last is the last
        self._own_copies: Trees | None = None
        self._rate: Any = None  # 0-d array
        self._last_rate: float | None = None  # what is in it
        self._stream: Any = None  # of the last step
        self._closing = weakref.finalize(self, _close, self._graphs)

    def __call__(
        self,
        params: Tree,
        buffers: Tree,
        loss_arrays: Tree,
        state: Tree,
        x: Array,
        t: Array,
        lr: Any = None,
        *weights: Array,
    ) -> tuple[Array, Tree, Tree, Tree]:
        """Take one step on a batch.

        Parameters
        ----------
        params, buffers, loss_arrays, state : dict
            What `pure` takes. Their arrays are given up to this object.
        x, t : array
            Input and target.
        lr : float or 0-d array, optional
            What `pure` takes as `lr`, in an array on the device; None stays None.
        *weights : array
            What `pure` takes behind it: weights of samples.

        Returns
        -------
        tuple
            What `pure` returns: the loss, a new array, and the parameters, buffers and state, in
            the arrays that all steps share.

        Raises
        ------
        CaptureError
            If the step cannot be captured; nothing has been trained.
        ValueError
            If parameters, buffers or state are not those of the first step.
        """
        trees = (params, buffers, loss_arrays, state)
        key = (*map(_kind, (x, t, *weights)), lr is None)
        return self._step(trees, key, (x, t, *weights), lr, lambda one: one)

    def many(
        self,
        params: Tree,
        buffers: Tree,
        loss_arrays: Tree,
        state: Tree,
        x: Array,
        t: Array,
        index: Array,
        lr: Any = None,
    ) -> tuple[Array, Tree, Tree, Tree]:
        """Take several steps in one launch, on batches that are gathered on the device.

        Parameters
        ----------
        params, buffers, loss_arrays, state : dict
            As in a step.
        x, t : array
            All inputs and targets. They are not copied: the graph reads them where they are, and
            holds them until it is closed.
        index : array of int, of shape (steps, batch)
            The rows of each batch, as of a permutation. They are not checked: out of range they
            wrap around.
        lr : float or 0-d array, optional
            The same for all these steps; None stays None.

        Returns
        -------
        tuple
            The losses ``(steps,)``, and the rest as of a step.
        """
        trees = (params, buffers, loss_arrays, state)
        key = (id(x), id(t), *_kind(index), lr is None)

        def gathered(one: Callable[[Array, Array], Array]) -> Callable[[Array], Array]:
            def steps(index: Array) -> Array:
                xp = namespace(x)
                rows = [index[i, ...] for i in range(index.shape[0])]
                batches = ((xp.take(x, row, axis=0), xp.take(t, row, axis=0)) for row in rows)
                return stack(xp, [one(*batch) for batch in batches])

            return steps

        return self._step(trees, key, (index,), lr, gathered, held=(x, t))

    def close(self) -> None:
        """Give back the memory of all graphs; the next step captures again.

        Waits for the steps that have been launched. Parameters, buffers and state are kept.
        """
        self._history += 1
        _close(self._graphs)

    def _step(
        self,
        trees: Trees,
        key: Any,
        inputs: tuple[Array, ...],
        lr: Any,
        arranged: Callable[[Any], Callable[..., Array]],
        held: tuple[Array, ...] = (),
    ) -> tuple[Array, Tree, Tree, Tree]:
        stream = self._cuda.get_current_stream()
        if self._stream not in (None, stream):  # what is written now is read there
            stream.wait_event(self._stream.record())
        self._stream = stream
        own = self._own_copies
        if own is None:
            own = self._own_copies = _copied_dicts(trees)
        for name, old, new in zip(("params", "buffers", "loss", "state"), own, trees, strict=True):
            _refresh(name, old, new)
        rate = self._filled(lr, own[0])
        if self._together is not None:
            key = key, self._kinds(self._together, key)
        graph = self._graphs.get(key)
        if graph is None:
            one = _writing(self.pure, own, rate)
            graph = self._captured(lambda: Graph(
                arranged(one), inputs, [a for tree in own for a in _leaves(tree)],
                cuda=self._cuda, gemm=self.gemm, warmup=self.warmup, held=held,
            ))  # fmt: skip
            self._graphs[key] = graph
            self._history += 1
        self._graphs.move_to_end(key)
        value = graph.launch(inputs)
        params, buffers, _, state = _copied_dicts(own)
        return value, params, buffers, state

    def _kinds(self, together: Callable[..., Any], key: Any) -> tuple[int, ...]:
        """Return what all processes compute now, after all have closed their graphs if one has."""
        digest = hashlib.blake2b(repr(key).encode(), digest_size=7).digest()
        kinds, histories = together(int.from_bytes(digest), self._history)
        if len(set(histories)) > 1:
            self.close()
            self._history = max(histories) + 1
        return kinds

    def _captured(self, make: Callable[[], Graph]) -> Graph:
        while len(self._graphs) >= self.limit:
            self._graphs.popitem(last=False)[1].close()
        try:
            return make()
        except Exception as error:
            alone = self._together is None  # else the others would not capture again
            if not (alone and self._graphs and is_out_of_memory(error)):
                raise
        self.close()  # graphs of other shapes can be made again
        return make()

    def _filled(self, lr: Any, params: Tree) -> Array | None:
        """Return the learning rate in its array, where graphs find it."""
        if lr is None:
            return None
        if self._rate is None:
            arrays = list(_leaves(params))
            xp = namespace(arrays[0])
            wide = any(dtype_name(p.dtype) == "float64" for p in arrays)
            one = arrays[0][(*[0] * len(arrays[0].shape), ...)]  # 0-d
            self._rate = xp.empty_like(one, dtype=xp.float64 if wide else xp.float32)
        if hasattr(lr, "shape"):
            self._rate[...] = lr
            self._last_rate = None
        elif lr != self._last_rate:
            self._rate.fill(lr)
            self._last_rate = lr
        return self._rate


class Graph:
    """A captured function of arrays, with the memory and the plans that it needs.

    Parameters
    ----------
    body : callable
        ``body(*inputs) -> value``. It may write into `state`, and into nothing else.
    inputs : tuple of array
        Samples of what `launch` takes.
    state : list of array
        What the warm-up must leave as it is.
    cuda, gemm, warmup
        As in `CapturedStep`.
    held : tuple of array
        What `body` reads besides: the graph knows its addresses alone.
    """

    def __init__(
        self,
        body: Callable[..., Array],
        inputs: tuple[Array, ...],
        state: list[Array],
        *,
        cuda: Any,
        gemm: Callable[[], Any] | None,
        warmup: int,
        held: tuple[Array, ...] = (),
    ) -> None:
        self._cuda = cuda
        # The null stream cannot capture, and a blocking one would wait for it.
        self.stream = cuda.Stream(non_blocking=True)
        self.pool = cuda.MemoryPool()
        self._inputs: tuple[Array, ...] = ()
        self._held = held
        self._graph: Any = None
        self._value: Any = None
        self._gemm: Any = None
        self._cudnn = active()  # the graph runs its plans, also after that has been closed
        self._used = self.stream  # where it was launched last
        self._plans: tuple[Any, ...] = ()
        try:
            saved = [a.copy() for a in state]  # outside of its pool, which has to hold no more
            self.stream.wait_event(cuda.get_current_stream().record())
            with self.stream, cuda.using_allocator(self.pool.malloc):
                self._gemm = None if gemm is None else gemm()
                self._inputs = tuple([a.copy() for a in inputs])
                self._warm_up(body, state, saved, warmup)
                saved = None
                self._graph, self._value = self._capture(body)
                self._graph.upload(self.stream)
                if self._cudnn is not None:
                    self._plans = tuple(self._cudnn.plans.values())
            self.stream.synchronize()
        except BaseException as error:
            for e in (error, error.__cause__):  # their frames hold arrays of the pool
                traceback.clear_frames(e and e.__traceback__)
            self.close()
            raise

    def launch(self, inputs: tuple[Array, ...]) -> Array:
        """Run the graph on other inputs, on the current stream; return a copy of its value."""
        if self._graph is None:
            message = "Graph.launch: the graph is closed. Capture the step again."
            raise RuntimeError(message)
        for own, new in zip(self._inputs, inputs, strict=True):
            if _kind(own) != _kind(new):
                message = (
                    f"Graph.launch: an input is {new.dtype} of shape {tuple(new.shape)}; "
                    f"captured was {own.dtype} of shape {tuple(own.shape)}. Capture the other, too."
                )
                raise ValueError(message)
            own[...] = new
        self._used = self._cuda.get_current_stream()
        self._graph.launch()
        return self._value.copy()  # the next launch writes over it

    def close(self) -> None:
        """Give back its memory, after what has been launched is done."""
        self._used.synchronize()
        if self._gemm is not None:
            self._gemm.close()
        self._graph = self._value = self._gemm = self._cudnn = None
        self._inputs = self._held = self._plans = ()
        self.pool.free_all_blocks()  # dropping a pool alone does not

    def _warm_up(
        self, body: Callable[..., Array], state: list[Array], saved: list[Array], times: int
    ) -> None:
        """Run `body` as it stands, so that kernels, plans and memory are there; undo its steps."""
        try:
            with self._products():
                for _ in range(times):
                    body(*self._inputs)
        finally:
            for a, before in zip(state, saved, strict=True):
                a[...] = before
        self.stream.synchronize()

    def _capture(self, body: Callable[..., Array]) -> tuple[Any, Array]:
        error: BaseException | None = None
        graph = value = None
        with self._products(frozen=True), _no_collection():
            self.stream.begin_capture()
            try:
                value = body(*self._inputs)
            except BaseException as e:
                error = e
            # Also after an error, which leaves the stream capturing. One that CuPy raises in time
            # does not make the graph invalid: it would lack what comes after.
            try:
                graph = self.stream.end_capture()
            except Exception as e:
                error = error or e
        if error is None:
            return graph, value
        if not isinstance(error, Exception) or is_out_of_memory(error):
            raise error
        what = str(error).partition("\n")[0].rstrip(".")
        where = "".join(f" {note}" for note in getattr(error, "__notes__", ()))  # of containers
        message = (
            f"TrainStep: the step cannot be captured as a CUDA graph: {type(error).__name__}: "
            f"{what}.{where} Use compile=False, which needs no graph."
        )
        raise CaptureError(message) from error

    @contextlib.contextmanager
    def _products(self, *, frozen: bool = False) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self._gemm is not None:
                stack.enter_context(self._gemm.products())
            if frozen:
                for planned in filter(None, (self._gemm, self._cudnn)):
                    stack.enter_context(planned.frozen())
            yield


def _writing(pure: Pure, own: Trees, lr: Any) -> Callable[..., Array]:
    """Return a step that leaves its results in the arrays of `kept`."""

    def one(x: Array, t: Array, *weights: Array) -> Array:
        # The dicts are copies, since `pure` may change them.
        value, params, buffers, state = pure(*_copied_dicts(own), x, t, lr, *weights)
        for old, new in zip((own[0], own[1], own[3]), (params, buffers, state), strict=True):
            _write(old, new)
        return value

    return one


def _write(old: Tree, new: Mapping[str, Any]) -> None:
    for name, a in old.items():
        if isinstance(a, dict):
            _write(a, new[name])
        elif new[name] is not a:
            a[...] = new[name]


def _refresh(where: str, old: Tree, new: Mapping[str, Any]) -> None:
    """Copy into the arrays of `old` what `new` has in other arrays."""
    if old.keys() != new.keys():
        differ = ", ".join(sorted(map(str, old.keys() ^ new.keys())))
        message = f"CapturedStep: {where} differ in {differ} from those of the first step."
        raise ValueError(f"{message} Make a new TrainStep.")
    for name, a in old.items():
        other = new[name]
        if isinstance(a, dict):
            _refresh(f"{where}.{name}", a, other)
        elif other is not a:
            if _kind(other) != _kind(a):
                message = (
                    f"CapturedStep: {where}.{name} is {other.dtype} of shape {tuple(other.shape)}; "
                    f"captured was {a.dtype} of shape {tuple(a.shape)}. Make a new TrainStep."
                )
                raise ValueError(message)
            a[...] = other


def _copied_dicts(trees: Any) -> Any:
    """Return a copy of nested tuples and dicts, with the same arrays."""
    if isinstance(trees, tuple):
        return tuple(_copied_dicts(tree) for tree in trees)
    if isinstance(trees, Mapping):
        return {name: _copied_dicts(tree) for name, tree in trees.items()}
    return trees


def _leaves(tree: Mapping[str, Any]) -> Iterator[Array]:
    for a in tree.values():
        if isinstance(a, Mapping):
            yield from _leaves(a)
        else:
            yield a


def _kind(a: Array) -> tuple[tuple[int, ...], Any]:
    return tuple(a.shape), a.dtype


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no garbage meanwhile: a finalizer might free memory, which ends a capture."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _close(graphs: OrderedDict[Any, Graph]) -> None:
    while graphs:
        graphs.popitem()[1].close()
