"""Whether the GPU path is right, and how fast its parts are."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import operator
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

import xplayers as xl
from benchmarks.gpu import ours
from benchmarks.gpu.timing import measure
from benchmarks.gpu.workloads import TOYS, WORKLOADS, Workload
from benchmarks.machine import ROOT
from xplayers.arrays.products import column_sums
from xplayers.arrays.transfer import to_numpy
from xplayers.cuda import fused

TOLERANCE = 1e-5  # of float32, relative to the largest value
DRIVER = 4 << 20  # bytes that the driver may have taken for itself meanwhile
COPY = 1 << 30  # bytes that are copied, many times what a cache holds
PRODUCTS = ((128, 784, 512), (8192, 4096, 4096))  # (m, k) @ (k, n)
SAMPLES, ROWS = 128, 8192  # images, and rows of 1024 values, for cuDNN

Row = dict[str, Any]


def correctness(device: str, seconds: float) -> Iterator[Row]:
    """Every layer and loss of the tests' tables, in float32, against NumPy in float64."""
    sys.path.insert(0, str(ROOT / "tests"))
    from cases import LAYERS
    from loss_cases import LOSSES

    xp = ours.library(device)
    for title, context in (("", contextlib.nullcontext), (", fused", fused)):
        with context():
            yield from _errors(f"layers{title}", LAYERS, functools.partial(_layer_error, xp=xp))
            yield from _errors(f"losses{title}", LOSSES, functools.partial(_loss_error, xp=xp))


def _errors(title: str, cases: Any, error_of: Any) -> Iterator[Row]:
    worst, which = 0.0, "nothing"
    for case in cases:
        try:
            error = error_of(case)
        except Exception as e:
            yield {"row": f"{title}: {case.id}", "error": said(e)}
            continue
        if not error <= TOLERANCE:
            yield {"row": f"{title}: {case.id}", "error": f"relative error {error:.2g}"}
        worst, which = max((worst, which), (error, case.id))
    yield {"row": f"{len(cases)} {title}", "value": f"largest error {worst:.1e} ({which})"}


def _layer_error(case: Any, xp: Any) -> float:
    rng = np.random.default_rng(0)
    x = rng.normal(0.0, 2.0, case.shape)
    if case.integers is not None:
        x = rng.integers(0, case.integers, case.shape)
    results = []
    for make, dtype in ((np, "float64"), (xp, "float32")):
        layer = case.make().to(xp=make, dtype=dtype)
        values = make.asarray(x if case.integers is not None else x.astype(dtype))
        y = layer.forward(values)
        dy = np.random.default_rng(2).normal(size=tuple(y.shape)).astype(dtype)
        dx = layer.backward(make.asarray(dy))
        arrays = {"y": y, **layer.grads}
        results.append(arrays if dx is None else {**arrays, "dx": dx})
    return max(_error(results[1][k], results[0][k]) for k in results[0])


def _loss_error(case: Any, xp: Any) -> float:
    x = np.random.default_rng(0).normal(0.0, 2.0, case.shape)
    t, results = case.target(np.random.default_rng(1), case.shape), []
    for module, dtype in ((np, "float64"), (xp, "float32")):
        loss = case.make()
        target = t if t.dtype.kind in "iu" else t.astype(dtype)
        value = loss.forward(module.asarray(x.astype(dtype)), module.asarray(target))
        dout = module.ones(value.shape, dtype=dtype) if len(value.shape) else 1.0
        results.append((value, loss.backward(dout)))
    return max(_error(a, b) for a, b in zip(results[1], results[0], strict=True))


def _error(got: Any, expected: Any) -> float:
    got, expected = to_numpy(got).astype("float64"), to_numpy(expected)
    if got.shape != expected.shape:
        return math.inf
    scale = max(float(np.max(np.abs(expected), initial=0.0)), 1e-30)
    error = float(np.max(np.abs(got - expected), initial=0.0)) / scale
    return math.inf if math.isnan(error) else error  # max() may pass NaN over


def on_device(device: str, seconds: float) -> Iterator[Row]:
    """No value comes over in a step: CuPy refuses that, and a capture refuses uploads too."""
    import cupy
    import cupyx

    def plain(workload: Workload) -> str:
        step, x, t = ours.train_step(workload, cupy.asarray)
        step(x, t)
        with cupyx.allow_synchronize(False):  # a transfer to the host raises
            for _ in range(3):
                step(x, t)
        return "0 transfers to the host in 3 steps"

    def captured(workload: Workload) -> str:
        take, arrays, x, t, lr = ours.captured(workload, device)
        take(*arrays, x, t, lr)
        take.close()
        return "no upload, no synchronisation"

    for workload in TOYS:
        yield _checked(f"{workload.name}: plain step", plain, workload)
        yield _checked(f"{workload.name}: captured step", captured, workload)


def replay(device: str, seconds: float) -> Iterator[Row]:
    """A graph gives the bits of the same functions without a graph, and its memory back."""
    for workload in (WORKLOADS[0], *TOYS):
        yield _checked(f"{workload.name}: 10 replays", _replayed, workload, device)
    yield _checked("capture, close, twice more", _memory_given_back, WORKLOADS[0], device)


def _replayed(workload: Workload, device: str) -> str:
    from xplayers.accelerate.cuda.gemm import Gemm

    xp = ours.library(device)
    make = functools.partial(Gemm, autotune=False)  # the same algorithms on both sides
    take, arrays, x, t, lr = ours.captured(workload, device, gemm=make)
    step, _, _ = ours.train_step(workload, xp.asarray)
    params, buffers = step.net.params.copy(), step.net.buffers.copy()
    state = {"optimizer": step.optimizer.init(params)}
    gemm, rate, pairs = make(), xp.asarray(lr, dtype="float32"), []
    for _ in range(10):
        with gemm.products():
            a, params, buffers, state = step.pure(
                params, buffers, {}, state, x, t, rate, donate=True
            )
        b, arrays[0], arrays[1], arrays[3] = take(*arrays, x, t, lr)
        pairs.append((a, b))
    pairs += [(params[name], arrays[0][name]) for name in params]
    wrong = sum(to_numpy(a).tobytes() != to_numpy(b).tobytes() for a, b in pairs)
    take.close()
    gemm.close()
    if wrong:
        message = f"{wrong} of {len(pairs)} arrays differ from those of the plain steps"
        raise ArithmeticError(message)
    return "the bits of the plain steps"


def _memory_given_back(workload: Workload, device: str) -> str:
    import cupy

    take, arrays, x, t, lr = ours.captured(workload, device)
    used = []
    for _ in range(3):
        take(*arrays, x, t, lr)
        take.close()
        cupy.get_default_memory_pool().free_all_blocks()
        free, total = cupy.cuda.runtime.memGetInfo()
        used.append(total - free)
    grown = used[-1] - used[0]
    if grown > DRIVER:
        message = f"{grown} bytes more are in use"
        raise MemoryError(message)
    return f"{grown:+d} bytes in use"


def _checked(name: str, check: Any, *arguments: Any) -> Row:
    try:
        return {"row": name, "value": check(*arguments)}
    except Exception as error:
        return {"row": name, "error": said(error)}


def gemm(device: str, seconds: float) -> Iterator[Row]:
    """Every epilogue of cuBLASLt against float64, and products beside ``@``."""
    import cupy

    from xplayers.accelerate.cuda.gemm import Gemm

    wait = ours.wait(device)
    for dtype, tolerance in (("float32", 1e-5), ("float16", 2e-3)):
        lt = Gemm()
        yield from epilogues(lt, dtype, tolerance, cupy.asarray)
        lt.close()
    rng = np.random.default_rng(0)
    for m, k, n in PRODUCTS:
        a, b = (cupy.asarray(rng.standard_normal(s, dtype=np.float32)) for s in ((m, k), (k, n)))
        flops = 2 * m * k * n
        lt, name = Gemm(), f"({m}, {k}) @ ({k}, {n})"
        run = functools.partial(operator.matmul, a, b)
        yield _rate(f"{name} with @", measure(run, wait, seconds), flops)
        for compute in ("float32", "tf32", "bfloat16"):
            run = functools.partial(lt.matmul, a, b, compute=compute)
            yield _rate(f"{name} {compute}", measure(run, wait, seconds), flops)
        lt.close()


def _rate(name: str, time: Row, flops: int) -> Row:
    return {"row": name, "time": time, "value": f"{flops / time['median'] / 1e12:.1f} TFLOP/s"}


def epilogues(lt: Any, dtype: str, tolerance: float, asarray: Any) -> Iterator[Row]:
    """Compare every epilogue of a `Gemm` with float64; all sums are exact in 16 bits."""
    from xplayers.accelerate.cuda.layouts import EPILOGUES

    rng = np.random.default_rng(0)
    a, b = rng.integers(-1, 2, (192, 320)), rng.integers(-1, 2, (320, 256))
    bias = rng.integers(-3, 4, 256)  # some inputs of activations are 0
    operands = [asarray(v.astype(dtype)) for v in (a, b, bias)]
    aux: dict[str, Any] = {}  # by the last product with "_aux", which is that with the bias
    for name, kind in EPILOGUES.items():
        options = {"bias": operands[2]} if kind.bias == "in" else {}
        if kind.aux == "in":
            options["aux"] = aux.get("relu" if "relu" in name else "gelu")
        try:
            results = lt.matmul(operands[0], operands[1], epilogue=name, **options)
            if kind.aux == "out":
                aux[name.partition("_")[0]] = results[1]
            error = _epilogue_error(name, a, b, bias, results)
        except Exception as e:
            yield {"row": f"{name}, {dtype}", "error": said(e)}
            continue
        text = f"error {error:.1e}"
        yield {"row": f"{name}, {dtype}", "value" if error <= tolerance else "error": text}


def _epilogue_error(name: str, a: Any, b: Any, bias: Any, results: Any) -> float:
    z = (a @ b).astype("float64")
    y, s = z + bias if name.endswith("bias") else z, z + bias
    if name.startswith("relu"):
        y = np.maximum(y, 0)
    elif name.startswith("gelu"):
        y = _gelu(y)[0]
    elif name.startswith("drelu"):
        y = z * (s > 0)
    elif name.startswith("dgelu"):
        y = z * _gelu(s)[1]
    if not isinstance(results, tuple):
        return _error(results, y)
    error = _error(results[0], y)
    if "bgrad" in name:
        return max(error, _error(results[1], (b if name == "bgradb" else y).sum(axis=0)))
    return error


def _gelu(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tanh form and its derivative."""
    root = math.sqrt(2 / math.pi)
    inner = np.tanh(root * (x + 0.044715 * x**3))
    slope = root * (1 + 3 * 0.044715 * x**2) * (1 - inner**2)
    return x / 2 * (1 + inner), (1 + inner) / 2 + x / 2 * slope


def cudnn(device: str, seconds: float) -> Iterator[Row]:
    """Layers through cuDNN against float64, and beside the portable body."""
    import cupy

    from xplayers.accelerate.cuda.cudnn import Cudnn

    wait = ours.wait(device)
    conv, transpose = xl.Convolution.init, xl.ConvolutionTranspose.init
    for name, make, shape, needed in (  # plans
        ("3x3, 32 to 64", lambda: conv(32, 64, 3, padding=1, rng=0), (SAMPLES, 32, 32, 32), 3),
        ("3x3 and ReLU", lambda: xl.Sequential(conv(32, 64, 3, padding=1, rng=0), xl.Relu()),
         (SAMPLES, 32, 32, 32), 3),
        ("stride 2, groups 4", lambda: conv(32, 64, 3, stride=2, groups=4, rng=0),
         (SAMPLES, 32, 33, 33), 3),
        ("sequences", lambda: conv(32, 64, (5,), dilation=2, rng=0), (SAMPLES, 32, 256), 3),
        ("transposed", lambda: transpose(32, 16, 4, stride=2, padding=1, rng=0),
         (SAMPLES, 32, 16, 16), 3),
        ("batch normalization", lambda: xl.BatchNormalization.init(64), (SAMPLES, 64, 32, 32), 2),
        ("layer normalization", lambda: xl.LayerNormalization.init(1024), (ROWS, 1024), 2),
        ("root mean square", lambda: xl.RmsNormalization.init(1024), (ROWS, 1024), 2),
    ):  # fmt: skip
        layer = make()
        x = np.random.default_rng(0).standard_normal(shape)
        right, cache = layer.apply({k: a.astype("float64") for k, a in layer.params.items()}, x)
        dy = np.random.default_rng(1).standard_normal(right.shape)
        back, grads = layer.vjp(cache, dy)
        arrays = {k: cupy.asarray(a) for k, a in layer.params.items()}
        single, dsingle = cupy.asarray(x, "float32"), cupy.asarray(dy, "float32")

        def both(layer=layer, arrays=arrays, x=single, dy=dsingle) -> Any:
            y, cache = layer.apply(arrays, x)
            dx, grads = layer.vjp(cache, dy)
            return y, dx, *grads.values()

        yield {"row": f"{name}, portable", "time": measure(both, wait, seconds)}
        for tf32 in (False, True) if needed == 3 else (False,):  # normalizations have no products
            row = f"{name}, cuDNN{' in TF32' if tf32 else ''}"
            try:
                lib = Cudnn(tf32=tf32)
                with fused(), lib.layers():  # the library, where both have a body
                    results = both()
                    wanted = (right, back, *grads.values())
                    error = max(map(_error, results, wanted))
                    time = measure(both, wait, seconds)
                plans = sum(map(bool, lib.plans.values()))
                lib.close()
            except Exception as e:
                yield {"row": row, "error": said(e)}
                continue
            text = f"error {error:.1e}, {plans} of {needed} plans"
            fits = error <= (5e-3 if tf32 else TOLERANCE) and plans == needed
            yield {"row": row, "time": time, "value" if fits else "error": text}


def bandwidth(device: str, seconds: float) -> Iterator[Row]:
    """A copy, and beside it the passes over memory of a step."""
    import cupy

    wait = ours.wait(device)
    n = COPY // 4
    a, b = varied(cupy, (n,)), cupy.empty(n, "float32")
    copy = measure(lambda: cupy.copyto(b, a), wait, seconds)
    speed = 2 * COPY / copy["median"]
    yield {"row": "copy", "time": copy, "value": f"{speed / 1e12:.2f} TB/s"}
    n //= 4
    shape = (n // 4096, 4096)
    x = varied(cupy, shape)
    parts = (8, shape[0] // 8, shape[1])  # parameters, as of a network
    params = {str(i): varied(cupy, parts[1:]) for i in range(parts[0])}
    grads = {name: 1e-3 * p for name, p in params.items()}
    relu, optimizer, pooling = xl.Relu(), xl.Adam(1e-7), xl.MaxPooling(2)
    moments = optimizer.init(params)

    def adam() -> Any:
        nonlocal params, moments
        params, moments = optimizer.step(params, grads, moments, donate=True)
        return params

    t, loss = cupy.zeros(shape[0], "int64"), xl.SoftmaxWithLoss()
    images = cupy.reshape(x, (-1, 64, 32, 32))
    pooled = pooling.predict(images)
    places = cupy.reshape(x, (-1, 64))  # of images with the channels last
    passes = {  # arrays of n values that are read or written at the least
        "relu": (lambda: relu.predict(x), 2),
        "adam": (adam, 7),
        "max pooling": (lambda: pooling.predict(images), 1.25),
        "its gradient": (lambda: pooling.vjp((images, pooled), pooled), 2.5),
        "sums of channels": (lambda: column_sums(places), 1),
        "softmax cross entropy": (lambda: loss.vjp(loss.apply({}, x, t)[1], 1.0), 2),
    }
    for title, context in (("plain", contextlib.nullcontext), ("fused", fused)):
        for name, (run, arrays) in passes.items():
            try:
                with context():
                    time = measure(run, wait, seconds)
            except Exception as e:
                yield {"row": f"{name}, {title}", "error": said(e)}
                continue
            share = arrays * n * 4 / time["median"] / speed
            yield {"row": f"{name}, {title}", "time": time, "value": f"{share:.0%} of copy"}


def varied(cupy: Any, shape: tuple[int, ...]) -> Any:
    """Return values that differ: products of equal ones take less power, at a higher clock."""
    return cupy.sin(cupy.arange(math.prod(shape), dtype="float32")).reshape(shape)


def products(device: str, seconds: float) -> Iterator[Row]:
    """The matrix products of an MLP's step alone: what it cannot be faster than."""
    import cupy

    from xplayers.accelerate.cuda.gemm import Gemm

    for workload in WORKLOADS:
        if workload.sizes:
            yield from _products_of(workload, cupy, Gemm, seconds, ours.wait(device))


def _products_of(workload: Workload, cupy: Any, make: Any, seconds: float, wait: Any) -> Any:
    half = workload.precision == "bfloat16"
    dtype = "float32"
    if half:
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    lt = make("tf32" if workload.precision == "tf32" else None)
    widths, batch = workload.sizes, workload.batch
    xs = [varied(cupy, (batch, w)).astype(dtype) for w in widths]
    Ws = [
        (varied(cupy, (a, b)) / math.sqrt(a)).astype(dtype) for a, b in itertools.pairwise(widths)
    ]

    def run() -> Any:
        for i, W in enumerate(Ws):
            lt.matmul(xs[i], W, out=xs[i + 1])
        for i in reversed(range(len(Ws))):
            lt.matmul(xs[i].T, xs[i + 1], dtype="float32")  # gradients are float32
            if i:
                y = lt.matmul(xs[i + 1], Ws[i].T)
        return y

    try:
        yield {"row": workload.name, "time": measure(run, wait, seconds)}
    except Exception as e:
        yield {"row": workload.name, "error": said(e)}
    lt.close()


def said(error: BaseException) -> str:
    """Return an error in one line."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"
