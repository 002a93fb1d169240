"""xplayers on CuPy: the step as it stands, from its CUDA graph, and several steps in a launch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import xplayers as xl
from benchmarks.gpu.workloads import Skipped, Workload, data
from xplayers.training import TrainStep

STEPS = 10  # in one launch


def network(workload: Workload, layers: list[dict[str, Any]]) -> xl.Sequential:
    parts: list[xl.Layer] = []
    if workload.filters:
        for i, layer in enumerate(layers[:-1]):
            parts += [xl.Convolution(layer["W"], layer["b"], padding="same"), xl.Relu()]
            if i:
                parts.append(xl.MaxPooling(2))
        return xl.Sequential(*parts, xl.Affine(layers[-1]["W"], layers[-1]["b"]))
    for layer in layers:
        parts += [xl.Affine(layer["W"], layer["b"]), xl.Relu()]
    return xl.Sequential(*parts[:-1])


def train_step(
    workload: Workload, asarray: Callable[[Any], Any], **options: Any
) -> tuple[TrainStep, Any, Any]:
    host = data(workload)
    layers = [{name: asarray(a) for name, a in layer.items()} for layer in host["layers"]]
    half = xl.MixedPrecision("bfloat16") if workload.precision == "bfloat16" else None
    step = TrainStep(
        network(workload, layers),
        xl.SoftmaxWithLoss(),
        xl.Adam(workload.lr),
        compile=False,
        precision=half,
        **options,
    )
    return step, asarray(host["x"]), asarray(host["t"])


def plain(workload: Workload, device: str) -> Callable[[], Any]:
    """The step as it stands."""
    options: dict[str, Any] = {}
    if workload.precision == "tf32":  # of `@` it is a setting of the process
        from xplayers.accelerate.cuda.gemm import Gemm

        options["gemm"] = functools.partial(Gemm, "tf32")
    step, x, t = train_step(workload, library(device).asarray, **options)
    return lambda: step(x, t)


def graph(workload: Workload, device: str) -> Callable[[], Any]:
    """The step from its CUDA graph; the batch is copied into it each time."""
    take, arrays, x, t, lr = captured(workload, device)

    def run() -> Any:
        value, arrays[0], arrays[1], arrays[3] = take(*arrays, x, t, lr)
        return value

    return run


def many(workload: Workload, device: str) -> Callable[[], Any]:
    """Ten fused steps in one launch, whose batches the graph gathers from data on the device."""
    from xplayers.accelerate.cuda.fused import fused as switched_on

    take, arrays, x, t, lr = captured(workload, device)
    rows = np.tile(np.arange(workload.batch), (STEPS, 1))
    index = library(device).asarray(rows)

    def run() -> Any:
        with switched_on():
            values, arrays[0], arrays[1], arrays[3] = take.many(*arrays, x, t, index, lr)
        return values

    return run


def fused(workload: Workload, device: str) -> Callable[[], Any]:
    """The step from its graph, its elementwise functions fused into kernels."""
    from xplayers.accelerate.cuda.fused import fused as switched_on

    run = graph(workload, device)

    def fused_run() -> Any:
        with switched_on():
            return run()

    return fused_run


def convolved(workload: Workload, device: str) -> Callable[[], Any]:
    """That, and its convolutions and normalizations through cuDNN."""
    if not workload.filters:
        raise Skipped
    from xplayers.accelerate.cuda.cudnn import Cudnn

    run, cudnn = fused(workload, device), Cudnn(tf32=workload.precision == "tf32")

    def convolved_run() -> Any:
        with cudnn.layers():
            return run()

    return convolved_run


def captured(
    workload: Workload, device: str, **options: Any
) -> tuple[Any, list[Any], Any, Any, float]:
    """Return a captured step, what it takes before the batch, the batch, and the rate."""
    from xplayers.accelerate.cuda.gemm import Gemm
    from xplayers.accelerate.cuda.graph import CapturedStep

    step, x, t = train_step(workload, library(device).asarray)
    params = step.net.params.copy()
    state = {"optimizer": step.optimizer.init(params)}
    if step.precision is not None:
        state["precision"] = step.precision.init(next(iter(params.values())))
    compute = "tf32" if workload.precision == "tf32" else None
    options = {"gemm": functools.partial(Gemm, compute), **options}
    take = CapturedStep(functools.partial(step.pure, donate=True), **options)
    return take, [params, step.net.buffers.copy(), {}, state], x, t, workload.lr


def library(device: str) -> Any:
    if device == "cpu":
        return np
    import cupy

    return cupy


def wait(device: str) -> Callable[[Any], Any]:
    if device == "cpu":
        return lambda result: None
    import cupy

    return lambda result: cupy.cuda.get_current_stream().synchronize()
