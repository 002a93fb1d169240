"""``xplayers evaluate``: evaluation of a saved model."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

import numpy as np

import xplayers as xl
from xplayers._text import aligned, columns, right
from xplayers.cli import datasets, optimization
from xplayers.cli.arguments import add_device, add_model, choose_device, path
from xplayers.cli.messages import UsageError, display_names, print_line, stdout
from xplayers.cli.predict import scores
from xplayers.cli.regression import described, errors_of
from xplayers.cli.results import Result, check, is_picture
from xplayers.cli.train import check_plot
from xplayers.models import Model
from xplayers.models.model import Classes
from xplayers.reports.plots import plot_regression

NAME = "evaluate"
SUMMARY = "evaluate a saved model on a data set: loss, accuracy, confusion matrix"

PART_NAMES = {"held-out": "held out", "train": "trained on", "all": "all"}
PARTS = tuple(PART_NAMES)
MOST_CLASSES = 20  # up to which the confusion matrix is printed; else the most frequent errors


# fmt: off
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add_model(parser)
    add("--dataset", type=path, metavar="NAME|FILE|FOLDER",
        help="as in `xplayers train` (default: the one it was trained on)")
    add("--data-dir", type=path, metavar="FOLDER", help="as in `xplayers train`")
    add("--part", choices=PARTS, default="held-out",
        help="the samples that `xplayers train` holds out, those that it trains on, or all, for "
        "new data (default: %(default)s)")
    add("--per-class", action="store_true",
        help="also print precision, recall and F1 score of each class, and their means")
    add("--plot", type=path, metavar="FILE.png", 
        help="plot the confusion matrix, or of a regression predictions and targets; needs "
        "matplotlib")
    add_device(parser)
# fmt: on


def run(args: argparse.Namespace) -> None:
    """Print the loss, the accuracy and the confusion matrix."""
    if args.plot is not None:
        stdout.required = False
        plot = Result(f"--plot {args.plot}", Path(args.plot), is_picture)
        check([plot], [args.model, args.dataset])
        check_plot(args.plot)
    target, _ = choose_device(args)
    model = xl.load_model(args.model)
    data = _data(args, model, model.about.get("data"))
    if len(model.shape) == 1 and not data.own:  # images of the package, flattened
        data = data._replace(x=_rows(data.x), x_test=_rows(data.x_test))
    for part in (data.x, data.x_test):
        model.check(part, f"x of {data.name}")
    if model.targets is None:
        data = data.named(model.classes)
    pairs = {"held-out": [(data.x_test, data.t_test)], "train": [(data.x, data.t)]}
    pairs["all"] = pairs["train"] + pairs["held-out"]
    x, t = (np.concatenate(arrays) for arrays in zip(*pairs[args.part], strict=True))
    y = np.concatenate(list(scores(model, x, f"x of {data.name}", args.batch_size, target)))
    if model.targets is not None:
        _regression(args, model, data.name, y, t)
        return
    loss = float(optimization.loss_of(model.about.get("loss"), model.classes)(y, t))
    accuracy = float(xl.accuracy(y, t))
    matrix = xl.confusion_matrix(y, t)
    part = PART_NAMES[args.part]
    print_line(f"{data.name}, {part}: {len(t)} samples, loss {loss:.4f}, accuracy {accuracy:.4f}")
    lines = _table(matrix, model.classes)
    if args.per_class:
        lines += ["", *_scores(xl.precision_recall(y, t), model.classes)]
    for line in lines:
        print_line(line)
    if args.plot is not None:
        xl.plot_confusion_matrix(matrix, args.plot, labels=list(map(str, model.classes)))
        print_line(f"drawn in {args.plot}")


def _regression(
    args: argparse.Namespace, model: Model, name: str, y: np.ndarray, t: np.ndarray
) -> None:
    """Print the errors of a regression, and plot its values."""
    loss = float(xl.MeanSquaredError()(y, model.targets_of(t)))
    values, targets = model.values(y), model.values(model.targets_of(t))
    part = PART_NAMES[args.part]
    errors = described(errors_of(values, targets))
    print_line(f"{name}, {part}: {len(t)} samples, loss {loss:.4f}, {errors}")
    if args.plot is not None:
        plot_regression(values, targets, args.plot)
        print_line(f"drawn in {args.plot}")


def _rows(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


def _data(args: argparse.Namespace, model: Model, known: Any) -> datasets.Data:
    """Return the data of --dataset, by default those that the model was trained on."""
    image_size = (model.about.get("images") or {}).get("size")
    channels = model.shape[0] if len(model.shape) == 3 else None
    read = functools.partial(
        datasets.read,
        classes=model.classes or None,
        columns=model.columns,
        channels=channels,
        regression=model.targets is not None,
    )
    if args.dataset is not None:
        is_folder = Path(args.dataset).is_dir()
        return read(args.dataset, args.data_dir, image_size=image_size if is_folder else None)
    try:
        source = datasets.Source(str(known["dataset"]), known["folder"])
        folder = source.folder if args.data_dir is None else args.data_dir
        if source.dataset not in datasets.BUILT_IN and not Path(source.dataset).exists():
            message = (
                f"{args.model} was trained on {source}, which does not exist any more; pass "
                "--dataset"
            )
            raise UsageError(message)
        data = read(source.dataset, folder, image_size=image_size)
        changed = args.data_dir is None and data.digest() != known["sha256"]
    except (TypeError, KeyError) as error:
        message = f"{args.model} has no record of its training data; pass --dataset"
        raise UsageError(message) from error
    if changed:
        option = "" if folder is None else f" --data-dir {folder}"
        message = (
            f"{source} has changed since {args.model} was trained on it; to evaluate on the "
            f"current data, pass --dataset {source.dataset}{option}"
        )
        raise UsageError(message)
    return data


def _table(matrix: np.ndarray, classes: Classes) -> list[str]:
    """Return a confusion matrix as lines: targets in rows, predictions in columns."""
    names = display_names(classes)
    if len(classes) > MOST_CLASSES:
        wrong = matrix * (1 - np.eye(len(classes), dtype=matrix.dtype))
        worst = [divmod(int(i), len(classes)) for i in np.argsort(-wrong, axis=None, kind="stable")]
        return [
            f"{names[i]} predicted as {names[j]}: {wrong[i, j]}"
            for i, j in worst[:MOST_CLASSES]
            if wrong[i, j]
        ]
    cells = [["", *names]]
    cells += [[name, *map(str, line)] for name, line in zip(names, matrix.tolist(), strict=True)]
    width = max(columns(cell) for line in cells for cell in line)
    lines = ["  ".join(right(cell, width) for cell in line) for line in cells]
    return ["rows: target, columns: predicted", *lines]


def _scores(scores: Any, classes: Classes) -> list[str]:
    """Return precision, recall and F1 score of each class and their means, as a table."""
    measures = scores.precision, scores.recall, scores.f1
    cells = [["", "precision", "recall", "F1", "samples"]]
    rows = zip(display_names(classes), *measures, scores.samples, strict=True)
    cells += [[name, *(f"{x:.4f}" for x in row), str(n)] for name, *row, n in rows]
    means = [f"{np.mean(measure):.4f}" for measure in measures]
    return aligned([*cells, ["mean", *means, str(int(np.sum(scores.samples)))]])
