"""Which CuPy arrays go to which kernel: on arrays over host memory, kernels run by the host."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import TOLERANCE, assert_close, assert_same_bits, values

pytest.importorskip("cupy")

from emulator.emulated_gpu import fabricated
from emulator.emulated_kernels import (
    Plainly,
    channels_last,
    doubled,
    given,
    needs_compiler,
    seen,
    strided,
)

import xplayers as xl
from xplayers import functional
from xplayers.accelerate.cuda import kernels
from xplayers.accelerate.cuda.source import INDEX, OPTIONS, translate
from xplayers.arrays.elementwise import elementwise
from xplayers.cuda import fused
from xplayers.optimizers.base import _apply as apply

pytestmark = needs_compiler


# Elementwise functions


def test_only_where_it_is_asked_for(gpu):
    x = given()
    with fused(False), pytest.raises(Plainly):
        doubled(x)
    assert not gpu.made
    assert_same_bits(seen(doubled(x)), 2 * seen(x))
    assert gpu.launches == [("xplayers_doubled", 1, 256)]
    with pytest.raises(Plainly):
        doubled(strided())


def test_other_libraries_are_as_before(gpu):
    x = seen(given((5000,)))
    assert_same_bits(functional.relu(x), np.maximum(x, 0))
    assert not gpu.launches


def test_a_kernel_is_made_once_for_dtypes_options_and_places(gpu):
    x, y = given(), given((7, 9), 1)
    for a in (x, y, x):
        functional.leaky_relu(a)
    assert len(gpu.made) == 1
    functional.leaky_relu(x, alpha=0.5)
    assert len(gpu.made) == 2
    functional.leaky_relu(given(dtype="float64"))
    assert len(gpu.made) == 3
    functional.leaky_relu(x, out=given(seed=2))
    assert len(gpu.made) == 3  # memory of its own, as before
    functional.leaky_relu(x, out=x)
    assert len(gpu.made) == 4
    got = functional.leaky_relu(y, alpha=0.5)
    assert_same_bits(seen(got), functional.leaky_relu(seen(y), alpha=0.5))


def test_numbers_of_each_call_are_arguments(gpu):
    @elementwise
    def scaled(xp, x, a, b):
        return x * a + b

    x = given()
    b = np.asarray(0.5, "float32")
    for a in (2.0, 3.0):
        for b[...] in (0.5, -1.0):
            got = scaled(x, a, fabricated(b))
            assert_same_bits(seen(got), seen(x) * np.float32(a) + b)
    assert gpu.made == ["xplayers_scaled"]


def test_in_place(gpu):
    p, g, m, v = (given(seed=seed) for seed in range(4))
    v = fabricated(np.abs(seen(v)))
    before = [seen(a) for a in (p, g, m, v)]
    lr = fabricated(np.asarray(0.01, "float32"))
    rule = xl.Adam.rule
    options = {"rule": rule, "decays": False}
    correction = fabricated(np.asarray(0.5, "float32"))
    operands = (p, g, m, v, lr, 0.1, 0.999, 0.001, 1e-7, correction)
    results = apply(*operands, out=(p, m, v), **options)
    assert results[0] is p
    assert_same_bits(seen(g), before[1])
    scalars = (np.float32(0.01), 0.1, 0.999, 0.001, 1e-7, np.float32(0.5))
    for got, want in zip(results, apply.function(np, *before, *scalars, **options), strict=True):
        assert_same_bits(seen(got), want)


def test_an_optimizer_over_one_flat_buffer_is_one_kernel(gpu):
    """The state is made by hand, as `init` would ask the GPU for memory."""
    optimizer, n = xl.Adam(lr=0.01), 10_007
    host = {name: values((n,), i).astype("float32") for i, name in enumerate("pgm")}
    host["v"] = np.abs(values((n,), 3)).astype("float32")
    there = {name: fabricated(a.copy()) for name, a in host.items()}
    constants = optimizer.constants(np.float32(4))
    moved = [fabricated(np.asarray(c)) if isinstance(c, np.generic) else c for c in constants]
    operands = [there[k] for k in "pgmv"]
    apply(
        *operands, fabricated(np.asarray(0.01, "float32")), *moved,
        out=(there["p"], there["m"], there["v"]), rule=optimizer.rule, decays=False,
    )  # fmt: skip
    assert gpu.launches == [("xplayers_apply", 10, 256)]
    state = {"count": np.asarray(3, "int32"), "m": {"W": host["m"]}, "v": {"W": host["v"]}}
    params, state = optimizer.step({"W": host["p"]}, {"W": host["g"]}, state)
    for got, want in ((there["p"], params["W"]), (there["v"], state["v"]["W"])):
        assert_close(seen(got), want, TOLERANCE["float32"])


def images(seed=0):
    """Return images whose channels are side by side, and their values."""
    host = values((2, 5, 4, 3), seed).astype("float32")
    return channels_last(host), host


def evaluated(function, operands, out=None):
    return kernels.evaluate(operands[0], function, operands, out, {})


def test_images_stay_channels_last(gpu):
    (x, host), (dy, _) = images(), images(1)
    y = functional.relu(x)
    assert y.strides == x.strides
    assert_same_bits(seen(kernels.channels_last(y)), np.maximum(host, 0).transpose(0, 2, 3, 1))
    assert evaluated(functional.relu, (x,), dy) is dy
    assert_same_bits(seen(kernels.channels_last(dy)), seen(kernels.channels_last(y)))


def test_layouts_are_not_mixed(gpu):
    (x, _), rows = images(), given((2, 5, 4, 3))

    @elementwise
    def total(xp, a, b):
        return a + b

    assert evaluated(total, (x, rows)) is NotImplemented
    assert evaluated(functional.relu, (x,), rows) is NotImplemented
    assert evaluated(total, (x, INDEX)) is NotImplemented  # counts by rows
    assert not gpu.launches


@pytest.mark.parametrize(
    "operands",
    [
        lambda: (strided(),),
        lambda: (given((30, 40)), strided()),
        lambda: (given((30, 40)), given((40,))),
        lambda: (given((9,)), fabricated(values((9,)).astype("float32"), device=1)),
        lambda: (given((9,)), np.float64(2.0)),
    ],
)
def test_what_is_evaluated_plainly(operands, gpu):
    @elementwise
    def total(xp, *arrays):
        return sum(arrays)

    assert evaluated(total, operands()) is NotImplemented
    assert not gpu.made


@pytest.mark.parametrize(
    "out", [strided, lambda: given((30, 41)), lambda: given((30, 40), dtype="float64")]
)
def test_memory_of_results_that_does_not_fit(out, gpu):
    assert evaluated(functional.relu, (given((30, 40)),), out()) is NotImplemented
    assert not gpu.launches


def test_memory_that_is_more_than_one_thing(gpu):
    """Two operands in one place that is written, and one place as two dtypes."""

    @elementwise
    def mean(xp, x, y):
        return (x + y) * 0.5

    @elementwise(integers=True)
    def real(xp, x):
        return xp.astype(x, "float32")

    x, n = given(), np.arange(9, dtype="int32")
    assert evaluated(mean, (x, x)) is not NotImplemented
    assert evaluated(mean, (x, x), x) is NotImplemented
    there = fabricated(n)
    assert evaluated(real, (there,)) is not NotImplemented
    assert evaluated(real, (there,), fabricated(n.view("float32"))) is NotImplemented


def test_functions_that_are_no_kernel_are_tried_once(gpu, monkeypatch):
    @elementwise
    def total(xp, x):
        return xp.cumulative_sum(x)

    calls = []
    monkeypatch.setattr(kernels, "translate", lambda *a: calls.append(a) or translate(*a))
    for _ in range(2):
        assert evaluated(total, (given(),)) is NotImplemented
    assert len(calls) == 1


def test_nothing_is_launched_for_no_element(gpu):
    y = functional.relu(given((0, 4)))
    assert y.shape == (0, 4)
    assert not gpu.launches


def test_a_launch_is_where_the_arrays_are_and_fills_the_device(monkeypatch):
    """CuPy's kernel and device are played; what it is asked for is not run."""
    calls = []

    class Device:
        id = 3

        def __enter__(self):
            calls.append("enter")

        def __exit__(self, *error):
            calls.append("exit")

    launcher = kernels.Launcher("source", "name")
    assert launcher._kernel.code == "source"
    assert launcher._kernel.name == "name"
    assert launcher._kernel.options == OPTIONS
    monkeypatch.setattr(launcher, "_kernel", lambda *args: calls.append(args))
    monkeypatch.setattr(kernels, "_multiprocessors", lambda number: 10 * number)
    for blocks, threads in ((7, 256), (10_000, 256), (10_000, 128)):
        launcher(Device(), blocks, threads, ["args"])
    launched = [call for call in calls if isinstance(call, tuple)]
    assert launched == [
        ((7,), (256,), ("args",)), ((240,), (256,), ("args",)), ((480,), (128,), ("args",)),
    ]  # fmt: skip
    assert calls[:3] == ["enter", launched[0], "exit"]


@pytest.mark.parametrize("n", [1, 4 * 256, 4 * 256 + 1, 10**6])
def test_blocks(n, gpu):
    functional.relu(given((n,)))
    assert gpu.launches[0][1] == math.ceil(n / 4 / 256)


def test_views_that_begin_anywhere(gpu):
    base = values((1004,)).astype("float32")
    for start in range(4):
        x = base[start:]
        assert_same_bits(seen(functional.relu(fabricated(x))), np.maximum(x, 0))


def test_a_schedule_is_one_kernel(gpu):
    step = fabricated(np.asarray(3, "int32"))
    for schedule in (
        xl.schedules.Cosine(0.1, steps=8),
        xl.schedules.WarmUp(5, xl.schedules.Exponential(0.1, every=2)),
    ):
        gpu.launches.clear()
        rate = schedule(step)
        assert [name for name, *_ in gpu.launches] == ["xplayers_rate"]
        assert_close(seen(rate), schedule(3), 1e-6)


def test_schedules_of_ones_own_are_called_each_time(gpu):
    """Nothing says what they depend on, so no kernel of theirs can be kept."""

    class Mine(xl.schedules.Schedule):
        def rate(self, xp, t):
            return 2.0 * t

    for schedule in (Mine(), xl.schedules.WarmUp(5, Mine())):
        with pytest.raises(Exception, match="CUDA_ERROR|cuda"):  # kernels of CuPy
            schedule(fabricated(np.asarray(3, "float32")))
    assert not gpu.made


def test_bfloat16_stays_bfloat16(gpu):
    pytest.importorskip("ml_dtypes")
    x = given(dtype="bfloat16")
    y = functional.sigmoid(x)
    assert y.dtype == x.dtype
    want = functional.sigmoid(seen(x).astype("float64"))
    assert_close(seen(y).astype("float64"), want, 2.0**-8)


# Dropout


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_dropout(dtype, gpu):
    host = values((30, 41)).astype(dtype)
    x, dy = fabricated(host), given((30, 41), 1, dtype)
    layer = xl.Dropout(0.3, seed=5)
    count = np.asarray([11], "int32")
    y, (keep,) = layer.apply({"count": fabricated(count)}, x)
    dx, _ = layer.vjp((keep,), dy)
    assert [name for name, *_ in gpu.launches] == ["xplayers_dropped", "xplayers_scaled"]
    want, (mask,) = layer.apply({"count": count}, host)
    assert_same_bits(seen(keep), mask)
    assert_close(seen(y), want, TOLERANCE[dtype])
    assert_close(seen(dx), layer.vjp((mask,), seen(dy))[0], TOLERANCE[dtype])


def test_dropout_of_images_with_the_channels_last(gpu, copies):
    """Of the bits of NumPy; forward and backward copy what does not lie by rows, and no more."""
    (x, values), (dy, upstream) = images(), images(1)
    layer = xl.Dropout(0.3, seed=5)
    y, (keep,) = layer.apply({"count": fabricated(np.asarray([11], "int32"))}, x)
    want, cache = layer.apply({"count": np.asarray([11], "int32")}, values)
    assert_same_bits(seen(y), want)
    assert_same_bits(seen(keep), cache[0])
    dx, _ = layer.vjp((keep,), dy)
    assert_same_bits(seen(dx), layer.vjp(cache, upstream)[0])
    assert copies == [x.shape] * 2
    assert [name for name, *_ in gpu.launches] == ["xplayers_dropped", "xplayers_scaled"]
