"""Splits into a training part and one that is held out."""

from __future__ import annotations

import numpy as np
import pytest

import xplayers as xl
from xplayers.arrays.transfer import to_numpy


def parts(xpv, n=50, *options, classes=3, **more):
    t = np.arange(n) ** 2 % classes
    x = xpv.asarray(np.stack([np.arange(n), t], axis=1), "float32")
    train, test = xl.data.split(x, xpv.asarray(t), *options, **more)
    arrays = [to_numpy(a) for a in (*train, *test)]
    for x, t in (arrays[:2], arrays[2:]):
        assert np.array_equal(x[:, 1], t)  # samples keep their targets
        assert (np.diff(x[:, 0]) > 0).all()  # and their order
    assert sorted([*arrays[0][:, 0], *arrays[2][:, 0]]) == list(range(n))
    return arrays


@pytest.mark.parametrize(
    ("n", "fraction", "count"),
    [(50, 0.2, 10), (7, 0.5, 3), (2, 0.01, 1), (2, 0.99, 1), (10, 0.3, 3)],
)
def test_every_sample_is_in_one_part(xpv, n, fraction, count):
    for stratify in (False, True):
        arrays = parts(xpv, n, fraction, stratify=stratify)
        assert len(arrays[2]) == count


def test_a_seed_decides(xpv):
    first, again, other = (parts(xpv, 50, 0.2, seed)[2] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(np.diff(first[:, 0]), np.full(9, first[1, 0] - first[0, 0]))


def test_stratified_parts_have_the_same_fractions(xpv):
    for seed in range(5):
        *_, t_test = parts(xpv, 200, 0.25, seed, classes=7, stratify=True)
        counts = np.bincount(np.arange(200) ** 2 % 7, minlength=7)
        assert (abs(np.bincount(t_test, minlength=7) - counts / 4) <= 1).all()


def test_mistakes(xpv):
    x, t = xpv.asarray(np.zeros((4, 2)), "float32"), xpv.asarray(np.zeros(4), "float32")
    for fraction in (0, 1, -0.5, 2, float("nan")):
        with pytest.raises(ValueError, match="split: held_out is"):
            xl.data.split(x, t, fraction)
    with pytest.raises(ValueError, match=r"x has shape \(4, 2\), t has shape \(3,\); expected"):
        xl.data.split(x, t[:3, ...])
    with pytest.raises(ValueError, match="expected two samples or more"):
        xl.data.split(x[:1, ...], t[:1, ...])
    with pytest.raises(TypeError, match=r"t is .*float32 of shape \(4,\); expected integer labels"):
        xl.data.split(x, t, stratify=True)
