"""Kernels of normalizations against the portable bodies in float64."""

import numpy as np
import pytest

import xplayers as xl
from xplayers.arrays.operation import portable_body
from xplayers.layers import batch_normalization as of_channels
from xplayers.layers import layer_normalization as of_rows

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("for_all_sizes")]


KINDS = {
    "layer": (of_rows.layer_normalization, of_rows.layer_normalization_gradient),
    "rms": (of_rows.rms_normalization, of_rows.rms_normalization_gradient),
    "batch": (of_channels.batch_normalization, of_channels.batch_normalization_gradient),
    "group": (of_channels.group_normalization, of_channels.group_normalization_gradient),
}
# Kind, shape of x, shape of gamma, and groups.
SHAPES = [
    ("layer", (4, 6), (6,), ()),
    ("layer", (1, 2), (2,), ()),
    ("layer", (5, 3, 7, 5), (7, 5), ()),
    ("layer", (700, 257), (257,), ()),
    ("rms", (3, 5), (5,), ()),
    ("rms", (2, 301, 33), (33,), ()),
    ("batch", (2, 1), (1,), ()),
    ("batch", (9, 131), (131,), ()),
    ("batch", (3, 5, 7), (5,), ()),
    ("batch", (4, 3, 5, 6), (3,), ()),
    ("batch", (2, 3, 1, 1), (3,), ()),
    ("batch", (2, 2, 3, 2, 2), (2,), ()),
    ("batch", (260, 9, 9, 9), (9,), ()),
    ("group", (3, 6), (6,), (2,)),
    ("group", (2, 6, 5), (6,), (6,)),
    ("group", (33, 8, 7, 9), (8,), (4,)),
    ("group", (2, 4, 3, 3), (4,), (1,)),
]


def with_outliers(x):
    x[0] *= 1e5
    x[..., 0] *= 1e5
    return x


VALUES = {
    "plain": lambda x: x,
    "outliers come first": with_outliers,
    "far": lambda x: 1e4 + x,
    "huge": lambda x: np.clip(1e38 * x, -3e38, 3e38),
    "tiny": lambda x: 1e-30 * x,
    "equal": lambda x: np.full_like(x, 0.1),
}


def arrays(shape, of_gamma, seed=0):
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((2, *shape))
    gamma, beta = rng.standard_normal((2, *of_gamma))
    return [a.astype(np.float32) for a in (x, dy, gamma, beta)]


def both(kind, x, dy, gamma, beta, options, eps, call=lambda f: f):
    """Return outputs and gradients, by the bodies or what `call` makes of an operation."""
    forward, backward = map(call, KINDS[kind])
    arguments = (gamma, *([] if kind == "rms" else [beta]), *options, eps)
    y, xh, *rest = forward(x, *arguments)
    mean, r = (rest[1], rest[0]) if len(rest) > 1 else (None, rest[0])
    means = () if kind == "rms" else (mean,)
    grads = backward(dy, x, gamma, xh, *means, r)
    return xh, [y, *grads], [r, *(rest[1:] if kind == "batch" else [])]


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize(("kind", "shape", "of_gamma", "options"), SHAPES)
def test_values(kind, shape, of_gamma, options, values):
    x, dy, gamma, beta = arrays(shape, of_gamma)
    x = VALUES[values](x.astype(np.float64)).astype(np.float32)
    eps = 0.0 if values == "tiny" else 1e-5
    xh, got, statistics = both(kind, x, dy, gamma, beta, options, eps)
    assert xh is None
    wide = [a.astype(np.float64) for a in (x, dy, gamma, beta)]
    with np.errstate(all="ignore"):
        _, expected, wanted = both(kind, *wide, options, eps, portable_body)
    with np.errstate(over="ignore"):
        expected, wanted, statistics = (
            [a.astype(np.float32) for a in some] for some in (expected, wanted, statistics)
        )
    for a, b in zip([*got, *statistics], [*expected, *wanted], strict=True):
        finite = np.abs(b)[np.isfinite(b)]
        atol = 4e-7 * finite.max(initial=0.0)
        if b is expected[1]:  # of three terms, which may cancel out
            atol += 4e-7 * np.max(wanted[0], initial=0.0, where=wanted[0] < np.inf)
        np.testing.assert_allclose(a, b, rtol=4e-7, atol=atol)
    for a, like in zip(got, (x, x, gamma, gamma)[: len(got)], strict=True):
        assert a.dtype == np.float32
        assert a.shape == like.shape
        assert a.flags.owndata or a.base is not x


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_stays_with_its_mean(kind, bad):
    x, dy, gamma, beta = arrays((4, 4, 3), (4, 3) if kind in ("layer", "rms") else (4,))
    x[1, 2, 0] = bad
    options = (2,) if kind == "group" else ()
    _, got, _ = both(kind, x, dy, gamma, beta, options, 1e-5)
    with np.errstate(all="ignore"):
        _, expected, _ = both(kind, x, dy, gamma, beta, options, 1e-5, portable_body)
    for a, b in zip(got[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))


@pytest.mark.parametrize(
    "layer",
    [xl.LayerNormalization.init(6), xl.RmsNormalization.init(6), xl.BatchNormalization.init(4),
     xl.GroupNormalization.init(4, 2)],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_any_layout(layer):
    x, dy, _, _ = arrays((5, 4, 6), (1,))

    def results(x, dy):
        y = layer.forward(x)
        return [y, layer.backward(dy), *layer.grads.values()]

    whole = results(x, dy)
    x.flags.writeable = dy.flags.writeable = False
    unaligned = np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    wide = np.repeat(x, 2, axis=-1)[..., ::2]
    for other in (x, np.asfortranarray(x), unaligned, wide):
        for a, b in zip(whole, results(other, np.asfortranarray(dy)), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_dtypes_and_no_values_are_left_to_the_bodies(kind, dtype):
    x, dy, gamma, beta = arrays((4, 6), (6,))
    options = (2,) if kind == "group" else ()
    other = [a.astype(dtype) for a in (x, dy, gamma, beta)]
    xh, got, _ = both(kind, *other, options, 1e-5)
    assert xh is not None
    assert {a.dtype.name for a in got} == {dtype}
    xh, got, _ = both(kind, x[:0], dy[:0], gamma, beta, options, 1e-5)
    assert xh is not None
    assert not got[2].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_of_another_dtype(kind):
    x, dy, gamma, beta = arrays((4, 6), (6,))
    options = (2,) if kind == "group" else ()
    _, got, _ = both(kind, x, dy.astype(np.float64), gamma, beta, options, 1e-5)
    _, expected, _ = both(kind, x, dy, gamma, beta, options, 1e-5)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
