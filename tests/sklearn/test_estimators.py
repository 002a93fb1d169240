"""Estimators: the results of scikit-learn's by another import, on any library, with any network."""

import pickle

import numpy as np
import pytest
from helpers import assert_close, python

pytest.importorskip("sklearn.base")  # `sklearn` alone may be this folder

import sklearn
from scipy.sparse import csr_array
from sklearn import neural_network
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import xplayers as xl
from xplayers.arrays.transfer import to_numpy
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

X, Y = load_digits(return_X_y=True)
X, Y = X[:400] / 16.0, Y[:400]
SMALL = {"hidden_layer_sizes": (12,), "max_iter": 6, "batch_size": 64, "random_state": 3}
LABELS = np.stack([Y % 2, Y > 4, Y == 0], axis=1).astype(int)
NUMBERS = np.stack([X.sum(1), X[:, 20] - X[:, 30]], axis=1) / 10
WEIGHTS = np.random.default_rng(0).uniform(0.0, 2.0, len(X))


def pair(name, **options):
    """Return the estimator of scikit-learn and ours, with the same arguments."""
    options = {**SMALL, **options}
    ours = MLPClassifier if name == "MLPClassifier" else MLPRegressor
    return getattr(neural_network, name)(**options), ours(**options)


def assert_same(theirs, ours, X=X, tolerance=1e-9):
    for a, b in zip(
        [*theirs.coefs_, *theirs.intercepts_], [*ours.coefs_, *ours.intercepts_], strict=True
    ):
        assert_close(b, a, tolerance)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
    for name in ("best_loss_", "best_validation_score_", "loss_", "validation_scores_"):
        expected = getattr(theirs, name)
        if expected is None:
            assert getattr(ours, name) is None
        else:
            assert getattr(ours, name) == pytest.approx(expected, rel=1e-9)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "n_features_in_", "out_activation_"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name in ("predict_proba", "predict_log_proba", "predict"):
        if hasattr(theirs, name):
            expected, found = getattr(theirs, name)(X), getattr(ours, name)(X)
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


OPTIONS = {
    "adam": {},
    "logistic": {"activation": "logistic", "alpha": 0.1, "beta_1": 0.8, "epsilon": 1e-4},
    "tanh": {"activation": "tanh", "hidden_layer_sizes": (9, 7), "shuffle": False},
    "identity": {"activation": "identity", "batch_size": "auto", "hidden_layer_sizes": 5},
    "none": {"hidden_layer_sizes": (), "alpha": 0.0},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.05},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False, "momentum": 0.5},
    "plain": {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.1},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
    "adaptive": {
        "solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 0.5,
        "max_iter": 30,
    },
    "tolerance": {"n_iter_no_change": 2, "tol": 0.3, "max_iter": 40},
    "early": {"early_stopping": True, "validation_fraction": 0.2, "n_iter_no_change": 2},
    "stopped": {
        "early_stopping": True, "n_iter_no_change": 1, "max_iter": 60, "learning_rate_init": 0.02,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_a_classifier_has_the_results_of_scikit_learn(name):
    theirs, ours = pair("MLPClassifier", **OPTIONS[name])
    assert_same(theirs.fit(X, Y), ours.fit(X, Y))
    assert ours.score(X, Y) == theirs.score(X, Y)
    assert ours.classes_.tolist() == theirs.classes_.tolist()


@pytest.mark.parametrize("name", OPTIONS)
def test_a_regressor_has_the_results_of_scikit_learn(name):
    theirs, ours = pair("MLPRegressor", **OPTIONS[name])
    assert_same(theirs.fit(X, NUMBERS[:, 0]), ours.fit(X, NUMBERS[:, 0]))
    assert ours.score(X, NUMBERS[:, 0]) == pytest.approx(theirs.score(X, NUMBERS[:, 0]))


TARGETS = {
    "binary": Y > 4,
    "names": np.asarray(["even", "odd"])[Y % 2],
    "several names": np.asarray(list("abcdefghij"))[Y],
    "one": np.full(len(Y), 7),
    "labels": LABELS,
    "shifted": Y * 2 - 5,
}


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("early", [False, True], ids=["whole", "early"])
@pytest.mark.parametrize("name", TARGETS)
def test_classes_of_all_kinds(name, early, weights):
    if name == "one" and early:
        pytest.skip("no score can be better")
    theirs, ours = pair("MLPClassifier", early_stopping=early)
    y = TARGETS[name]
    theirs.fit(X, y, sample_weight=weights), ours.fit(X, y, sample_weight=weights)
    if name == "one":  # of which scikit-learn has two probabilities
        assert ours.predict_proba(X).shape == (len(X), 1)
        assert set(ours.predict(X)) == {7}
        return
    if y.dtype.kind == "U":
        assert ours.predict(X).tolist() == theirs.predict(X).tolist()
        return
    assert_same(theirs, ours)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.parametrize("y", [NUMBERS, NUMBERS[:, :1], NUMBERS[:, 0]], ids=["two", "one", "flat"])
def test_outputs_and_losses_of_regressors(y, loss):
    y = np.abs(y) if loss == "poisson" else y
    theirs, ours = pair("MLPRegressor", loss=loss)
    y = y[:, 0] if y.shape[1:] == (1,) else y
    assert_same(theirs.fit(X, y, WEIGHTS), ours.fit(X, y, WEIGHTS))


def test_partial_fit_and_warm_start_continue():
    for theirs, ours in (pair("MLPClassifier"), pair("MLPClassifier", solver="sgd")):
        for part in (slice(0, 150), slice(150, 400), slice(0, 90)):
            for each in (theirs, ours):
                each.partial_fit(X[part], Y[part], WEIGHTS[part], classes=np.arange(10))
        assert_same(theirs, ours)
    theirs, ours = pair("MLPClassifier", warm_start=True)
    for _ in range(2):
        theirs.fit(X, Y), ours.fit(X, Y)
    assert_same(theirs, ours)
    assert len(ours.loss_curve_) == 12
    theirs, ours = pair("MLPRegressor")
    for _ in range(3):
        theirs.partial_fit(X, NUMBERS), ours.partial_fit(X, NUMBERS)
    assert_same(theirs, ours)
    again = ours.fit(X, NUMBERS)
    assert len(again.loss_curve_) == 6


def test_sparse_samples_are_those_that_they_stand_for():
    for early in (False, True):
        dense = MLPClassifier(**SMALL, early_stopping=early).fit(X, Y, WEIGHTS)
        sparse = MLPClassifier(**SMALL, early_stopping=early).fit(csr_array(X), Y, WEIGHTS)
        for a, b in zip(dense.coefs_, sparse.coefs_, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(dense.predict(X), sparse.predict(csr_array(X)))


def test_weights_of_classes_are_weights_of_samples():
    weights = {k: 1.0 + k for k in range(10)}
    a = MLPClassifier(**SMALL, class_weight=weights).fit(X, Y, WEIGHTS)
    b = MLPClassifier(**SMALL).fit(X, Y, WEIGHTS * (1.0 + Y))
    assert a.loss_ == pytest.approx(b.loss_)
    balanced = MLPClassifier(**SMALL, class_weight="balanced").fit(X, Y)
    by_hand = len(Y) / (10 * np.bincount(Y)[Y])
    assert balanced.loss_ == pytest.approx(MLPClassifier(**SMALL).fit(X, Y, by_hand).loss_)
    with pytest.raises(ValueError, match="'balanced' needs all samples at once"):
        MLPClassifier(class_weight="balanced").partial_fit(X, Y, classes=np.arange(10))


def test_steps_are_replayed_in_the_dtype_of_the_samples():
    for dtype in ("float32", "float64"):
        model = MLPClassifier(**SMALL).fit(X.astype(dtype), Y)
        assert {a.dtype.name for a in model.coefs_} == {dtype}
        assert model.predict_proba(X.astype(dtype)).dtype == dtype
        replays = model._step._compiled[np.ndarray].replays.replays
        assert len(replays) == 2  # of whole batches, and of the last


def test_in_a_pipeline_a_search_a_clone_and_a_pickle():
    model = make_pipeline(StandardScaler(), MLPClassifier(**SMALL, learning_rate_init=0.02))
    grid = {"mlpclassifier__alpha": [1e-4, 1.0], "mlpclassifier__solver": ["adam", "sgd"]}
    search = GridSearchCV(model, grid, n_jobs=2, cv=2).fit(X, Y)
    assert len(search.cv_results_["mean_test_score"]) == 4
    assert search.best_score_ > 0.2
    best = search.best_estimator_
    again = pickle.loads(pickle.dumps(best))
    np.testing.assert_array_equal(again.predict_proba(X), best.predict_proba(X))
    copy = clone(best)
    assert not hasattr(copy[-1], "net_")
    np.testing.assert_array_equal(copy.fit(X, Y).predict(X), best.predict(X))
    model = pickle.loads(pickle.dumps(MLPClassifier(**SMALL).partial_fit(X, Y, classes=range(10))))
    other = MLPClassifier(**SMALL).partial_fit(X, Y, classes=range(10)).partial_fit(X, Y)
    assert model.partial_fit(X, Y).loss_ == other.loss_


PLACES = [("array_api_strict", "CPU_DEVICE"), ("array_api_strict", "device1"), ("torch", "cpu")]


@pytest.mark.parametrize(("name", "device"), PLACES)
@pytest.mark.parametrize("early", [False, True], ids=["whole", "early"])
def test_arrays_of_other_libraries_stay_where_they_are(name, device, early):
    xp = pytest.importorskip(name)
    device = xp.Device(device) if name == "array_api_strict" else xp.device(device)
    x = xp.asarray(X, device=device)
    options = {**SMALL, "early_stopping": early}
    with sklearn.config_context(array_api_dispatch=True):
        for model, y, methods in (
            (MLPClassifier(**options), Y, ("predict", "predict_proba", "predict_log_proba")),
            (MLPClassifier(**options), LABELS, ("predict", "predict_proba")),
            (MLPClassifier(**options), Y > 4, ("predict", "predict_proba")),
            (MLPRegressor(**options), NUMBERS, ("predict",)),
        ):
            here = clone(model).fit(X, y, WEIGHTS)
            there = model.fit(x, xp.asarray(y, device=device), xp.asarray(WEIGHTS, device=device))
            assert there.loss_curve_ == pytest.approx(here.loss_curve_, rel=1e-9)
            for method in methods:
                found, expected = getattr(there, method)(x), getattr(here, method)(X)
                assert type(found) is type(x)
                assert found.device == device
                assert_close(to_numpy(found), expected, 1e-8)
            assert there.score(x, xp.asarray(y, device=device)) == pytest.approx(here.score(X, y))
        words = MLPClassifier(**options).fit(x, np.asarray(list("abcdefghij"))[Y])
        assert set(words.predict(x)) <= set("abcdefghij")
        with pytest.raises(ValueError, match="must use the same namespace and the same device"):
            words.predict(X)


@pytest.mark.parametrize("early", [False, True], ids=["whole", "early"])
def test_arrays_of_jax(early):
    """scikit-learn's own checks have none; they stay there too, in the 32 bits of JAX."""
    jax = pytest.importorskip("jax")
    x, options = jax.numpy.asarray(X, dtype="float32"), {**SMALL, "early_stopping": early}
    with sklearn.config_context(array_api_dispatch=True):
        for model, y in ((MLPClassifier(**options), Y), (MLPRegressor(**options), NUMBERS)):
            y = np.asarray(y, "int32" if is_classifier(model) else "float32")
            here = clone(model).fit(np.asarray(x), y)
            there = model.fit(x, jax.numpy.asarray(y))
            assert there.loss_curve_ == pytest.approx(here.loss_curve_, rel=1e-3)
            found = there.predict(x)
            assert isinstance(found, jax.Array)
            assert found.dtype == y.dtype
            expected = here.predict(np.asarray(x))
            if is_classifier(model):
                score = there.score(x, jax.numpy.asarray(y))
                assert score == pytest.approx(here.score(np.asarray(x), y), abs=0.02)
            else:  # whose score, scikit-learn's R2, writes into arrays, which JAX has not
                np.testing.assert_allclose(found, expected, atol=1e-2 * np.abs(expected).max())


# Networks


def image_network(shape, outputs, rng):
    channels, height, width = shape
    return xl.Sequential(
        xl.Convolution.init(channels, 4, 3, rng=rng, padding=1),
        xl.Relu(),
        xl.MaxPooling(2),
        xl.Flatten(),
        xl.Affine.init(4 * (height // 2) * (width // 2), outputs, rng=rng),
    )


def wide_network(shape, outputs, rng):
    return xl.mlp([*shape, 16, outputs], xl.Tanh, rng)


def test_networks_of_any_kind():
    images = X.reshape(-1, 1, 8, 8)
    options = {"max_iter": 30, "random_state": 0, "learning_rate_init": 0.01}
    model = NetClassifier(image_network, **options).fit(images[:300], Y[:300])
    assert model.score(images[300:], Y[300:]) > 0.85
    assert model.predict_proba(images).shape == (400, 10)
    assert isinstance(model.net_[0], xl.Convolution)
    again = clone(model).fit(images[:300], Y[:300])
    np.testing.assert_array_equal(model.predict_proba(images), again.predict_proba(images))
    binary = NetClassifier(wide_network, solver=xl.AdamW(0.01), max_iter=20, random_state=0)
    assert binary.fit(X, Y > 4).score(X, Y > 4) > 0.8
    assert binary.solver.state is None  # the argument is as it was
    huber = NetRegressor(wide_network, xl.Huber(), learning_rate_init=0.01, random_state=0)
    assert huber.fit(X, NUMBERS[:, 0]).score(X, NUMBERS[:, 0]) > 0.5


def test_a_network_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"makes \(1, 3\) of one sample; expected \(1, 10\)"):
        NetClassifier(lambda shape, outputs, rng: wide_network(shape, 3, rng)).fit(X, Y)
    with pytest.raises(TypeError, match=r"build\(shape, outputs, rng\) is .*; expected a network"):
        NetClassifier(lambda shape, outputs, rng: None).fit(X, Y)
    with pytest.raises(
        TypeError, match="build is 3; expected a function of shape, outputs and rng"
    ):
        NetClassifier(3).fit(X, Y)


# Words


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"solver": "lbfgs"}, ValueError, "solver is 'lbfgs', which needs .* sklearn.neural_net"),
        ({"solver": "rmsprop"}, ValueError, "solver is 'rmsprop'; expected 'adam' or 'sgd'"),
        ({"activation": "elu"}, ValueError, "activation is 'elu'; expected"),
        ({"learning_rate": 0.1}, (ValueError, TypeError), "learning_rate is 0.1; expected"),
        ({"alpha": -1.0}, ValueError, "alpha is -1"),
        ({"batch_size": 0}, ValueError, "batch_size is 0; expected 1 or more, or 'auto'"),
        ({"max_iter": 0}, ValueError, "max_iter is 0"),
        ({"hidden_layer_sizes": (5, 0)}, ValueError, r"hidden_layer_sizes is \[5, 0\]; expected"),
        ({"early_stopping": "yes"}, TypeError, "early_stopping is 'yes'; expected True or False"),
        ({"validation_fraction": 1.0}, ValueError, "validation_fraction is 1"),
        ({"beta_1": 1.0}, ValueError, "beta_1 is 1"),
        ({"learning_rate_init": 0.0}, ValueError, "learning_rate_init is 0"),
        ({"learning_rate_init": 1e300}, ValueError, "non-finite parameter weights"),
        ({"early_stopping": True, "validation_fraction": 0.002}, ValueError, "set is too small"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_wrong_arguments_are_named_in_fit(options, error, words):
    with pytest.raises(error, match=words):
        MLPClassifier(**{**SMALL, **options}).fit(X, Y)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (-WEIGHTS, "Negative values in data passed to `sample_weight`"),
        (WEIGHTS * np.nan, "sample_weight contains NaN"),
        (WEIGHTS * 0, "at least one non-zero"),
        (WEIGHTS[1:], "sample_weight.shape"),
    ],
)
def test_wrong_weights(weights, words):
    with pytest.raises(ValueError, match=words):
        MLPClassifier(**SMALL).fit(X, Y, sample_weight=weights)


def test_classes_that_were_not_there():
    model = MLPClassifier(**SMALL).partial_fit(X, Y, classes=range(10))
    with pytest.raises(ValueError, match=r"y has classes \[11\] not in those of the first fit"):
        model.partial_fit(X, np.where(Y == 3, 11, Y))
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        MLPClassifier(**SMALL).partial_fit(X, Y)
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping"):
        MLPClassifier(early_stopping=True).partial_fit(X, Y, classes=range(10))
    warm = MLPClassifier(**SMALL, warm_start=True).fit(X, Y)
    with pytest.raises(ValueError, match="warm_start can only be used"):
        warm.fit(X[Y < 9], Y[Y < 9])
    with pytest.raises(ValueError, match="loss='poisson' needs y of 0 or more; got -1"):
        MLPRegressor("poisson").fit(X, -np.ones(len(X)))


def test_without_scikit_learn_the_import_says_what_to_install():
    code = "import sys; sys.modules['sklearn'] = None; import xplayers.sklearn"
    result = python("-c", code)
    assert result.returncode == 1
    assert 'pip install "xplayers[sklearn]"' in result.stderr.splitlines()[-1]
    code = "import sys, xplayers; print('sklearn' in sys.modules)"
    assert python("-c", code).stdout.strip() == "False"
