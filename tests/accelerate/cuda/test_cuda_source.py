"""The CUDA source of traced functions, run through a host compiler, against NumPy."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import sys

import numpy as np
import pytest
from cuda_cases import CASES, EXACT, FLOATS, HAS_BFLOAT16, THERE, array, dtype_of, in_one
from emulator import building, launching
from helpers import assert_close, assert_same_bits, everything, values

import xplayers as xl
from xplayers import functional
from xplayers.accelerate.cuda import softmax_cross_entropy
from xplayers.accelerate.cuda.source import ANY, BOOL, FLOATING, INDEX, INTEGER, Operand, translate
from xplayers.accelerate.tape import Untraceable

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(
        building.compiler() is None, reason="no C++ compiler with _Float16 and ucontext.h"
    ),
]

DTYPES = [
    pytest.param(
        d,
        marks=pytest.mark.skipif(
            d == "bfloat16" and not HAS_BFLOAT16, reason="ml_dtypes, which has bfloat16, is absent"
        ),
    )
    for d in FLOATS
]


F4 = np.dtype("float32")


@pytest.fixture(scope="module")
def compiled():
    """All kernels of this file in one library, which takes some ten seconds."""
    kernels = {}
    for i, case in enumerate(CASES):
        for dtype in THERE:
            kernels[case, dtype] = case.kernel(dtype, f"{i}_{dtype}")
    for name, (function, operands) in FUNCTIONS.items():
        kernels[name] = translate(function, operands, name=name)
    softmax = {
        f"softmax_{target}_{warps}_{held}": (
            F4, np.dtype(target), F4, labels, warps, held, labels, None,
        )
        for target, labels in (("int64", True), ("float32", False))
        for warps, held in itertools.product((1, 8), (0, 1, 4, 16))
    }  # fmt: skip
    text = "\n".join([in_one(softmax_cross_entropy, softmax), *[k.body for k in kernels.values()]])
    return launching.compiled(text), kernels


def run(library, kernel, operands, outs, *, blocks=2, threads=32, only=launching.ALL):
    """Run a translated function on NumPy arrays; `outs` are those with memory of their own."""
    args = kernel.arguments(operands, outs)
    launching.launch(library, kernel.name, blocks, threads, args, only)


def evaluated(compiled, key, operands, **options):
    """Return the results of a kernel as new arrays; operands in whose place they are as well."""
    library, kernels = compiled
    kernel = kernels[key]
    shape = np.asarray(operands[0]).shape
    outs = [np.empty(shape, kernel.result_dtypes[k]) for k in kernel.own]
    run(library, kernel, operands, outs, **options)
    return outs


def results(compiled, case, dtype, operands):
    """Return the results of a case in order; those over operands are written into copies."""
    mine = [a.copy() if isinstance(a, np.ndarray) else a for a in operands]
    outs = iter(evaluated(compiled, (case, dtype), mine))
    for at, (before, after) in enumerate(zip(operands, mine, strict=True)):
        if isinstance(before, np.ndarray) and at not in case.aliases:
            assert_same_bits(before, after, f"operand {at}")
    aliases = case.aliases or (None,) * len(compiled[1][case, dtype].result_dtypes)
    return [next(outs) if alias is None else mine[alias] for alias in aliases]


def expected(case, operands, dtype=None):
    """Return the results of the function itself, of NumPy, in another dtype if one is given."""

    def converted(a):
        if not isinstance(a, np.ndarray) or a.dtype.kind in "bi":
            return a
        return a.astype(dtype or a.dtype)

    with np.errstate(all="ignore"):
        got = case.pure(np, *map(converted, operands))
    return got if isinstance(got, tuple) else (got,)


# Every function of the package


def test_every_elementwise_function_of_the_package_is_here():
    kind = type(functional.relu)

    def is_door(name):  # into another library, which may not be here
        doors = ("bridges", "jax", "onnx", "sklearn", "torch")
        return name.split(".")[1] in doors or name == "xplayers.arrays.pytorch"

    walk = pkgutil.walk_packages(xl.__path__, "xplayers.", onerror=lambda name: None)
    modules = [m.name for m in walk if not is_door(m.name)]
    there = {
        f
        for name in modules
        if not name.endswith("__main__")
        for f in vars(importlib.import_module(name)).values()
        if isinstance(f, kind)
    }
    assert there == {case.function for case in CASES}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_functions_against_float64(case, dtype, compiled):
    """16-bit results are the exact ones rounded once: no step before is rounded to 16 bits."""
    operands = case.values(1003, dtype)
    got = results(compiled, case, dtype, operands)
    half_units = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
    for y, exact, kind in zip(
        got, expected(case, operands, "float64"), result_dtypes(case, dtype), strict=True
    ):
        assert y.dtype == kind
        if kind == np.bool_:
            np.testing.assert_array_equal(y, exact)
            continue
        half_unit = half_units.get(kind.name, 0.0)
        inside = 1e-13 if kind == np.float64 else 1e-6
        error = np.abs(y.astype("float64") - exact)
        bound = half_unit * np.abs(exact) + inside * np.abs(exact).max() + 3e-8 * (half_unit > 0)
        assert np.all(error <= bound), f"{(error / np.abs(exact).max()).max():.3g}"


def result_dtypes(case, dtype):
    """Return the dtypes that NumPy gives; bfloat16, which it has not, stands for float16."""
    known = "float16" if dtype == "bfloat16" else dtype
    dtypes = [y.dtype for y in expected(case, case.values(1, known))]
    return [dtype_of(dtype) if d == known else d for d in dtypes]


def test_what_is_exactly_rounded():
    names = " ".join(map(repr, EXACT))
    assert all(
        name in names
        for name in ("relu", "SGD_rule", "AdamW_rule", "RMSprop_rule", "tanh_vjp", "apply_if")
    )
    assert "sigmoid_derivative" not in names


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", EXACT, ids=repr)
def test_exactly_rounded_functions_have_the_bits_of_numpy(case, dtype, compiled):
    operands = case.values(1003, dtype)
    for a in operands:
        if isinstance(a, np.ndarray) and a.dtype.kind == "f" and a.shape:
            a[:7] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42, 3e38]
    got = results(compiled, case, dtype, operands)
    for y, want in zip(got, expected(case, operands), strict=True):
        assert_same_numbers(y, want)


def assert_same_numbers(got, want):
    """All bits, but for those of what is no number."""
    if got.dtype.kind == "f":
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        got, want = np.nan_to_num(got), np.nan_to_num(want)
    assert_same_bits(got, want)


@pytest.mark.parametrize("count", [0, 7, 2**31 - 1])
def test_dropout_has_the_masks_of_the_layer(count, compiled):
    (case,) = (c for c in CASES if "dropped" in c.id)
    x = values((1003,)).astype("float32")
    y, keep = results(compiled, case, "float32", [x, None, np.asarray(count, "int32")])
    layer = xl.Dropout(case.options["rate"], seed=case.options["seed"])
    with np.errstate(over="ignore"):
        want, (mask,) = layer.apply({"count": np.asarray([count], "int32")}, x)
    assert_same_bits(keep, mask)
    assert_same_bits(y, want)


# Operations


def floating(xp, x, y):
    positive = xp.abs(x) + 1.0
    return tuple(
        ufunc(*{1: (x,), 2: (x, y)}[ufunc.nin]) if ufunc not in OF_POSITIVE
        else ufunc(*{1: (positive,), 2: (positive, y)}[ufunc.nin])
        for ufunc in (*FLOATING, *ANY)
    )  # fmt: skip


OF_POSITIVE = (np.sqrt, np.log, np.log2, np.log10, np.log1p, np.power)


def integer(xp, x, y):
    return tuple(ufunc(*(x, y)[: ufunc.nin]) for ufunc in (*INTEGER, *ANY) if fits(ufunc, x))


def fits(ufunc, x):
    return ufunc not in (np.isnan, np.isinf, np.isfinite)


def boolean(xp, x, y):
    ufuncs = (u for u in (*BOOL, *ANY) if u not in (np.sign, np.positive) and fits(u, x))
    return tuple(ufunc(*(x, y)[: ufunc.nin]) for ufunc in ufuncs)


def casts(xp, *arrays):
    rounded = xp.astype(xp.astype(arrays[0] * 1.001, "float16"), "float32")
    return (rounded, *[xp.astype(x, t) for x in arrays for t in CASTS])


CASTS = ("bool", "int8", "int32", "int64", "uint16", "float16", "float32", "float64")


def unbounded(xp, x):
    infinite = float("inf")
    return xp.where(x > 0, infinite, x), xp.maximum(x, -infinite) - float("nan"), x * 1e300


def masked(xp, mask, x, y):
    """Bytes, floats and doubles in one kernel."""
    return xp.where(mask, x, y) * 2.0, xp.astype(x > y, "int8")


def inverted(xp, mask):
    return ~mask


INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FUNCTIONS = {
    **{f"floating_{d}": (floating, [array(d)] * 2) for d in ("float32", "float64")},
    **{f"integer_{d}": (integer, [array(d)] * 2) for d in INTEGERS},
    "boolean": (boolean, [array("bool")] * 2),
    "casts": (casts, [array("float32"), array("int16"), array("bool"), array("float64")]),
    "everything": (everything, [array("float32"), array("float32"), 0.7]),
    "unbounded": (unbounded, [array("float32")]),
    "masked": (masked, [array("bool"), array("float32"), array("float64")]),
    "inverted": (inverted, [array("bool")]),
}


if HAS_BFLOAT16:
    FUNCTIONS["narrowed"] = (
        lambda xp, x: xp.astype(x, dtype_of("bfloat16")), [array("float32")]
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_operations_on_floats(dtype, compiled):
    x, y = values((1003,)).astype(dtype), values((1003,), 1).astype(dtype)
    x[:5] = [np.nan, np.inf, -np.inf, 0.0, 2.5]
    y[:500] = x[:500]
    got = evaluated(compiled, f"floating_{dtype}", [x, y])
    with np.errstate(all="ignore"):
        want = floating(np, x, y)
    for ufunc, a, b in zip((*FLOATING, *ANY), got, want, strict=True):
        if a.dtype == np.bool_:
            np.testing.assert_array_equal(a, b, ufunc.__name__)
        else:
            rounding = 8 * float(np.finfo(dtype).eps)
            np.testing.assert_allclose(a, b, rounding, rounding, err_msg=ufunc.__name__)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_operations_on_integers_wrap(dtype, compiled):
    info = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    x, y = rng.integers(info.min, info.max, (2, 1003), dtype, endpoint=True)
    x[:4], y[:500:2] = [info.min, info.max, 0, 1], rng.integers(0, 70, 250)
    y[1:500:4] = x[1:500:4]
    with np.errstate(all="ignore"):
        want = integer(np, x, y)
    for a, b in zip(evaluated(compiled, f"integer_{dtype}", [x, y]), want, strict=True):
        assert_same_bits(a, b)


def test_operations_on_truth_values(compiled):
    x, y = (np.asarray([bits >> i & 1 for bits in range(4)], "bool") for i in range(2))
    for a, b in zip(evaluated(compiled, "boolean", [x, y]), boolean(np, x, y), strict=True):
        assert_same_bits(a, b)


def test_casts(compiled):
    n = 1003
    operands = [np.abs(values((n,))).astype("float32"), np.arange(n, dtype="int16") - 100,
                np.arange(n) % 3 == 0, np.abs(values((n,), 1))]  # fmt: skip
    with np.errstate(all="ignore"):
        want = casts(np, *operands)
    for a, b in zip(evaluated(compiled, "casts", operands), want, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_all_16_bit_floats_are_rounded_to_the_nearest(dtype, compiled):
    """``x * 1.25`` for every x, with ties; what is no number stays so."""
    (case,) = (c for c in CASES if c.id.startswith("scaled"))
    x = np.arange(2**16, dtype="uint16").view(dtype_of(dtype))
    (got,) = results(compiled, case, dtype, [x, np.ones(x.size, "bool")])
    with np.errstate(all="ignore"):
        want = (x.astype("float32") * np.float32(1.25)).astype(x.dtype)
        nan = np.isnan(want.astype("float32"))
        np.testing.assert_array_equal(np.isnan(got.astype("float32")), nan)
    assert_same_bits(got[~nan].view("uint16"), want[~nan].view("uint16"))


@pytest.mark.skipif(not HAS_BFLOAT16, reason="ml_dtypes, which has bfloat16, is absent")
def test_any_float32_as_bfloat16(compiled):
    bits = np.random.default_rng(0).integers(0, 2**32, 10_000, "uint32")
    bits[:4] = [0x7F800001, 0xFFFFFFFF, 0x7F7FFFFF, 0xFF800000]  # two are no numbers
    x = bits.view("float32")
    (got,) = evaluated(compiled, "narrowed", [x])
    nan = np.isnan(x)
    np.testing.assert_array_equal(np.isnan(got.astype("float32")), nan)
    with np.errstate(all="ignore"):
        want = x.astype(got.dtype)
    assert_same_bits(got[~nan].view("uint16"), want[~nan].view("uint16"))


# Shapes of memory


def test_where_numbers_come_from(compiled):
    x, y = values((1003,)).astype("float32"), values((1003,), 1).astype("float32")
    got = evaluated(compiled, "everything", [x, y, 0.7])
    for a, b in zip(got, everything(np, x, y, 0.7), strict=True):
        assert_same_bits(a, b)
    x[:2] = [np.inf, -np.inf]
    with np.errstate(all="ignore"):
        want = unbounded(np, x)
    for a, b in zip(evaluated(compiled, "unbounded", [x]), want, strict=True):
        assert_same_numbers(a, b)


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 7, 8, 9, 63, 64, 65, 1024, 4099])
@pytest.mark.parametrize("offset", [0, 1, 3])
def test_sizes_and_places(n, offset, compiled):
    """No value beside the arrays is touched, wherever they begin."""
    rng = np.random.default_rng(n)
    mask, x, y = rng.random(n) < 0.5, values((n,)).astype("float32"), values((n,), 1)

    def placed(a):
        around = np.full(n + 16, 77, a.dtype)
        around[8 + offset : 8 + offset + n] = a
        return around, around[8 + offset : 8 + offset + n]

    want = masked(np, mask, x, y)
    outs = [placed(np.zeros_like(w)) for w in want]
    library, kernels = compiled
    operands = [placed(a)[1] for a in (mask, x, y)]
    run(library, kernels["masked"], operands, [inner for _, inner in outs])
    for (around, inner), w in zip(outs, want, strict=True):
        assert_same_bits(inner.copy(), w)
        assert np.all(around[: 8 + offset] == 77)
        assert np.all(around[8 + offset + n :] == 77)


@pytest.mark.parametrize(("aligned", "written"), [(True, [0, 1, 2, 3]), (False, [0])])
def test_packs_where_all_pointers_are_aligned(aligned, written, compiled):
    """Of 64 threads the first writes a pack, or one element."""
    x = np.ones(257, "float32")[0 if aligned else 1 :][:256]
    around = np.zeros(260, "float32")
    out = around[-around.ctypes.data % 16 // 4 :][:256]
    assert (x.ctypes.data % 16 == 0) == aligned
    library, kernels = compiled
    case = next(c for c in CASES if c.id == "relu")
    kernel = kernels[case, "float32"]
    run(library, kernel, [x], [out], blocks=1, threads=64, only=0)
    assert [i for i in np.flatnonzero(out) if i < 64] == written


def test_packs_are_of_16_bytes():
    def width(*dtypes):
        return translate(lambda xp, *a: a[0] == a[-1], [array(d) for d in dtypes]).width

    assert width("float32") == 4
    assert width("float16") == 8
    assert width("float64", "float64") == 2
    assert width("bool", "float32") == 4
    assert width("float16", "float32") == 8
    assert width("int8") == 16


@pytest.mark.skipif(sys.platform != "linux", reason="8 GB of memory that is not there")
def test_more_elements_than_32_bits_count(compiled):
    """Thread 0 of 2**28 has the first pack, the one at 2**32, and a part of the tail."""
    n = 2**32 + 37
    x, y = (launching.unwritten(n, "bool") for _ in range(2))
    library, kernels = compiled
    run(library, kernels["inverted"], [x], [y], blocks=2**20, threads=256, only=0)
    assert y[:16].all()
    assert not y[16:32].any()
    assert y[2**32 : 2**32 + 16].all()
    assert not y[2**32 + 16 : 2**32 + 32].any()
    assert y[2**32 + 32]


# Softmax and cross entropy (tests/test_cuda_dispatch.py has all of its dtypes and corners)


@pytest.mark.parametrize(
    ("classes", "warps", "held"),
    [
        (2, 1, 0), (10, 1, 0), (33, 1, 0), (10, 8, 0), (1500, 8, 0), (2, 1, 1), (32, 1, 1),
        (33, 1, 4), (127, 1, 4), (10, 1, 16), (512, 1, 16), (10, 8, 1), (1000, 8, 4), (4095, 8, 16),
    ],
)  # fmt: skip
@pytest.mark.parametrize("labels", [True, False])
def test_softmax_cross_entropy(labels, classes, warps, held, compiled):
    rows = 7
    scores = values((rows, classes), scale=10.0).astype("float32")
    target = np.abs(values((rows, classes), 1)).astype("float32")
    if labels:
        target = np.argmax(target, axis=1)
    losses, gradient = np.empty(rows, "float32"), np.empty_like(scores)
    name = f"softmax_{target.dtype}_{warps}_{held}"
    args = [np.int64(rows), np.int64(classes), scores, target, losses, gradient, np.float32(0.25)]
    launching.launch(compiled[0], name, 2, max(64, 32 * warps), args)
    loss = xl.SoftmaxWithLoss(reduction="none")
    want = loss.forward(scores.astype("float64"), target)
    assert_close(losses, want, 1e-6)
    assert_close(gradient, loss.backward(0.25), 1e-6)


# What is not translated


@pytest.mark.parametrize(
    ("function", "operands"),
    [
        (lambda xp, x: xp.sum(x), [array("float32")]),
        (lambda xp, x: x + 1, [array("complex64")]),
        (lambda xp, x: xp.nextafter(x, 1.0), [array("float32")]),
        (lambda xp, x, y: x > y, [array("int64"), array("uint64")]),
        (lambda xp, x: x + 300, [array("int8")]),
        (lambda xp, x: xp.floor_divide(x, 3), [array("int32")]),
        (lambda xp, x: 1.0, [array("float32")]),
    ],
)
def test_what_is_left_to_cupy(function, operands):
    with pytest.raises(Untraceable):
        translate(function, operands)


def test_scalars_are_computed_once_a_thread():
    scalar = Operand("scalar", F4)
    kernel = translate(lambda xp, x, a, b: x * (a * b), [array("float32"), scalar, scalar])
    before, inside = kernel.body.split("const auto element")
    assert "v1 * v2" in before
    assert "v1 * v2" not in inside


def test_the_index_is_no_array():
    kernel = translate(lambda xp, x, i: x * i, [array("float32"), INDEX])
    assert kernel.arrays == (0,)
    assert kernel.cells == ()
