"""The gradient of rows in blocks: that of the portable body, but for the order of sums."""

import numpy as np
import pytest

from xplayers.accelerate.host import normalization
from xplayers.arrays.operation import portable_body
from xplayers.layers import layer_normalization as layers

pytestmark = pytest.mark.host


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "of_gamma"), [
    ((7, 5), (5,)), ((4, 3, 6), (6,)), ((6, 3, 4), (3, 4)), ((90, 2), (2,)), ((1, 40), (40,)),
])  # fmt: skip
@pytest.mark.parametrize("block", [1, 16, 1 << 16])
def test_the_gradient_of_rows(shape, of_gamma, dtype, block, monkeypatch):
    monkeypatch.setattr(normalization, "BLOCK", block)
    monkeypatch.setattr(normalization, "LARGE", 0)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, *shape)).astype(dtype)
    gamma, beta = rng.standard_normal((2, *of_gamma)).astype(dtype)
    _, xh, r, _ = portable_body(layers.layer_normalization)(x, gamma, beta, 1e-5)
    _, scaled, root = portable_body(layers.rms_normalization)(x, gamma, 1e-5)
    for gradient, body, arguments in (
        (layers.layer_normalization_gradient, normalization.layer_normalization_gradient,
         (dy, x, gamma, xh, None, r)),
        (layers.rms_normalization_gradient, normalization.rms_normalization_gradient,
         (dy, x, gamma, scaled, root)),
    ):  # fmt: skip
        results, expected = body(*arguments), portable_body(gradient)(*arguments)
        for a, b in zip(results, expected, strict=True):
            rtol = 1e-5 if dtype == "float32" else 1e-13
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert body(*[a.astype("float16") for a in arguments]) is NotImplemented
