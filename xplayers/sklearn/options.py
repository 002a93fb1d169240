"""The options of training that all estimators have, and what they may be."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping
from numbers import Integral
from typing import Any, TypeVar

import array_api_compat
import numpy as np
from sklearn import get_config  # pyright: ignore[reportAttributeAccessIssue]

from xplayers._checks import choice, flag, integer, number, positive
from xplayers.arrays.namespaces import namespace, widest_floating
from xplayers.layers import Relu, Sigmoid, Tanh
from xplayers.losses import Loss
from xplayers.optimizers import Optimizer

_Estimator = TypeVar("_Estimator")

ACTIVATIONS = {"identity": None, "logistic": Sigmoid, "tanh": Tanh, "relu": Relu}


# What the docstring of every estimator has for "As in every estimator."
_COMMON = (
    """\
batch_size : int or "auto"
    Samples per step; "auto": at most 200.
learning_rate : {"constant", "invscaling", "adaptive"}
    Of "sgd": constant, over ``t ** power_t`` after ``t`` samples, or divided by 5 whenever
    there is no improvement.
learning_rate_init, power_t : float
    The learning rate, and the exponent of "invscaling".
max_iter : int
    Maximum number of epochs.
shuffle : bool
    Whether the samples come in another order in each epoch.
random_state : int, RandomState or None
    Of the initial values, the order of samples, and what is held out.
tol : float
    By how much the loss, or the score of what is held out, has to improve.
verbose : bool
    Whether to show the losses, on stderr.
warm_start : bool
    Whether `fit` continues with the network of the last one.
momentum, nesterovs_momentum : float, bool
    Of "sgd".
early_stopping : bool
    Hold out samples, stop when their score does not improve, and keep the best network.
validation_fraction : float
    The fraction of the samples that is held out.
beta_1, beta_2, epsilon : float
    Of "adam".
n_iter_no_change : int
    Epochs without improvement after which training stops.
""",
    """\
net_ : Layer
    The network, for whatever this package does with networks.
loss_curve_, loss_, best_loss_ : list of float, float
    The loss of each epoch, the last one, and the best one.
validation_scores_, best_validation_score_ : list of float, float
    With `early_stopping`, the scores of what was held out.
n_iter_, t_ : int
    Epochs and samples so far.
n_outputs_, n_features_in_ : int
    Scores and features of a sample.
""",
)


def documented(estimator: type[_Estimator]) -> type[_Estimator]:
    """Complete the docstring of an estimator: its options of training, and its attributes."""
    text = estimator.__doc__ or ""
    for common in _COMMON:
        names = re.findall(r"^([\w, ]+) :", common, re.M)
        first, last = names[0], names[-1].rpartition(" ")[2]
        reference = f"    {first}, {last}\n        As in every estimator.\n"
        text = text.replace(reference, textwrap.indent(common, "    "))
    estimator.__doc__ = text
    return estimator


def store(estimator: Any, arguments: Mapping[str, Any]) -> None:
    """Set the arguments of a constructor as they are, which is all that scikit-learn lets it do."""
    for name, value in arguments.items():
        if name not in ("self", "__class__"):
            setattr(estimator, name, value)


class Options:
    """The options, by the names of scikit-learn's multilayer perceptron."""

    solver: Any
    alpha: float
    batch_size: Any
    learning_rate: str
    learning_rate_init: float
    power_t: float
    max_iter: int
    shuffle: bool
    random_state: Any
    tol: float
    verbose: Any
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    _allow_nd = False  # whether samples may have more axes


def check_options(estimator: Any) -> None:
    """Check the values of all options, as scikit-learn does it in `fit`."""
    name, options = type(estimator).__name__, estimator.get_params(deep=False)
    if isinstance(options["solver"], str) and options["solver"] == "lbfgs":
        message = (
            f"{name}: solver is 'lbfgs', which needs the loss of all samples again and again; here "
            "are 'adam' and 'sgd', which take batches. sklearn.neural_network has it."
        )
        raise ValueError(message)
    if not ("build" in options and isinstance(options["solver"], Optimizer)):
        choice(name, "solver", options["solver"], ("adam", "sgd"))
    choice(name, "learning_rate", options["learning_rate"], ("constant", "invscaling", "adaptive"))
    if options["batch_size"] != "auto":
        integer(name, "batch_size", options["batch_size"], in_range="1 or more, or 'auto'")
    integer(name, "max_iter", options["max_iter"])
    if options["n_iter_no_change"] != math.inf:
        integer(name, "n_iter_no_change", options["n_iter_no_change"])
    for flagged in ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping"):
        flag(name, flagged, options[flagged])
    for key in ("alpha", "power_t", "tol"):
        number(name, key, options[key], least=0)
    for key in ("learning_rate_init", "epsilon"):
        positive(name, key, options[key])
    for key in ("validation_fraction", "beta_1", "beta_2", "momentum"):
        number(name, key, options[key], least=0, below=1)
    if "activation" in options:
        choice(name, "activation", options["activation"], tuple(ACTIVATIONS))
    loss = options.get("loss", "squared_error")
    if not ("build" in options and isinstance(loss, Loss)):
        choice(name, "loss", loss, ("squared_error", "poisson"))


def dispatches() -> bool:
    """Whether scikit-learn takes arrays of other libraries as they are."""
    return bool(get_config()["array_api_dispatch"])


def floating_dtypes(X: Any) -> Any:
    """Return the dtypes that samples may keep, the first of which others become."""
    if not dispatches() or isinstance(X, np.ndarray) or not array_api_compat.is_array_api_obj(X):
        return np.float64, np.float32
    xp, widest = namespace(X), widest_floating(X)
    return [widest] if widest == xp.float32 else [widest, xp.float32]


def integers(name: str, sizes: Any) -> list[int]:
    """Return the widths of hidden layers, of which one may be a number."""
    sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
            message = f"{name}: hidden_layer_sizes is {sizes}; expected integers from 1."
            raise ValueError(message)
    return [int(size) for size in sizes]
