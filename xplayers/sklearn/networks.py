"""`NetClassifier` and `NetRegressor`: any network as an estimator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xplayers._checks import function, instance
from xplayers.layers.base import Layer
from xplayers.sklearn.options import documented, store
from xplayers.sklearn.targets import Classifier, Regressor


class Built:
    """A network that a function makes."""

    build: Callable[[tuple[int, ...], int, np.random.Generator], Layer]
    _random_state: Any
    _allow_nd = True

    def _network(self, shape: tuple[int, ...], outputs: int) -> Layer:
        owner = type(self).__name__
        function(owner, "build", self.build, "a function of shape, outputs and rng")
        rng = np.random.default_rng(self._random_state.randint(2**31))
        net = self.build(shape, outputs, rng)
        return instance(owner, "build(shape, outputs, rng)", net, Layer, "a network, as Sequential")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # pyright: ignore[reportAttributeAccessIssue]
        tags.input_tags.three_d_array = True
        return tags


@documented
class NetClassifier(Built, Classifier):
    """Any network for classes, trained as `MLPClassifier` trains its own.

    Parameters
    ----------
    build : callable
        ``build(shape, outputs, rng)`` makes the network, a `Layer`: for samples of a shape, as
        ``(64,)``, and so many scores, with a NumPy generator for its initial values. Two classes
        have one score, more have one each.
    solver : {"adam", "sgd"} or Optimizer
        The optimizer, as ``"adam"`` or ``AdamW(0.001)``, which is copied and has a learning rate of
        its own.
    alpha : float
        Coefficient of the L2 penalty, over the samples of a batch, of parameters with two axes.
    batch_size, n_iter_no_change
        As in every estimator.
    class_weight : dict, "balanced" or None
        Weights of the classes, which multiply those of the samples.

    Attributes
    ----------
    classes_ : numpy.ndarray
        The classes.
    net_, n_features_in_
        As in every estimator.

    Raises
    ------
    ValueError, TypeError
        In `fit`, if an argument is out of range or of the wrong type, or the network makes other
        scores.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> import xplayers as xl
    >>> from xplayers.sklearn import NetClassifier
    >>> def build(shape, outputs, rng):
    ...     return xl.Sequential(
    ...         xl.Convolution.init(1, 8, 3, rng=rng, padding=1), xl.Relu(), xl.MaxPooling(2),
    ...         xl.Flatten(), xl.Affine.init(8 * 4 * 4, outputs, rng=rng),
    ...     )
    >>> X, y = load_digits(return_X_y=True)
    >>> X = (X / 16.0).reshape(-1, 1, 8, 8)
    >>> model = NetClassifier(build, learning_rate_init=0.01, tol=0.01, random_state=0)
    >>> model.fit(X[:1500], y[:1500]).score(X[1500:], y[1500:]) > 0.85
    True
    """

    def __init__(
        self,
        build,
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        class_weight=None,
    ):
        store(self, locals())


@documented
class NetRegressor(Built, Regressor):
    """Any network for numbers, trained as `MLPRegressor` trains its own.

    Parameters
    ----------
    build : callable
        ``build(shape, outputs, rng)`` makes the network, a `Layer`: for samples of a shape, as
        ``(64,)``, and so many scores, with a NumPy generator for its initial values.
    loss : {"squared_error", "poisson"} or Loss
        As of `MLPRegressor`; or a loss, as ``Huber()``.
    solver : {"adam", "sgd"} or Optimizer
        The optimizer, as ``"adam"`` or ``AdamW(0.001)``, which is copied and has a learning rate of
        its own.
    alpha : float
        Coefficient of the L2 penalty, over the samples of a batch, of parameters with two axes.
    batch_size, n_iter_no_change
        As in every estimator.

    Attributes
    ----------
    net_, n_features_in_
        As in every estimator.

    Raises
    ------
    ValueError, TypeError
        In `fit`, if an argument is out of range or of the wrong type, or the network makes other
        scores.

    Examples
    --------
    >>> import numpy as np
    >>> import xplayers as xl
    >>> from xplayers.sklearn import NetRegressor
    >>> def build(shape, outputs, rng):
    ...     return xl.mlp([*shape, 32, outputs], xl.Gelu, rng)
    >>> X = np.linspace(-1.0, 1.0, 200)[:, None]
    >>> model = NetRegressor(build, xl.Huber(), solver=xl.AdamW(0.01), random_state=0)
    >>> model.fit(X, X[:, 0] ** 2).score(X, X[:, 0] ** 2) > 0.98
    True
    """

    def __init__(
        self,
        build,
        loss="squared_error",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
    ):
        store(self, locals())
