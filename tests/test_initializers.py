"""Initial values: shapes, variances, seeds."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

import xplayers as xl
from xplayers import initializers

SHAPE = (400, 300)
VARIANCE = {
    "he_normal": 2 / 400,
    "he_uniform": 2 / 400,
    "xavier_normal": 2 / 700,
    "xavier_uniform": 2 / 700,
    "lecun_normal": 1 / 400,
    "normal": 1e-4,
    "orthogonal": 1 / 400,
}


def test_every_initializer_is_tested():
    assert set(initializers.__all__) == {*VARIANCE, "zeros"}


@pytest.mark.parametrize("name", VARIANCE)
def test_mean_and_variance(name):
    w = getattr(initializers, name)(SHAPE, 0)
    assert w.shape == SHAPE
    assert w.dtype == "float64"
    assert abs(w.mean()) < 4 * np.sqrt(VARIANCE[name] / w.size)
    assert w.var() == pytest.approx(VARIANCE[name], rel=0.02)


@pytest.mark.parametrize("name", VARIANCE)
def test_a_seed_is_a_result(name):
    f = getattr(initializers, name)
    assert np.array_equal(f(SHAPE, 3), f(SHAPE, 3))
    assert np.array_equal(f(SHAPE, 3), f(SHAPE, np.random.default_rng(3)))
    assert not np.array_equal(f(SHAPE, 3), f(SHAPE, 4))
    assert not np.array_equal(f(SHAPE), f(SHAPE))


@pytest.mark.parametrize("name", ["he_uniform", "xavier_uniform"])
def test_uniform_values_reach_their_limits_and_no_further(name):
    w = getattr(initializers, name)(SHAPE, 0)
    limit = np.sqrt(3 * VARIANCE[name])
    assert 0.999 * limit < np.abs(w).max() <= limit


def test_the_fans_of_a_kernel():
    w = initializers.he_normal((64, 32, 3, 3), 0)  # 32 * 9 inputs to each output
    assert w.var() == pytest.approx(2 / 288, rel=0.03)
    w = initializers.xavier_normal((64, 32, 3, 3), 0)
    assert w.var() == pytest.approx(2 / (288 + 576), rel=0.03)


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7), (4, 3, 2)])
def test_orthogonal(shape):
    w = initializers.orthogonal(shape, 0, gain=2.0).reshape(shape[0], -1) / 2.0
    small = w @ w.T if shape[0] <= w.shape[1] else w.T @ w
    assert np.allclose(small, np.eye(len(small)), atol=1e-12)


def test_zeros_and_std():
    assert not initializers.zeros((3,)).any()
    assert initializers.normal(SHAPE, 0, std=2.0).std() == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("name", sorted(set(VARIANCE) - {"normal"}))
def test_a_shape_without_fans(name):
    with pytest.raises(ValueError, match=r"shape \(3,\) has no fans; expected two axes or more"):
        getattr(initializers, name)((3,), 0)


# The documentation of `init`

DOCUMENTED = [
    xl.Affine, xl.Convolution, xl.ConvolutionTranspose, xl.MultiHeadAttention, xl.Embedding,
    xl.PositionalEmbedding, xl.Rnn, xl.BatchNormalization,
]  # fmt: skip


@pytest.mark.parametrize("layer", DOCUMENTED)
def test_help_of_init_has_every_argument_in_full(layer):
    text = inspect.getdoc(layer.init)
    _, parameters, returns = re.split(r"^(?:Parameters|Returns)\n-+\n", text, flags=re.MULTILINE)
    names = re.findall(r"^([\w, ]+)(?: : .+)?\n {4}\S", parameters, re.MULTILINE)
    assert set(", ".join(names).split(", ")) == {*inspect.signature(layer.init).parameters}
    assert "every `init`" not in text
    assert "like : array, optional\n    Library, device and floating dtype" in text
    assert returns == "Self"


def test_documentation_that_is_left_out(monkeypatch):
    """By python -OO."""

    def init():
        pass

    assert initializers.documented(init) is init
    assert init.__doc__ is None
