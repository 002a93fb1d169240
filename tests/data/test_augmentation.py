"""Images changed at random: against loops over images, on every library."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_at_home, assert_same_bits

import xplayers as xl
from xplayers.arrays.transfer import to_numpy
from xplayers.data import random_flip, random_shift

IMAGES = np.random.default_rng(0).normal(size=(30, 2, 5, 4)).astype("float32")


def shifted(images, largest, seed):
    """Cut each image out of itself with a border of zeros."""
    down, right = np.random.default_rng(seed).integers(
        -largest, largest, (2, len(images)), endpoint=True
    )
    shifted = np.empty_like(images)
    height, width = images.shape[2:]
    for i, image in enumerate(images):
        padded = np.pad(image, ((0, 0), (largest, largest), (largest, largest)))
        y, x = largest + down[i], largest + right[i]
        shifted[i] = padded[:, y : y + height, x : x + width]
    return shifted


def test_shifts(xpv):
    x = xpv.asarray(IMAGES)
    y = random_shift(x, 2, 7)
    assert_at_home(y, x)
    assert_same_bits(y, shifted(IMAGES, 2, 7))
    assert_same_bits(x, IMAGES)


def test_flips(xpv):
    x = xpv.asarray(IMAGES)
    y = random_flip(x, 7)
    assert_at_home(y, x)
    chosen = np.random.default_rng(7).integers(0, 2, len(IMAGES)) == 1
    assert 5 < chosen.sum() < 25
    expected = np.where(chosen[:, None, None, None], IMAGES[..., ::-1], IMAGES)
    assert_same_bits(y, expected)
    assert_same_bits(x, IMAGES)


@pytest.mark.parametrize("largest", [0, 1, 4, 9])
def test_shifts_beyond_the_image(largest):
    assert_same_bits(random_shift(IMAGES, largest, 1), shifted(IMAGES, largest, 1))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float64", "bool"])
def test_dtypes_stay(dtype):
    x = (IMAGES > 0).astype(dtype)
    assert_same_bits(random_shift(x, 1, 1), shifted(x, 1, 1))
    assert random_flip(x, 1).dtype == x.dtype


def test_all_shifts_occur_alike():
    n = 9000
    x = np.zeros((n, 1, 3, 3), "int64")
    x[:, 0, 1, 1] = 1
    counts = random_shift(x, 1, 0).sum(axis=(0, 1))
    assert counts.sum() == n
    assert np.abs(counts - n / 9).max() < 5 * np.sqrt(n / 9)


def test_values_that_are_not_finite_stay_in_their_place():
    x = IMAGES.copy()
    x[:, :, 2, 2] = np.nan
    assert_same_bits(random_shift(x, 1, 0), shifted(x, 1, 0))


def test_a_seed_decides_and_a_generator_goes_on():
    assert_same_bits(random_shift(IMAGES, 2, 3), random_shift(IMAGES, 2, 3))
    rng = np.random.default_rng(3)
    first, second = random_shift(IMAGES, 2, rng), random_shift(IMAGES, 2, rng)
    assert_same_bits(first, random_shift(IMAGES, 2, 3))
    assert (first != second).any()


def test_no_images():
    assert random_shift(IMAGES[:0], 1, 0).shape == (0, 2, 5, 4)
    assert random_flip(IMAGES[:0], 0).shape == (0, 2, 5, 4)


def test_nothing_shares_memory():
    x = IMAGES.copy()
    for y in (random_shift(x, 0, 0), random_flip(x, 0)):
        assert not np.shares_memory(x, y)


def test_refusals():
    with pytest.raises(ValueError, match=r"random_shift: x has shape \(3, 4\); expected images"):
        random_shift(np.zeros((3, 4)), 1)
    with pytest.raises(ValueError, match=r"random_flip: x has shape \(3, 4\); expected images"):
        random_flip(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="largest is -1; expected 0 or more"):
        random_shift(IMAGES, -1)


def test_with_batches():
    def changed(x, rng):
        return random_flip(random_shift(x, 1, rng), rng)

    batches = xl.Batches(IMAGES, np.arange(30), 10, 4, transform=changed)
    plain = xl.Batches(IMAGES, np.arange(30), 10, 4)
    for (x, t), (x2, t2) in zip(batches(0), plain(0), strict=True):
        assert_same_bits(t, t2)
        assert (to_numpy(x) != x2).any()
