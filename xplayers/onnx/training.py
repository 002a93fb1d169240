"""Training steps as ONNX files: forward, loss, gradients and update as one plain model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from xplayers._checks import instance
from xplayers.arrays.namespaces import Array
from xplayers.arrays.transfer import to_numpy
from xplayers.onnx.exporting import as_input, write
from xplayers.onnx.graph import Graph, Value, as_float32
from xplayers.saving.files import AnyPath, in_full
from xplayers.training import TrainStep

if TYPE_CHECKING:
    from xplayers.onnx.tracing import Traced

Tree = Mapping[str, Any]  # nested mappings of arrays


def export_step(step: TrainStep, path: AnyPath, example: tuple[Array, Array]) -> onnx.ModelProto:
    """Write a whole training step to an ONNX file, with which onnxruntime trains.

    Parameters
    ----------
    step : TrainStep
        The step, with network, loss, optimizer and ``reduce_grads``.
    path : str or path-like
        The file, as ``step.onnx``; ``~`` is the home directory. It is replaced atomically.
    example : tuple of two arrays
        Input and target of a batch, of which only shapes and dtypes are used. All batches have
        them.

    Returns
    -------
    onnx.ModelProto
        What the file has.

    Raises
    ------
    TypeError
        If `step` is not a `TrainStep`, or the step needs the value of an array.
    ValueError
        If it is a step of several processes or of mixed precision, or the batch does not fit.
    ImportError
        If ``ndonnx`` is not installed, by which the step is traced.

    Notes
    -----
    Inputs are ``x``, ``t``, ``lr`` (unless the optimizer has a schedule), and by their names the
    parameters, the buffers and the state of the optimizer, which have initial values: those of the
    step. Outputs are ``loss``, and ``next/NAME`` for each of these but ``lr``, in the same order:
    the next step takes them. All is float32.

    Examples
    --------
    >>> import tempfile, numpy as np, onnxruntime, xplayers as xl
    >>> from xplayers.onnx import export_step
    >>> x, t = np.ones((2, 4), "float32"), np.asarray([0, 2])
    >>> step = xl.TrainStep(xl.mlp([4, 3], rng=0), xl.SoftmaxWithLoss(), xl.SGD(lr=0.1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model = export_step(step, f"{folder}/step.onnx", (x, t))
    >>> session = onnxruntime.InferenceSession(model.SerializeToString())
    >>> names = [o.name for o in session.get_outputs()]
    >>> names
    ['loss', 'next/0.W', 'next/0.b', 'next/optimizer.count']
    >>> state, losses = {}, []
    >>> for _ in range(3):
    ...     loss, *arrays = session.run(names, {"x": x, "t": t, **state})
    ...     state = {n.removeprefix("next/"): a for n, a in zip(names[1:], arrays)}
    ...     losses.append(round(float(loss), 2))
    >>> losses == sorted(losses, reverse=True)
    True
    """
    owner = "onnx.export_step"
    instance(owner, "step", step, TrainStep, "a TrainStep")
    from xplayers.onnx import tracing  # which needs ndonnx

    path = in_full(path, owner)
    if step.group is not None or step.precision is not None:
        message = f"{owner}: step has a group or a precision; expected a step without."
        raise ValueError(message)
    if not isinstance(example, tuple | list) or len(example) != 2:
        message = f"{owner}: example is {type(example).__name__}; expected a tuple (x, t)."
        raise TypeError(message)
    x, t = (tracing.argument([as_input(owner, a)]) for a in example)
    inputs = {"x": x, "t": t}
    if not callable(step.optimizer.lr):
        inputs["lr"] = tracing.argument([_float32(step.optimizer.lr)])
    params, buffers = dict(step.net.params), dict(step.net.buffers)
    state = {"optimizer": step.optimizer.state or step.optimizer.init(params)}
    params, buffers, state = (_mapped(tracing.argument, a) for a in (params, buffers, state))
    loss_arrays = _mapped(tracing.constant, dict(step.loss.arrays))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lr = inputs.get("lr")
        loss, *after = step.pure(params, buffers, loss_arrays, state, x, t, lr)
    inputs |= _flat(params, buffers, state)
    outputs = {"loss": loss, **{f"next/{k}": a for k, a in _flat(*after).items()}}
    graph = Graph({})
    names = tracing.write(graph, inputs, outputs)
    arguments = {name: Value(name, {"": a.examples[0]}) for name, a in inputs.items()}
    results = {
        name: Value(own, {"": a.examples[0]})
        for (name, a), own in zip(outputs.items(), names, strict=True)
    }
    graph.constants += [
        numpy_helper.from_array(a.examples[""], name)
        for name, a in arguments.items()
        if name not in ("x", "t")
    ]
    model = graph.model(arguments, results, {})
    write(path, model)
    return model


def _mapped(function: Callable[[Any], Traced], tree: Tree) -> Any:
    """Return a tree with a function applied to each of its arrays on the host, in a list."""
    if isinstance(tree, Mapping):
        return {name: _mapped(function, part) for name, part in tree.items()}
    return function([as_float32(to_numpy(tree))])


def _flat(params: Tree, buffers: Tree, state: Tree) -> dict[str, Traced]:
    """Return all arrays by one name each, that of the state with dots."""

    def dotted(tree: Tree, prefix: str) -> Iterator[tuple[str, Traced]]:
        for name, part in tree.items():
            if isinstance(part, Mapping):
                yield from dotted(part, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", part

    return {**params, **buffers, **dict(dotted(state, ""))}


def _float32(number: Any) -> np.ndarray:
    return np.asarray(to_numpy(number) if hasattr(number, "shape") else number, np.float32)
