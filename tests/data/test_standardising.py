"""Standardisation: as scikit-learn does, in float64, whatever the samples are."""

import numpy as np
import pytest

from xplayers.data import samples, standardising

pytestmark = pytest.mark.host

rng = np.random.default_rng(0)
NOISE = rng.standard_normal((500, 1))
COLUMNS = {
    "usual": NOISE,
    "zero": np.zeros((500, 1)),
    "0.1": np.full((500, 1), 0.1),
    "14.62": np.full((500, 1), 14.62),
    "1000.1": np.full((500, 1), 1000.1),
    "1e9 alone": np.full((500, 1), 1e9 + 1 / 3),
    "1e-25 alone": np.full((500, 1), 1e-25),
    "rounding": 14.62 + 1e-15 * NOISE,
    "less than rounding": 1e9 + 1e-9 * NOISE,
    "small": 14.62 + 1e-9 * NOISE,
    "1e9": 1e9 + NOISE,
    "1e15": 1e15 + 1000 * NOISE,
    "1e-25": 1e-25 * NOISE,
    "1e-150": 1e-150 * NOISE,
    "1e150": 1e150 * NOISE,
    "one of another value": np.where(np.arange(500)[:, None] == 7, 3.0, 14.62),
}


@pytest.mark.parametrize("block", [2**23, 2**10], ids=["whole", "blocks"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", "bool"])
def test_it_is_what_scikit_learn_does(monkeypatch, dtype, block):
    scalers = pytest.importorskip("sklearn.preprocessing")
    monkeypatch.setattr(samples, "BLOCK", block)
    x = np.concatenate(list(COLUMNS.values()), axis=1)
    if dtype != "float64":
        with np.errstate(all="ignore"):
            x = x.astype(dtype)
        x = x[:, np.isfinite(x).all(axis=0)]
    scaler = scalers.StandardScaler().fit(x.astype("float64"))
    standard = standardising.standard(x)
    np.testing.assert_allclose(standard.mean, scaler.mean_, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(standard.scale, scaler.scale_, rtol=1e-6)
    assert list(standard.constant) == np.flatnonzero(scaler.scale_ == 1.0).tolist()


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_that_are_almost_constant_are_not_scaled(name):
    x = COLUMNS[name]
    standard = standardising.standard(x)
    alone = name in ("zero", "rounding", "less than rounding") or name.endswith("alone")
    alone = alone or name in ("0.1", "14.62", "1000.1")
    assert standard.constant == ((0,) if alone else ())
    if alone:
        assert standard.scale == (1.0,)
    if alone and "rounding" not in name:
        assert standard.mean == (x[0, 0],)


@pytest.mark.parametrize("shape", [(40, 6, 6), (40, 3, 4, 4), (40, 10_001)], ids=str)
@pytest.mark.parametrize(("low", "high"), [(1e9, 1e9 + 1), (0, 1e-25), (1e-30, 3e-30), (-1, 1)])
def test_images_and_wide_tables_have_one_deviation_in_float64(shape, low, high):
    x = rng.uniform(low, high, shape)
    standard = standardising.standard(x)
    np.testing.assert_allclose(standard.scale, (high - low) / 12**0.5, rtol=0.05)
    z = (x - standard.mean) / standard.scale
    assert abs(z.mean()) < 1e-3
    np.testing.assert_allclose(z.std(), 1, rtol=1e-6)


def test_images_of_float32():
    x = rng.uniform(1e9, 1.001e9, (40, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(standardising.standard(x).scale, np.std(x, dtype=float), rtol=1e-9)


def test_a_file_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "BLOCK", 2**10)
    x = rng.normal(5, 2, (3000, 4))
    np.save(tmp_path / "x.npy", x)
    standard = standardising.standard(np.load(tmp_path / "x.npy", mmap_mode="r"))
    np.testing.assert_allclose(standard.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(standard.scale, x.std(axis=0), rtol=1e-12)


def test_integers_do_not_wrap():
    x = np.asarray([[250], [3], [255], [0]], np.uint8)
    standard = standardising.standard(x)
    assert standard.mean == (127.0,)
    np.testing.assert_allclose(standard.scale, np.std(x))


def test_values_too_far_apart():
    with pytest.raises(ValueError, match="the sum of column 1 overflows"):
        standardising.standard(np.asarray([[0, -1.7e308], [0, 1.7e308]]))
