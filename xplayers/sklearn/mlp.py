"""`MLPClassifier` and `MLPRegressor`, with the arguments and the results of scikit-learn's."""

from __future__ import annotations

import itertools
import math
from typing import Any

from xplayers.arrays.namespaces import Array
from xplayers.layers import Affine, Sequential
from xplayers.layers.base import Layer
from xplayers.sklearn.options import ACTIVATIONS, documented, integers, store
from xplayers.sklearn.targets import Classifier, Regressor


class Perceptron:
    """A multilayer perceptron, which begins with the numbers of scikit-learn's."""

    hidden_layer_sizes: Any
    activation: str
    net_: Layer
    _random_state: Any

    def _network(self, shape: tuple[int, ...], outputs: int) -> Layer:
        hidden = integers(type(self).__name__, self.hidden_layer_sizes)
        sizes, kind = [*shape, *hidden, outputs], ACTIVATIONS[self.activation]
        self.n_layers_, layers = len(sizes), []
        for n, m in itertools.pairwise(sizes):
            bound = math.sqrt((2.0 if self.activation == "logistic" else 6.0) / (n + m))
            W, b = (self._random_state.uniform(-bound, bound, size) for size in ((n, m), m))
            layers += [Affine(W, b), *([] if kind is None else [kind()])]
        return Sequential(*layers) if kind is None else Sequential(*layers[:-1])

    @property
    def coefs_(self) -> list[Array]:
        """The weights of the layers, the arrays of `net_`."""
        return [a for name, a in self.net_.params.items() if name.endswith("W")]

    @property
    def intercepts_(self) -> list[Array]:
        """The biases of the layers, the arrays of `net_`."""
        return [a for name, a in self.net_.params.items() if name.endswith("b")]


@documented
class MLPClassifier(Perceptron, Classifier):
    """Multilayer perceptron for classes, as `sklearn.neural_network.MLPClassifier`.

    With the same `random_state` it gives the same results up to rounding. It takes arrays of any
    library too, on their device: ``sklearn.set_config(array_api_dispatch=True)``.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int
        The widths of the hidden layers.
    activation : {"relu", "tanh", "logistic", "identity"}
        The function between them.
    solver : {"adam", "sgd"}
        The optimizer. There is no "lbfgs", which does not take batches.
    alpha : float
        Coefficient of the L2 penalty of the weights, over the samples of a batch.
    batch_size, n_iter_no_change
        As in every estimator.
    max_fun : int
        Of "lbfgs": without use here, so that the arguments are those of scikit-learn.
    class_weight : dict, "balanced" or None
        Weights of the classes, which multiply those of the samples.

    Attributes
    ----------
    classes_ : numpy.ndarray
        The classes.
    coefs_, intercepts_ : list of array
        Weights and biases of the layers.
    net_, n_features_in_
        As in every estimator.
    n_layers_, out_activation_ : int, str
        The number of layers, input and output among them, and the function of the last.

    Raises
    ------
    ValueError, TypeError
        In `fit`, if an argument is out of range, or of the wrong type.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from xplayers.sklearn import MLPClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = MLPClassifier(tol=0.01, random_state=0).fit(X[:1500], y[:1500])
    >>> model.score(X[1500:], y[1500:]) > 0.85
    True
    """

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
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
        max_fun=15000,
        class_weight=None,
    ):
        store(self, locals())

    @property
    def out_activation_(self) -> str:
        """The function of the last layer."""
        return "logistic" if self._multilabel or self.n_outputs_ == 1 else "softmax"


@documented
class MLPRegressor(Perceptron, Regressor):
    """Multilayer perceptron for numbers, as `sklearn.neural_network.MLPRegressor`.

    Parameters
    ----------
    loss : {"squared_error", "poisson"}
        Half of the squared error; or half of the Poisson deviance of ``exp`` of the last layer, for
        counts.
    hidden_layer_sizes : sequence of int
        The widths of the hidden layers.
    activation : {"relu", "tanh", "logistic", "identity"}
        The function between them.
    solver : {"adam", "sgd"}
        The optimizer. There is no "lbfgs", which does not take batches.
    alpha : float
        Coefficient of the L2 penalty of the weights, over the samples of a batch.
    batch_size, n_iter_no_change
        As in every estimator.
    max_fun : int
        Of "lbfgs": without use here, so that the arguments are those of scikit-learn.

    Attributes
    ----------
    coefs_, intercepts_ : list of array
        Weights and biases of the layers.
    net_, n_features_in_
        As in every estimator.
    n_layers_, out_activation_ : int, str
        The number of layers, input and output among them, and the function of the last.

    Raises
    ------
    ValueError, TypeError
        In `fit`, if an argument is out of range, or of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from xplayers.sklearn import MLPRegressor
    >>> X = np.linspace(-1.0, 1.0, 200)[:, None]
    >>> model = MLPRegressor(learning_rate_init=0.01, random_state=0).fit(X, X[:, 0] ** 2)
    >>> model.score(X, X[:, 0] ** 2) > 0.9
    True
    """

    def __init__(
        self,
        loss="squared_error",
        hidden_layer_sizes=(100,),
        activation="relu",
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
        max_fun=15000,
    ):
        store(self, locals())

    @property
    def out_activation_(self) -> str:
        """The function of the last layer."""
        return "exp" if self.loss == "poisson" else "identity"
