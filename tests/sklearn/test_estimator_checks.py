"""scikit-learn's own checks of estimators, those of arrays of other libraries among them."""

import functools
import importlib

import pytest

pytest.importorskip("sklearn.base")  # `sklearn` alone may be this folder

from sklearn.utils.estimator_checks import parametrize_with_checks

import xplayers as xl
from xplayers.sklearn import (
    MLPClassifier,
    MLPRegressor,
    NetClassifier,
    NetRegressor,
)

pytestmark = [
    pytest.mark.host,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


class Normalized:
    """Builds a network; its name is the same in every process, as those of tests have to be."""

    def __repr__(self):
        return "Normalized()"

    def __call__(self, shape, outputs, rng):
        hidden = xl.Affine.init(*shape, 20, rng=rng)
        last = xl.Affine.init(20, outputs, rng=rng)
        return xl.Sequential(hidden, xl.LayerNormalization.init(20), xl.Relu(), last)


@functools.cache
def is_usable(library):
    """Whether a library has a device here: some are installed where there is none."""
    try:
        importlib.import_module(library).ones(1) + 1
    except Exception:
        return False
    return True


@parametrize_with_checks(
    [
        MLPClassifier(max_iter=100),
        MLPRegressor(max_iter=100),
        NetClassifier(Normalized(), max_iter=100, learning_rate_init=0.01),
        NetRegressor(Normalized(), max_iter=100, learning_rate_init=0.01),
    ]
)
def test_checks_of_scikit_learn(estimator, check):
    library = getattr(check, "keywords", {}).get("array_namespace", "numpy")
    if library in ("cupy", "dpnp") and not is_usable(library):
        pytest.skip(f"{library} finds no device here")
    check(estimator)
