"""`TrainStep`: one pure function of a batch, compiled where the library can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from xplayers._calls import explained
from xplayers._checks import choice, function, instance, processes, shown
from xplayers.arrays.checks import check_same
from xplayers.arrays.joining import stack
from xplayers.arrays.namespaces import Array, is_integer, namespace
from xplayers.arrays.transfer import as_plain
from xplayers.data.batches import samples
from xplayers.layers.base import Layer
from xplayers.layers.representation import code, options
from xplayers.losses import Loss
from xplayers.optimizers import Optimizer
from xplayers.parallel.groups import RanksLost
from xplayers.training.precision import MixedPrecision
from xplayers.training.pure import PureStep
from xplayers.training.stateful import Arrays, check_parts

__all__ = ["TrainStep"]


class TrainStep(PureStep):
    """One step of training: forward, loss, backward and update.

    ``step(x, t)`` does what the loop does ::

        value = loss.forward(net.forward(x), t)
        net.backward(loss.backward(), input_grad=False)
        optimizer.update(net.params, net.grads)

    with the same numbers, as one pure function of parameters, buffers, optimizer state and batch.

    Parameters
    ----------
    net : Layer
        The network. Its parameters are written after each step.
    loss : Loss
        With ``reduction="mean"`` or ``"sum"``.
    optimizer : Optimizer
        Its state is kept in ``optimizer.state``.
    compile : {"auto", True, False, "graph"}
        ``"auto"``: ``jax.jit`` with donated state on JAX; on NumPy, and PyTorch on the CPU, the
        first two steps of a kind of batch are recorded and the others replayed, with the same
        numbers; eager execution elsewhere. True: also ``torch.compile`` on PyTorch; an error where
        there is no compiler. False: eager execution. ``"graph"``, on CuPy: a CUDA graph, see
        `xplayers.cuda.CapturedStep`.
    reduce_grads : callable, optional
        ``reduce_grads(grads) -> grads``, a pure function of the gradients by name, before the
        update: clipping, or the sum over the devices of data-parallel training.
    precision : MixedPrecision, optional
        Computes in 16 bits; by default in the dtype of the parameters.
    gemm : {None, "cublaslt"} or callable
        What multiplies matrices on CuPy: None is its own ``@`` and, in a CUDA graph, where CuPy
        refuses it, cuBLASLt. A callable makes the `xplayers.cuda.Gemm`, as
        ``lambda: Gemm("tf32")``.
    group : Group, optional
        The processes that train together, as `xplayers.parallel.group` returns them. Each passes
        its part of a batch, of any size, and all take the step of the whole: see
        `xplayers.parallel`. The first step begins with the arrays of rank 0.

    Raises
    ------
    ValueError
        If the loss is not one number, or there is no compiler, or no such `gemm`, for the arrays.
    TypeError
        If `precision` is not a `MixedPrecision`.

    Notes
    -----
    A step donates the arrays that were in ``net.params``, ``net.buffers`` and `state` before it:
    copy what you need later. NumPy, CuPy and PyTorch overwrite them (the first step of a replay
    replaces them by views of one flat buffer), JAX deletes them. Each new shape of the batch is
    compiled or recorded; the first eight kinds of batches are replayed. While a kind is recorded,
    the optimizer's results need additional memory.

    What is compiled or replayed must be pure: layers, loss, schedule and `reduce_grads` compute
    from their arguments and attributes alone, and are not called again. All of these may be changed
    between steps, and arrays may be replaced: a step does what the loop would do. After a change of
    an attribute the step is compiled or recorded again; the numbers of the optimizer are arguments,
    and cost nothing. An attribute that is another object in each step makes execution eager, and so
    does state that a layer or function keeps between steps, as long as an attribute shows it. With
    ``compile=False`` everything is called in every step.

    A step that has been used can be copied and pickled; what is compiled is left out.

    Examples
    --------
    >>> import xplayers as xl
    >>> (x, t), (x_test, t_test) = xl.data.load_digits()
    >>> net = xl.mlp([64, 50, 10], rng=0)
    >>> step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(lr=0.01))
    >>> for x_batch, t_batch in xl.minibatches(x, t, 100, rng=0):
    ...     loss = step(x_batch, t_batch)
    >>> float(xl.accuracy(net(x_test), t_test)) > 0.8
    True
    """

    @explained()
    def __init__(
        self,
        net: Layer,
        loss: Loss,
        optimizer: Optimizer,
        compile: str | bool = "auto",
        reduce_grads: Callable[[Arrays], Mapping[str, Array]] | None = None,
        precision: MixedPrecision | None = None,
        gemm: str | Callable[[], Any] | None = None,
        group: Any = None,
    ) -> None:
        owner = type(self).__name__
        check_parts(owner, net, loss, optimizer)
        compile = choice(owner, "compile", compile, ("auto", True, False, "graph"))
        if loss.reduction == "none":
            message = f"{owner}: the loss has reduction='none'; expected 'mean' or 'sum'."
            raise ValueError(message)
        if reduce_grads is not None:
            function(
                owner, "reduce_grads", reduce_grads, "a function of gradients by name, or None"
            )
        kinds = "MixedPrecision('bfloat16'), MixedPrecision('float16') or None"
        instance(owner, "precision", precision, MixedPrecision | None, kinds)
        if not (gemm in (None, "cublaslt") or callable(gemm)):
            message = (
                f"{owner}: gemm is {shown(gemm)}; expected None, 'cublaslt' or a function that "
                "makes a Gemm."
            )
            raise ValueError(message)
        self.net, self.loss, self.optimizer = net, loss, optimizer
        self.reduce_grads, self.precision = reduce_grads, precision
        self._scaling, self._unplaced = None, False
        self._reset()
        self.compile, self.gemm, self.group = compile, gemm, processes(owner, group)

    def __repr__(self) -> str:
        parts = ("net", "loss", "optimizer")
        return code(self, parts, [o for o in options(self) if o.partition("=")[0] not in parts])

    @explained(name="step")
    def __call__(
        self, x: Array, t: Array, sample_weight: Array | None = None, *, lr: Any = None
    ) -> Array:
        """Take one step on a batch.

        Parameters
        ----------
        x, t : array
            Input and target.
        sample_weight : array, optional
            The weight of each sample, 0 or more, as in `Loss.forward`.
        lr : float or 0-d array, optional
            Learning rate of this step; by default that of the optimizer.

        Returns
        -------
        array
            The loss before the update, 0-d. It stays on the device.

        Raises
        ------
        RanksLost
            If an elastic group has lost processes; the step has changed nothing.
        """
        try:
            compiled = self._compiled[type(x)]
        except KeyError:
            compiled, x = self._compiled_step(x), as_plain(x)
        try:
            if sample_weight is not None:
                sample_weight = self._target(sample_weight, "sample_weight")
                return (compiled or self._eager_step)(x, t, lr, sample_weight)
            return self._eager_step(x, t, lr) if compiled is None else compiled(x, t, lr)
        except RanksLost:
            self.group = self.group  # begin anew, with those that are left
            raise

    @explained("A row of index has the numbers of the samples of a batch.")
    def many(
        self,
        x: Array,
        t: Array,
        index: Array,
        sample_weight: Array | None = None,
        *,
        lr: Any = None,
    ) -> Array:
        """Take several steps, on batches of a data set that is where the parameters are.

        The same as a loop of ``step(xp.take(x, rows, axis=0), xp.take(t, rows, axis=0))`` over the
        rows of `index`. With ``compile="graph"`` it is one launch, which gathers its batches. Of
        arrays of JAX that are sharded over a mesh the batches are sharded as they are.

        Parameters
        ----------
        x, t : array
            All inputs and targets. A graph reads them where they are, and holds them.
        index : array of int, of shape (steps, batch)
            The samples of each batch, as of a permutation. It is not checked, and libraries differ
            in what they do out of range: NumPy and PyTorch raise, CuPy wraps around, JAX has NaN.
        sample_weight : array, optional
            The weights of all samples; then each step is a launch of its own.
        lr : float or 0-d array, optional
            Learning rate of these steps; by default that of the optimizer.

        Returns
        -------
        array of shape (steps,)
            The losses before each update.

        Raises
        ------
        ValueError
            If `index` has another shape.
        TypeError
            If it is not of integers, or `t` or `index` are not where `x` is.
        """
        xp = namespace(x, "TrainStep.many", "x")
        check_same("TrainStep.many", "t", t, x)
        check_same("TrainStep.many", "index", index, x)
        if len(index.shape) != 2 or 0 in index.shape:
            shape = tuple(index.shape)
            message = f"TrainStep.many: index has shape {shape}; expected (steps, batch)."
            raise ValueError(message)
        if not is_integer(index):
            message = f"TrainStep.many: index is {index.dtype}; expected integers."
            raise TypeError(message)
        many = getattr(self._compiled_step(x), "many", None)
        if many is not None and sample_weight is None:
            return many(x, t, index, lr)
        arrays = (x, t) if sample_weight is None else (x, t, sample_weight)
        rows = [index[i, ...] for i in range(index.shape[0])]
        batches = ([samples(a, r) for a in arrays] for r in rows)
        return stack(xp, [self(*batch, lr=lr) for batch in batches])
