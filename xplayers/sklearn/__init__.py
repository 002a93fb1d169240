"""Estimators of scikit-learn: networks with `fit` and `predict`, for arrays of any library.

The extra is ``xplayers[sklearn]``. `MLPClassifier` and `MLPRegressor` take the arguments of those
of scikit-learn and give their results; `NetClassifier` and `NetRegressor` train any network.
"""

try:
    from sklearn.utils.validation import validate_data  # noqa: F401
except ImportError as error:
    message = 'xplayers.sklearn needs scikit-learn 1.9 or later: pip install "xplayers[sklearn]"'
    raise ImportError(message) from error

from xplayers.sklearn.mlp import MLPClassifier, MLPRegressor
from xplayers.sklearn.networks import NetClassifier, NetRegressor

__all__ = ["MLPClassifier", "MLPRegressor", "NetClassifier", "NetRegressor"]
