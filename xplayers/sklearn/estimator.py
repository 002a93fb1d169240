"""The base of the estimators: how they train, in the order and with the numbers of scikit-learn."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from xplayers._terminal import notify
from xplayers.arrays.checks import described, elsewhere
from xplayers.arrays.joining import concat
from xplayers.arrays.namespaces import Array, device, namespace
from xplayers.arrays.transfer import asarray, to_numpy
from xplayers.data.batches import samples
from xplayers.layers.base import Layer
from xplayers.optimizers import Adam, Momentum, Nesterov, Optimizer
from xplayers.saving.network import put
from xplayers.sklearn.objective import PenalisedStep
from xplayers.sklearn.options import Options, check_options, dispatches, floating_dtypes
from xplayers.training.failures import copied
from xplayers.training.fetching import fetched
from xplayers.training.precision import all_finite

ROWS = 4096  # of a batch of predictions


class Samples:
    """Samples, targets and weights, of which batches are taken; sparse ones become dense then."""

    def __init__(self, x: Any, t: Array, w: Array | None) -> None:
        self.x, self.arrays = x, (t,) if w is None else (t, w)
        self.n = int(x.shape[0])

    def take(self, rows: np.ndarray) -> Samples:
        """Return some of them."""
        x = self.x[rows] if hasattr(self.x, "toarray") else self._taken(self.x, rows)
        t, *w = (self._taken(a, rows) for a in self.arrays)
        return Samples(x, t, *(w or [None]))

    def batches(self, order: np.ndarray | None, size: int) -> Iterator[tuple[Array, ...]]:
        """Iterate over them once; without an order, as they are."""
        x, arrays = self.x, self.arrays
        index = None if order is None else _index(order, arrays[0])
        for start in range(0, self.n, size):
            rows = slice(start, min(start + size, self.n))
            if index is not None:
                rows = index[rows]
            if hasattr(x, "toarray"):
                chosen = rows if order is None else order[start : start + size]
                yield x[chosen].toarray(), *(_some(a, rows) for a in arrays)
            else:
                yield tuple([_some(a, rows) for a in (x, *arrays)])

    def _taken(self, a: Array, rows: np.ndarray) -> Array:
        return samples(a, _index(rows, a))


def _some(a: Array, rows: Any) -> Array:
    return a[rows, ...] if isinstance(rows, slice) else samples(a, rows)


def _index(rows: np.ndarray, like: Array) -> Array:
    return asarray(rows, like, namespace(like).arange(0).dtype)


class Estimator(Options, BaseEstimator):
    """Trains a network, which `_network` makes, on samples and targets."""

    # Of classifiers and regressors, of layers by sizes and of networks of one's own.
    _encoded: Any
    _own_weights: Any
    _loss: Any
    _outputs: Any
    _network: Any
    _score_of: Any

    net_: Layer
    best_loss_: Any
    best_validation_score_: Any
    validation_scores_: Any

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train.

        Parameters
        ----------
        X : array of shape (n, features)
            Samples: an array of NumPy, a table, or a sparse matrix; with
            ``sklearn.set_config(array_api_dispatch=True)`` an array of any library, on any device.
        y : array of shape (n,) or (n, outputs)
            Targets.
        sample_weight : array of shape (n,), optional
            The weight of each sample.

        Returns
        -------
        self
            The estimator.
        """
        return self._fit(X, y, sample_weight)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, *, incremental: bool = False, classes: Any = None
    ) -> Any:
        check_options(self)
        if incremental and self.early_stopping:
            message = f"{type(self).__name__}: partial_fit does not support early_stopping=True."
            raise ValueError(message)
        fresh = not hasattr(self, "net_") or not (self.warm_start or incremental)
        X, y = validate_data(
            self, X, y, accept_sparse="csr", multi_output=True, dtype=floating_dtypes(X),
            allow_nd=self._allow_nd, reset=fresh, y_numeric=hasattr(self, "loss"),
        )  # fmt: skip
        if len(y.shape) == 2 and y.shape[1] == 1 and not hasattr(y, "toarray"):
            y = column_or_1d(to_numpy(y), warn=True)
        y = y if hasattr(y, "toarray") else to_numpy(y)
        w = None if sample_weight is None else _check_sample_weight(
            sample_weight, X, dtype=X.dtype, ensure_non_negative=True
        )  # fmt: skip
        target = self._encoded(y, fresh, classes)
        own = self._own_weights(y)
        like = X[:0].toarray() if hasattr(X, "toarray") else X[:0, ...]
        # int64, but on JAX without it
        integers = namespace(like).__array_namespace_info__().default_dtypes()["integral"]
        t = asarray(target, like, None if target.dtype.kind == "f" else integers)
        if own is not None:
            own = asarray(own, like)
            w = own if w is None else w * own
        self._random_state = check_random_state(self.random_state)
        if fresh:
            self._begin(like, t)
        if fresh or not incremental:
            self._step = PenalisedStep(
                self.net_, self._loss(self.n_outputs_), self._optimizer(),
                alpha=self.alpha, outputs=self.n_outputs_,
            )  # fmt: skip
        self._train(Samples(X, t, w), target, incremental)
        if not bool(all_finite(list(self.net_.params.values()))):
            message = (
                f"{type(self).__name__}: Solver produced non-finite parameter weights: X may have "
                "large values, and need a StandardScaler, or learning_rate_init is too large."
            )
            raise ValueError(message)
        return self

    def _begin(self, like: Array, t: Array) -> None:
        self.n_iter_ = self.t_ = 0
        self.n_outputs_ = self._outputs(t)
        self.net_ = self._network(tuple(like.shape[1:]), self.n_outputs_).to(like=like)
        self._check_scores(like)
        self.loss_curve_: list[float] = []
        self._unimproved = 0
        self.validation_scores_ = [] if self.early_stopping else None
        self.best_validation_score_ = -np.inf if self.early_stopping else None
        self.best_loss_ = None if self.early_stopping else np.inf

    def _check_scores(self, like: Array) -> None:
        x = namespace(like).zeros((1, *like.shape[1:]), dtype=like.dtype, device=device(like))
        shape = tuple(self.net_.predict(x).shape)
        if shape != (1, self.n_outputs_):
            message = (
                f"{type(self).__name__}: the network makes {shape} of one sample; expected "
                f"{(1, self.n_outputs_)}, as build is asked for."
            )
            raise ValueError(message)

    def _optimizer(self) -> Optimizer:
        if isinstance(self.solver, Optimizer):
            return copy.deepcopy(self.solver)
        rate = float(self.learning_rate_init)
        if self.solver == "adam":
            return Adam(rate, self.beta_1, self.beta_2, self.epsilon)
        kind = Nesterov if self.nesterovs_momentum else Momentum
        return kind(rate, self.momentum)

    def _train(self, data: Samples, target: np.ndarray, incremental: bool) -> None:
        """Train for `max_iter` epochs, or until there is no improvement any more."""
        rng, held = self._random_state, None
        if self.early_stopping:
            data, held, target = self._split(data, target)
        size = self._batch_size(data.n)
        order = np.arange(data.n) if self.shuffle else None
        best = copied(self.net_.arrays) if self.early_stopping else None
        self.n_iter_ = 0
        try:
            for _ in range(1 if incremental else self.max_iter):
                if order is not None:
                    drawn = np.arange(data.n)
                    rng.shuffle(drawn)
                    order = order[drawn]  # as sklearn.utils.shuffle, which takes longer than a step
                self._epoch(data, order, size)
                if held is not None and self._improves(held, target):
                    best = copied(self.net_.arrays)
                elif held is None:
                    self._compare_losses()
                if self._stops():
                    break
            else:
                if not incremental:
                    message = (
                        f"{type(self).__name__}: Maximum iterations ({self.max_iter}) reached and "
                        "the optimization hasn't converged yet."
                    )
                    warnings.warn(message, ConvergenceWarning, stacklevel=4)
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        if best is not None:
            put(self.net_, best)

    def _epoch(self, data: Samples, order: np.ndarray | None, size: int) -> None:
        """Take a step on every batch; the loss of the epoch is the mean over its samples."""
        step, n = self._step, data.n
        losses = [step(*batch) for batch in data.batches(order, size)]
        sizes = [min(size, n - start) for start in range(0, n, size)]
        self.loss_ = float(np.dot(fetched(losses), sizes)) / n
        self.loss_curve_.append(self.loss_)
        self.n_iter_ += 1
        self.t_ += n
        if self.verbose:
            notify(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")

    def _batch_size(self, n: int) -> int:
        if self.batch_size == "auto":
            return min(200, n)
        if self.batch_size > n:
            message = f"batch_size is {self.batch_size}, larger than the {n} samples; it has all."
            warnings.warn(message, stacklevel=4)
        return min(int(self.batch_size), n)

    def _split(self, data: Samples, target: np.ndarray) -> tuple[Samples, Samples, np.ndarray]:
        """Hold out samples, whose score says when to stop."""
        binary = hasattr(self, "classes_") and self.n_outputs_ == 1
        parts: Any = train_test_split(
            np.arange(data.n), random_state=self._random_state, test_size=self.validation_fraction,
            stratify=target if binary else None,
        )  # fmt: skip
        train, held = parts
        if len(held) < 2:
            message = (
                f"{type(self).__name__}: The validation set is too small, of {len(held)} samples. "
                "Increase 'validation_fraction' or the size of your dataset."
            )
            raise ValueError(message)
        return data.take(train), data.take(held), target[held]

    def _improves(self, held: Samples, truth: np.ndarray) -> bool:
        """Compare the score of what is held out, and return whether it is the best so far."""
        _, *w = held.arrays
        weights = to_numpy(w[0]) if w else None
        score = self._score_of(self._predicted(held.x), truth, weights)
        self.validation_scores_.append(score)
        if self.verbose:
            notify(f"Validation score: {score:f}")
        self._unimproved = (
            self._unimproved + 1 if score < self.best_validation_score_ + self.tol else 0
        )
        if not score > self.best_validation_score_:
            return False
        self.best_validation_score_ = score
        return True

    def _compare_losses(self) -> None:
        worse = self.loss_ > self.best_loss_ - self.tol
        self._unimproved = self._unimproved + 1 if worse else 0
        self.best_loss_ = min(self.best_loss_, self.loss_)

    def _stops(self) -> bool:
        """Whether to stop; an adaptive learning rate becomes smaller first."""
        optimizer: Any = self._step.optimizer
        sgd = self.solver == "sgd"
        if sgd and self.learning_rate == "invscaling":
            optimizer.lr = float(self.learning_rate_init) / (self.t_ + 1) ** self.power_t
        if self._unimproved <= self.n_iter_no_change:
            return False
        if sgd and self.learning_rate == "adaptive" and optimizer.lr > 1e-6:
            optimizer.lr /= 5.0
            self._unimproved = 0
            return False
        if self.verbose:
            what = "Validation score" if self.early_stopping else "Training loss"
            notify(
                f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} "
                "consecutive epochs. Stopping."
            )
        return True

    def _scores(self, X: Any, method: str) -> Array:
        """Return the output of the network for samples that are checked."""
        check_is_fitted(self)
        first = next(iter(self.net_.params.values()))
        if dispatches():
            self._check_place(X, first, method)
        X = validate_data(
            self, X, accept_sparse="csr", dtype=first.dtype, allow_nd=self._allow_nd, reset=False
        )
        return self._predicted(X)

    def _predicted(self, X: Any) -> Array:
        n = X.shape[0]
        rows = [slice(i, min(i + ROWS, n)) for i in range(0, n, ROWS)]
        sparse = hasattr(X, "toarray")
        parts = [self.net_.predict(X[i].toarray() if sparse else X[i, ...]) for i in rows]
        return parts[0] if len(parts) == 1 else concat(namespace(parts[0]), parts, axis=0)

    def _check_place(self, X: Any, like: Array, method: str) -> None:
        there = X if hasattr(X, "__array_namespace__") or hasattr(X, "device") else np.empty(0)
        if namespace(there) is namespace(like) and not elsewhere(device(there), device(like)):
            return
        message = (
            f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace and "
            f"the same device as those passed to fit(): X is {described(there)}, the parameters "
            f"are {described(like)}. Move X, or the parameters: estimator.net_.to(like=X)."
        )
        raise ValueError(message)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.sparse = True
        return tags
