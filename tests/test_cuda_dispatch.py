"""Which CuPy arrays go to which kernel: on arrays over host memory, kernels run by the host."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cuda_cases import CASES, dtype_of
from helpers import TOLERANCE, assert_close, assert_same_bits, values

pytest.importorskip("cupy")

from host_gpu import fabricated
from host_kernels import Plainly, channels_last, doubled, emulating, given, needs_compiler, seen

import xplayers as xl
from xplayers import functional
from xplayers.cuda import fused, kernels, softmax_cross_entropy
from xplayers.cuda.source import INDEX, OPTIONS, translate
from xplayers.elementwise import elementwise
from xplayers.optimizers.base import _apply as apply

pytestmark = needs_compiler


@pytest.fixture
def gpu(monkeypatch):
    for function in (doubled, *[case.function for case in CASES]):  # nothing is known from before
        monkeypatch.setattr(function, "_programs", {})
    with emulating(monkeypatch) as gpu:
        yield gpu


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
    operands = (
        p,
        g,
        m,
        v,
        lr,
        0.9,
        0.1,
        0.999,
        0.001,
        1e-7,
        fabricated(np.asarray(0.5, "float32")),
    )
    results = apply(*operands, out=(p, m, v), **options)
    assert results[0] is p
    assert_same_bits(seen(g), before[1])
    scalars = (np.float32(0.01), 0.9, 0.1, 0.999, 0.001, 1e-7, np.float32(0.5))
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


def test_images_stay_channels_last(gpu):
    (x, host), (dy, _) = images(), images(1)
    y = functional.relu(x)
    assert y.strides == x.strides
    assert_same_bits(seen(kernels.channels_last(y)), np.maximum(host, 0).transpose(0, 2, 3, 1))
    done, back = kernels.evaluate(functional.relu, (x,), dy, {})
    assert done
    assert back is dy
    assert_same_bits(seen(kernels.channels_last(dy)), seen(kernels.channels_last(y)))


def test_layouts_are_not_mixed(gpu):
    (x, _), rows = images(), given((2, 5, 4, 3))

    @elementwise
    def total(xp, a, b):
        return a + b

    assert kernels.evaluate(total, (x, rows), None, {}) == (False, None)
    assert kernels.evaluate(functional.relu, (x,), rows, {}) == (False, None)
    assert kernels.evaluate(total, (x, INDEX), None, {}) == (False, None)  # counts by rows
    assert not gpu.launches


def strided(shape=(40, 30)):
    return fabricated(values(shape).astype("float32").T)


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

    done, _ = kernels.evaluate(total, operands(), None, {})
    assert not done
    assert not gpu.made


@pytest.mark.parametrize(
    "out", [strided, lambda: given((30, 41)), lambda: given((30, 40), dtype="float64")]
)
def test_memory_of_results_that_does_not_fit(out, gpu):
    done, _ = kernels.evaluate(functional.relu, (given((30, 40)),), out(), {})
    assert not done
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
    assert kernels.evaluate(mean, (x, x), None, {})[0]
    assert not kernels.evaluate(mean, (x, x), x, {})[0]
    there = fabricated(n)
    assert kernels.evaluate(real, (there,), None, {})[0]
    assert not kernels.evaluate(real, (there,), fabricated(n.view("float32")), {})[0]


def test_functions_that_are_no_kernel_are_tried_once(gpu, monkeypatch):
    @elementwise
    def total(xp, x):
        return xp.cumulative_sum(x)

    calls = []
    monkeypatch.setattr(kernels, "translate", lambda *a: calls.append(a) or translate(*a))
    for _ in range(2):
        assert kernels.evaluate(total, (given(),), None, {}) == (False, None)
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


# Softmax and cross entropy


def portable(scores, target, reduction="mean"):
    """Return loss and gradient of the portable code, in float64."""
    loss = xl.SoftmaxWithLoss(reduction=reduction)
    value = loss.forward(scores.astype("float64"), target)
    return value, loss.backward()


LABELS = [("float32", "int64"), ("float16", "int32"), ("bfloat16", "uint8"), ("float64", "int64")]


@pytest.mark.parametrize(("dtype", "kind"), LABELS)
@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (7, 2), (13, 10), (5, 33), (2, 512)])
def test_labels(rows, classes, dtype, kind, gpu):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    scores = 4.0 * values((rows, classes))
    scores[0, :] += 900.0
    scores = scores.astype(dtype_of(dtype))
    labels = np.random.default_rng(0).integers(0, min(classes, 256), rows).astype(kind)
    losses, dx = softmax_cross_entropy.softmax_cross_entropy(fabricated(scores), fabricated(labels))
    want, gradient = portable(scores, labels, "none")
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    assert losses.dtype == dx.dtype == ("float64" if dtype == "float64" else "float32")
    assert_close(seen(losses), want, tolerance)
    assert_close(seen(dx), gradient, tolerance)


@pytest.mark.parametrize("classes", [513, 1025, 4096, 4099])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("labels", [True, False])
def test_many_classes_take_a_block_a_row(classes, rows, labels, gpu):
    scores = values((rows, classes)).astype("float32")
    target = np.arange(rows) * 800 % classes if labels else np.abs(values((rows, classes), 1))
    losses, dx = softmax_cross_entropy.softmax_cross_entropy(fabricated(scores), fabricated(target))
    assert gpu.launches[0][1:] == (rows, 256)
    want, gradient = portable(scores, target, "none")
    assert_close(seen(losses), want, 1e-6)
    assert_close(seen(dx), gradient, 1e-6)


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "float64"), ("float16", "bool")])
def test_weights_of_classes(dtype, kind, gpu):
    scores = values((3, 4, 10)).astype(dtype)
    target = np.abs(values((3, 4, 10), 1))
    target = (target == target.max(axis=-1, keepdims=True)) if kind == "bool" else target
    scores[0, 0, 1], target[0, 0, 1] = -np.inf, 0  # a masked class
    losses, dx = softmax_cross_entropy.softmax_cross_entropy(fabricated(scores), fabricated(target))
    want, gradient = portable(scores, target.astype("float64"), "none")
    assert_close(seen(losses), want, 1e-6)
    assert_close(seen(dx), gradient, 1e-6)


def test_a_label_out_of_range_makes_its_loss_nan(gpu):
    scores = values((5, 10)).astype("float32")
    labels = np.asarray([0, 10, -1, 9, 2**33])
    losses, dx = softmax_cross_entropy.softmax_cross_entropy(fabricated(scores), fabricated(labels))
    np.testing.assert_array_equal(np.isnan(seen(losses)), [False, True, True, False, True])
    want, gradient = portable(scores, np.asarray([0, 0, 0, 9, 0]), "none")
    assert_close(seen(losses)[[0, 3]], want[[0, 3]], 1e-6)
    assert_close(seen(dx), gradient, 1e-6)


def test_scores_that_are_no_numbers(gpu):
    scores = values((3, 40)).astype("float32")
    scores[0, 35], scores[1, :], scores[2, 3] = np.nan, -np.inf, -np.inf
    losses, dx = softmax_cross_entropy.softmax_cross_entropy(
        fabricated(scores), fabricated(np.asarray([1, 1, 3]))
    )
    np.testing.assert_array_equal(seen(losses), [np.nan, np.nan, np.inf])
    assert np.all(np.isnan(seen(dx)[:2]))
    assert np.all(np.isfinite(seen(dx)[2]))


def test_rows_without_any_weight_add_nothing(gpu):
    """Whatever their scores are; and losses of the others may be infinite."""
    scores = values((5, 40)).astype("float32")
    target = np.abs(values((5, 40), 1)).astype("float32")
    target[:3], target[3, 7] = 0, 0
    scores[0], scores[1, 3], scores[2, 5] = -np.inf, np.nan, np.inf
    scores[3, 7], scores[4, 7] = -np.inf, -np.inf  # masked; and a mistake without bounds
    losses, dx = softmax_cross_entropy.softmax_cross_entropy(fabricated(scores), fabricated(target))
    want, gradient = portable(scores, target, "none")
    np.testing.assert_array_equal(seen(losses)[[0, 1, 2, 4]], [0, 0, 0, np.inf])
    np.testing.assert_array_equal(want[[0, 1, 2, 4]], [0, 0, 0, np.inf])
    assert_close(seen(losses)[3], want[3], 1e-6)
    assert not seen(dx)[:3].any()
    assert_close(seen(dx), gradient, 1e-6)


def test_weights_that_make_no_sense_make_the_loss_nan(gpu):
    scores, target = values((3, 4)).astype("float32"), np.full((3, 4), 0.25)
    target[0, 1], target[2, 0], target[2, 1] = np.nan, -0.25, 0.75
    losses, _ = softmax_cross_entropy.softmax_cross_entropy(fabricated(scores), fabricated(target))
    np.testing.assert_array_equal(np.isnan(seen(losses)), [True, False, True])


def test_the_gradient_in_the_dtype_of_the_scores(gpu):
    scores, labels = values((6, 10)).astype("float16"), np.arange(6)
    _, dx = softmax_cross_entropy.softmax_cross_entropy(
        fabricated(scores), fabricated(labels), dtype="float16"
    )
    assert dx.dtype == np.float16
    assert_close(seen(dx), portable(scores, labels, "none")[1], TOLERANCE["float16"])


@pytest.mark.parametrize(
    ("scores", "target"),
    [
        (lambda: strided((10, 6)), lambda: fabricated(np.zeros(6, "int64"))),
        (lambda: given((6, 10)), lambda: fabricated(np.zeros(12, "int64")[::2])),
        (lambda: given((6, 10)), lambda: fabricated(np.zeros(6, "float32"))),
        (lambda: given((6, 10)), lambda: fabricated(np.zeros(5, "int64"))),
        (lambda: given((0, 10)), lambda: fabricated(np.zeros(0, "int64"))),
        (lambda: given((6, 0)), lambda: fabricated(np.zeros(6, "int64"))),
    ],
)
def test_what_is_no_row_for_the_kernel(scores, target, gpu):
    assert softmax_cross_entropy.softmax_cross_entropy(scores(), target()) is None
    assert not gpu.launches


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_loss_and_its_gradient_are_two_kernels(reduction, dtype, gpu):
    """Losses and gradient in one, and the sum of the losses; another factor is a kernel more."""
    scores, labels = values((6, 10)).astype(dtype), np.arange(6)
    loss = xl.SoftmaxWithLoss(reduction=reduction)
    value, cache = loss.apply({}, fabricated(scores), fabricated(labels))
    want, gradient = portable(scores, labels, reduction)
    assert_close(seen(value), want, 1e-6)
    kernels = ["xplayers_softmax_cross_entropy_labels", "xplayers_column_sums"]
    kernels = kernels if reduction != "none" else kernels[:1]
    assert [name for name, *_ in gpu.launches] == kernels
    dx = loss.vjp(cache, 1.0)
    assert dx.dtype == dtype
    assert_close(seen(dx), gradient, TOLERANCE[dtype])
    # Of float16 it is rounded with the factor, which is there to keep it from 0.
    more = ["xplayers_divided"] if dtype == "float16" else []
    assert [name for name, *_ in gpu.launches] == kernels + more
    inside = "float32" if dtype == "float16" else dtype
    for dout in (2, 0.5, fabricated(np.asarray(4.0, inside))):
        number = float(seen(dout)) if hasattr(dout, "shape") else dout
        assert_close(seen(loss.vjp(cache, dout)), number * gradient, TOLERANCE[dtype])


def test_small_gradients_of_float16_are_rounded_once(gpu):
    """A mean over many samples, times a scale of the loss."""
    scores, labels = np.zeros((4096, 10), "float16"), np.zeros(4096, "int64")
    loss = xl.SoftmaxWithLoss()
    _, cache = loss.apply({}, fabricated(scores), fabricated(labels))
    dx = seen(loss.vjp(cache, fabricated(np.asarray(2.0**16, "float32"))))
    assert_close(dx[:, 1:], np.full((4096, 9), 0.1 * 2.0**16 / 4096), 2.0**-11)


@pytest.mark.parametrize("option", [{"label_smoothing": 0.1}, {"ignore_index": 3}])
def test_options_of_the_loss_are_portable(option, gpu, monkeypatch):
    def widened(xp, x):
        raise Plainly

    monkeypatch.setattr("xplayers.losses.softmax.widened", widened)
    scores, labels = given((6, 10)), fabricated(np.arange(6))
    with pytest.raises(Plainly):
        xl.SoftmaxWithLoss(**option).apply({}, scores, labels)
    assert not gpu.launches
