"""The kernel of the gradient of `Embedding`: the bits of the sums by calls of NumPy."""

import numpy as np
import pytest
from helpers import assert_same_bits

import xplayers as xl
from xplayers.accelerate.host import embedding
from xplayers.accelerate.host.kernels import kernel

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("for_all_sizes")]

INDICES = {
    "few": lambda rng: rng.integers(0, 9, 50),
    "often and rarely": lambda rng: np.where(rng.random(400) < 0.5, 3, rng.integers(0, 90, 400)),
    "each once": lambda rng: rng.permutation(70),
    "one": lambda rng: np.full(16, 5),
    "out of range": lambda rng: rng.integers(-3, 12, 60),
    "32 bits": lambda rng: rng.integers(0, 9, 50).astype("int32"),
    "many": lambda rng: rng.integers(0, 4000, 9000),
}


def without(function, *args):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "smallest", lambda: np.inf)
        return function(*args)


@pytest.mark.parametrize("columns", [1, 7, 64])
@pytest.mark.parametrize("name", INDICES)
def test_bits(name, columns):
    rng = np.random.default_rng(0)
    index = INDICES[name](rng)
    d = rng.standard_normal((len(index), columns)).astype(np.float32)
    d[::5] *= -0.0
    d[1::7] *= 1e30
    d[2, 0], d[3, -1], d[4] = np.nan, np.inf, -np.inf
    arguments = d, index, 9 if index.max() < 12 else index.max() + 2
    got = embedding.sums_by_index(*arguments)
    assert_same_bits(got, without(embedding.sums_by_index, *arguments))
    for laid in (np.asfortranarray(d), np.repeat(d, 2, 0)[::2]):
        assert_same_bits(embedding.sums_by_index(laid, *arguments[1:]), got)


def test_what_it_is_not_for(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError

    monkeypatch.setattr(embedding.kernels.sums_by_index, "share", refuse)
    index = np.asarray([1, 1, 0])
    assert embedding.sums_by_index(np.ones((3, 2)), index, 2).tolist() == [[1, 1], [2, 2]]
    with pytest.raises(AssertionError):
        embedding.sums_by_index(np.ones((3, 2), "float32"), index, 2)


def test_layer():
    layer = xl.Embedding.init(40, 8, rng=0)
    x = np.random.default_rng(0).integers(0, 40, (6, 9))
    dy = np.random.default_rng(1).standard_normal((6, 9, 8)).astype("float32")

    def gradient():
        layer.forward(x)
        layer.backward(dy)
        return layer.dW

    assert_same_bits(gradient(), without(gradient))
