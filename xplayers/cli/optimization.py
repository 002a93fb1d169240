"""The loss, the optimizer and the schedule of a run, from the options of the command."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import xplayers as xl
from xplayers.cli.datasets import Data
from xplayers.cli.messages import UsageError
from xplayers.models.model import Classes

OPTIMIZERS: dict[str, type[xl.Optimizer]] = {
    "sgd": xl.SGD,
    "momentum": xl.Momentum,
    "nesterov": xl.Nesterov,
    "adagrad": xl.AdaGrad,
    "rmsprop": xl.RMSprop,
    "adam": xl.Adam,
    "adamw": xl.AdamW,
}
SCHEDULES = {"constant": None, "cosine": xl.schedules.Cosine, "onecycle": xl.schedules.OneCycle}
BALANCED = "balanced"


def optimizer(args: argparse.Namespace, samples: int) -> xl.Optimizer:
    """Return the optimizer for a number of samples an epoch."""
    make = OPTIMIZERS[args.optimizer]
    options: dict[str, Any] = {"lr": make().lr if args.lr is None else args.lr}
    if (schedule := SCHEDULES[args.schedule]) is not None:
        options["lr"] = schedule(options["lr"], args.epochs * -(-samples // args.batch_size))
    if args.weight_decay is not None:
        options["weight_decay"] = args.weight_decay
    return make(**options)


def loss(args: argparse.Namespace, data: Data) -> xl.Loss:
    """Return the loss; balanced weights of classes are ``n / (c * n_samples_of_class)``."""
    weights = args.class_weights
    if not data.classes:
        if weights is not None:
            message = "--class-weights goes with classes, not with --task regression"
            raise UsageError(message)
        return xl.MeanSquaredError()
    if weights is not None:
        count = np.bincount(data.t, minlength=len(data.classes))
        if weights == [BALANCED]:
            weights = (len(data.t) / (len(count) * np.maximum(count, 1))).tolist()
        elif BALANCED in weights or len(weights) != len(count):
            message = (
                f"--class-weights has {len(weights)} values; expected 'balanced', or one number "
                f"for each of the {len(count)} classes of {data.name}"
            )
            raise UsageError(message)
        elif not np.any(count * np.asarray(weights)):
            message = f"--class-weights are 0 for all classes that {data.name} has"
            raise UsageError(message)
    return xl.SoftmaxWithLoss(weights, label_smoothing=args.label_smoothing)


def metadata(loss: xl.Loss) -> dict[str, Any]:
    """Return the options of a loss, for `loss_of`."""
    if not isinstance(loss, xl.SoftmaxWithLoss):
        return {}
    weights = loss.class_weights
    return {
        "label_smoothing": loss.label_smoothing,
        "class_weights": None if weights is None else xl.to_numpy(weights).tolist(),
    }


def loss_of(metadata: Any, classes: Classes) -> xl.SoftmaxWithLoss:
    """Return the loss of a model, so that an evaluation repeats that of the training."""
    if not isinstance(metadata, dict):  # files of xplayers 0.1 have none
        return xl.SoftmaxWithLoss()
    weights = metadata.get("class_weights")
    if weights is not None and len(weights) != len(classes):
        message = f"its loss has {len(weights)} weights for {len(classes)} classes"
        raise ValueError(message)
    return xl.SoftmaxWithLoss(weights, label_smoothing=float(metadata.get("label_smoothing", 0.0)))
