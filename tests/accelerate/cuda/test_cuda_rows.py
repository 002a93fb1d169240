"""Elementwise functions of rows of CuPy arrays in one launch, run by the host."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_cases import THERE, dtype_of
from helpers import assert_same_bits, values

pytest.importorskip("cupy")

from emulator.emulated_gpu import fabricated
from emulator.emulated_kernels import Plainly, given, needs_compiler, seen

import xplayers as xl
from xplayers.accelerate.cuda.pointer_table import most_rows, table_type
from xplayers.arrays.elementwise import elementwise
from xplayers.cuda import fused
from xplayers.optimizers.base import _apply, next_count
from xplayers.training.precision import _rounded

pytestmark = needs_compiler

CHUNK = 4 * 256 * 4  # elements of float32
SHAPES = [(3,), (CHUNK - 1,), (0, 5), (CHUNK,), (3, CHUNK + 1), (1,), (7, 9)]


@elementwise
def scaled(xp, x, a):
    if xp.__name__ == "array_api_compat.cupy":
        raise Plainly
    return a * x


@pytest.fixture(autouse=True)
def no_programs(monkeypatch):
    monkeypatch.setattr(scaled, "programs", {})


def rows_of(dtype="float32", shapes=SHAPES):
    """Return parameters, gradients and moments of several shapes, on the host."""
    rows = []
    for i, shape in enumerate(shapes):
        p, g, m, v = (values(shape, 4 * i + k).astype(dtype) for k in range(4))
        rows.append((p, g, m, np.abs(v)))
    return rows


def test_an_optimizer_is_one_launch(gpu):
    """In place, of the bits of the rule on NumPy, and nothing else is written."""
    host = rows_of()
    there = [tuple(fabricated(a.copy()) for a in row) for row in host]
    lr, correction = (fabricated(np.asarray(c, "float32")) for c in (0.01, 0.5))
    options = {"rule": xl.Adam.rule, "decays": True}
    results = _apply.rows(
        [(*row, lr, 0.1, 0.999, 0.001, 1e-7, correction, 0.1) for row in there],
        outs=[(p, m, v) for p, _, m, v in there],
        **options,
    )
    chunks = sum(-(-row[0].size // CHUNK) for row in host)
    assert gpu.launches == [("xplayers_apply_rows", chunks, 256)]
    scalars = (np.float32(0.01), 0.1, 0.999, 0.001, 1e-7, np.float32(0.5), 0.1)
    for row, got, (p, g, m, v) in zip(host, results, there, strict=True):
        want = _apply.function(np, *row, *scalars, **options)
        for a, memory, right in zip(got, (p, m, v), want, strict=True):
            assert a is memory
            assert_same_bits(seen(a), right)
        assert_same_bits(seen(g), row[1])


@pytest.mark.parametrize("dtype", [d for d in THERE if d.endswith("16")])
def test_gradients_of_16_bits_are_read_as_they_are(gpu, dtype):
    """The optimizer's step of float32 parameters is one launch, and computes in float32."""
    host = {str(i): row for i, row in enumerate(rows_of())}
    optimizer = xl.Momentum(0.1)
    params = {name: row[0] for name, row in host.items()}
    grads = {name: row[1].astype(dtype_of(dtype)) for name, row in host.items()}
    state = optimizer.init(params)
    wide = {name: g.astype("float32") for name, g in grads.items()}
    want, moments = optimizer.step(params, wide, state)

    def there(arrays):
        return {name: fabricated(a.copy()) for name, a in arrays.items()}

    before = {"v": there(state["v"]), "count": fabricated(np.asarray(6, "int32"))}
    got, after = optimizer.step(there(params), there(grads), before, donate=True)
    assert [name for name, *_ in gpu.launches] == ["xplayers_counted", "xplayers_apply_rows"]
    assert seen(after["count"]) == 7
    for name, p in want.items():
        assert_same_bits(seen(got[name]), p)
        assert_same_bits(seen(after["v"][name]), moments["v"][name])


@pytest.mark.parametrize("good", [None, True, False])
def test_steps_are_counted_by_one_kernel(gpu, good):
    """The number is that of this step, whether it is taken or not."""
    given = None if good is None else fabricated(np.asarray(good))
    like = fabricated(np.ones(2, "float32"))
    after, number = next_count(fabricated(np.asarray(6, "int32")), given, like)
    assert after.dtype == np.int32
    assert seen(after) == (6 if good is False else 7)
    assert number.dtype == np.float32
    assert seen(number) == 7
    assert len(gpu.launches) == 1


def test_new_results_keep_their_shapes(gpu):
    host = [row[0] for row in rows_of()]
    got = scaled.rows([(fabricated(a), 3.0) for a in host])
    assert len(gpu.launches) == 1
    for y, a in zip(got, host, strict=True):
        assert y.shape == a.shape
        assert_same_bits(seen(y), np.float32(3) * a)


def test_a_row_and_one_alone_are_different_kernels(gpu):
    x = given()
    for y in (scaled(x, 3.0), *scaled.rows([(x, 3.0)]), scaled(x, 3.0)):
        assert_same_bits(seen(y), np.float32(3) * seen(x))
    assert gpu.made == ["xplayers_scaled", "xplayers_scaled_rows"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_parameters_are_rounded_in_one_launch(gpu, dtype):
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.float16
    host = [row[0] for row in rows_of()]
    got = _rounded.rows([(fabricated(a),) for a in host], dtype=np.dtype(kind))
    assert len(gpu.launches) == 1
    for y, a in zip(got, host, strict=True):
        assert_same_bits(seen(y).view("uint16"), a.astype(kind).view("uint16"))


def test_rows_begin_anywhere(gpu):
    """Those that are aligned go by packs, the others element by element."""
    base = values((3 * CHUNK,)).astype("float32")
    host = [base[i : 2 * CHUNK + 7 * i] for i in range(5)]
    got = scaled.rows([(fabricated(a), -1.5) for a in host])
    for y, a in zip(got, host, strict=True):
        assert_same_bits(seen(y), np.float32(-1.5) * a)


def test_rows_of_one_kind_share_a_launch(gpu):
    """Another dtype, another scalar or another device is another one."""
    x, y, z = given(), given((5, 7), 1), given(dtype="float64")
    one, other = (fabricated(np.asarray(c, "float32")) for c in (2.0, 2.0))
    got = scaled.rows([(x, one), (y, one), (x, other), (z, 2.0), (y, 2.0), (x, 2.0), (y, 3.0)])
    assert len(gpu.launches) == 5
    for a, (source, factor) in zip(
        got, [(x, 2), (y, 2), (x, 2), (z, 2), (y, 2), (x, 2), (y, 3)], strict=True
    ):
        assert a.dtype == source.dtype
        assert_same_bits(seen(a), source.dtype.type(factor) * seen(source))
    gpu.launches.clear()
    there = fabricated(values((9,)).astype("float32"), device=1)
    scaled.rows([(x, 2.0), (there, 2.0), (y, 2.0)])
    assert len(gpu.launches) == 2


def test_more_rows_than_a_table_holds(gpu):
    most = most_rows(2)
    assert most == 64
    host = [values((5 + i,), i).astype("float32") for i in range(2 * most + 3)]
    got = scaled.rows([(fabricated(a), 2.0) for a in host])
    assert len(gpu.launches) == 3
    for y, a in zip(got, host, strict=True):
        assert_same_bits(seen(y), 2 * a)


@pytest.mark.parametrize("arrays", [1, 4, 9, 20])
def test_a_table_is_a_small_argument(arrays):
    """Kernels take 4096 bytes; scalars need some of them."""
    rows = most_rows(arrays)
    assert 0 < rows <= 64
    assert table_type(rows, arrays).itemsize <= 3584
    assert rows == 64 or table_type(rows + 1, arrays).itemsize > 3584


def test_what_is_no_row_is_computed_by_itself(gpu):
    strided = fabricated(values((40, 30)).astype("float32").T)
    with pytest.raises(Plainly):
        scaled.rows([(given(), 2.0), (strided, 2.0)])
    with fused(False), pytest.raises(Plainly):
        scaled.rows([(given(), 2.0)])
    assert not gpu.launches
    assert scaled.rows([]) == []


def test_other_libraries_are_called_row_by_row(gpu):
    x, out = values((50,)), np.zeros(50)
    y, z = scaled.rows([(x, 2.0), (x[:7], 3.0)], outs=[out, None])
    assert y is out
    assert np.array_equal(y, 2 * x)
    assert np.array_equal(z, 3 * x[:7])
    assert not gpu.made
