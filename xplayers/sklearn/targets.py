"""Targets of classifiers and regressors: from what people pass to what a loss takes, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from xplayers import functional
from xplayers.arrays.joining import concat
from xplayers.arrays.namespaces import Array, named_dtype, namespace, widest_floating
from xplayers.arrays.transfer import asarray, to_numpy
from xplayers.losses import Loss, MeanSquaredError, SigmoidWithLoss, SoftmaxWithLoss
from xplayers.sklearn.estimator import Estimator
from xplayers.sklearn.objective import PoissonWithLoss


class Classifier(ClassifierMixin, Estimator):
    """Base of classifiers: two classes have one score, more are a softmax, labels are sigmoids."""

    class_weight: Any
    classes_: np.ndarray

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """Train for one epoch, from where the last call has ended.

        Parameters
        ----------
        X : array of shape (n, features)
            Samples.
        y : array of shape (n,) or (n, labels)
            Classes.
        sample_weight : array of shape (n,), optional
            The weight of each sample.
        classes : array, optional
            All classes, which the first call needs: `y` need not have all of them.

        Returns
        -------
        self
            The estimator.
        """
        if not hasattr(self, "net_") and classes is None:
            message = (
                f"{type(self).__name__}.partial_fit: classes must be passed on the first call to "
                "partial_fit: all of them, as numpy.unique(y)."
            )
            raise ValueError(message)
        if isinstance(self.class_weight, str):
            message = (
                f"{type(self).__name__}: class_weight 'balanced' needs all samples at once, so not "
                "partial_fit. Pass sample_weight."
            )
            raise ValueError(message)
        return self._fit(X, y, sample_weight, incremental=True, classes=classes)

    def _encoded(self, y: Any, fresh: bool, classes: Any) -> np.ndarray:
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y", raise_unknown=True)
        name = type(self).__name__
        if kind == "multiclass-multioutput":
            message = f"{name}: Multioutput target data of several classes is not supported."
            raise ValueError(message)
        several = kind == "multilabel-indicator"
        present = np.arange(y.shape[1]) if several else np.unique(y)
        if fresh:
            self._multilabel = several
            self.classes_ = present
            if classes is not None and not several:
                self.classes_ = np.unique(classes)
        unknown = np.setdiff1d(present, self.classes_)
        if several != self._multilabel or len(unknown):
            message = (
                f"{name}: y has classes {unknown} not in those of the first fit: {self.classes_}."
            )
            raise ValueError(message)
        if self.warm_start and not fresh and len(present) != len(self.classes_):
            message = (
                f"{name}: warm_start can only be used where `y` has the same classes as in the "
                f"previous call to fit. Previously got {self.classes_}, `y` has {present}."
            )
            raise ValueError(message)
        if several:
            return np.asarray(y.toarray() if hasattr(y, "toarray") else y, "float64")
        labels = np.searchsorted(self.classes_, y)
        return labels if len(self.classes_) > 2 else labels[:, None].astype("float64")

    def _own_weights(self, y: Any) -> np.ndarray | None:
        if self.class_weight is None:
            return None
        return compute_sample_weight(self.class_weight, y)

    def _loss(self, outputs: int) -> Loss:
        return SigmoidWithLoss() if self._multilabel or outputs == 1 else SoftmaxWithLoss()

    def _outputs(self, target: Array) -> int:
        return int(target.shape[1]) if len(target.shape) > 1 else len(self.classes_)

    def predict(self, X: Any) -> Any:
        """Return the class of each sample.

        Parameters
        ----------
        X : array of shape (n, features)
            Samples.

        Returns
        -------
        array of shape (n,) or (n, labels)
            Of the library and on the device of `X`, unless classes are words.
        """
        return self._decoded(self._scores(X, "predict"))

    def predict_proba(self, X: Any) -> Any:
        """Return the probabilities of the classes.

        Parameters
        ----------
        X : array of shape (n, features)
            Samples.

        Returns
        -------
        array of shape (n, classes)
            In the order of `classes_`; of labels, the probability of each.
        """
        scores = self._scores(X, "predict_proba")
        if self._multilabel:
            return functional.sigmoid(scores)
        return functional.softmax(self._both(scores))

    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithms of the probabilities of the classes.

        Parameters
        ----------
        X : array of shape (n, features)
            Samples.

        Returns
        -------
        array of shape (n, classes)
            In the order of `classes_`.
        """
        scores = self._scores(X, "predict_log_proba")
        if self._multilabel:
            return -functional.softplus(-scores)
        return functional.log_softmax(self._both(scores))

    def _both(self, scores: Array) -> Array:
        """Return a score for each class: one of two is 0."""
        xp, classes = namespace(scores), len(self.classes_)
        if classes > 2:
            return scores
        return concat(xp, [xp.zeros_like(scores), scores], axis=1)[:, :classes]

    def _decoded(self, scores: Array) -> Any:
        xp = namespace(scores)
        index = xp.arange(0).dtype
        if self._multilabel:
            return xp.astype(scores > 0, index)
        if len(self.classes_) > 2:
            labels = xp.argmax(scores, axis=1)
        else:
            labels = xp.astype(scores[:, 0] > 0, index) * (len(self.classes_) - 1)
        classes = self.classes_
        if classes.dtype.kind not in "iufb":
            return classes[to_numpy(labels)]
        floats = classes.dtype.kind == "f"
        dtype = widest_floating(scores) if floats else named_dtype(xp, classes.dtype.name)
        return xp.take(asarray(classes, scores, dtype), labels, axis=0)

    def _score_of(self, scores: Array, y: np.ndarray, sample_weight: Any) -> float:
        """Return the accuracy, by targets as they are encoded."""
        predicted = np.asarray(to_numpy(self._decoded(scores)))
        truth = y if self._multilabel else self.classes_[y.reshape(-1).astype(int)]
        return float(accuracy_score(truth, predicted, sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class Regressor(RegressorMixin, Estimator):
    """Base of regressors, of one output or of several."""

    loss: Any

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train for one epoch, from where the last call has ended.

        Parameters
        ----------
        X : array of shape (n, features)
            Samples.
        y : array of shape (n,) or (n, outputs)
            Targets.
        sample_weight : array of shape (n,), optional
            The weight of each sample.

        Returns
        -------
        self
            The estimator.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def _encoded(self, y: Any, fresh: bool, classes: Any) -> np.ndarray:
        if fresh:
            self._flat = y.ndim == 1
        if self.loss == "poisson" and y.min() < 0:
            message = (
                f"{type(self).__name__}: loss='poisson' needs y of 0 or more; got {y.min():g}."
            )
            raise ValueError(message)
        return y.reshape(len(y), -1)

    def _own_weights(self, y: Any) -> None:
        return None

    def _loss(self, outputs: int) -> Loss:
        if isinstance(self.loss, Loss):
            return self.loss
        return PoissonWithLoss() if self.loss == "poisson" else MeanSquaredError()

    def _outputs(self, target: Array) -> int:
        return int(target.shape[1])

    def predict(self, X: Any) -> Any:
        """Return the values of each sample.

        Parameters
        ----------
        X : array of shape (n, features)
            Samples.

        Returns
        -------
        array of shape (n,) or (n, outputs)
            Of the library and on the device of `X`.
        """
        return self._decoded(self._scores(X, "predict"))

    def _decoded(self, scores: Array) -> Array:
        y = namespace(scores).exp(scores) if self.loss == "poisson" else scores
        return y[:, 0] if self._flat else y

    def _score_of(self, scores: Array, y: np.ndarray, sample_weight: Any) -> float:
        """Return the coefficient of determination."""
        predicted = to_numpy(self._decoded(scores)).reshape(y.shape)
        if not np.isfinite(predicted).all():
            return float("nan")
        return float(r2_score(y, predicted, sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
