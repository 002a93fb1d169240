"""``xplayers evaluate``."""

from __future__ import annotations

import argparse

import numpy as np

import xplayers as xl
from xplayers.cli import datasets, models
from xplayers.cli.arguments import add_model, add_place, place
from xplayers.cli.predict import scores
from xplayers.cli.train import check_plot
from xplayers.cli.words import Mistake, say

NAME = "evaluate"
SUMMARY = "measure a saved model on a data set: loss, accuracy, confusion matrix"

PARTS = ("held-out", "train", "all")
MOST_CLASSES = 20  # of which the whole confusion matrix is printed; of more the worst pairs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add_model(parser)
    add(
        "--dataset",
        metavar="{digits,mnist,fashion,spiral,FILE.npz}",
        help="as in `xplayers train` (default: the one it was trained on)",
    )
    add("--data-dir", metavar="FOLDER", help="as in `xplayers train`")
    add(
        "--part",
        choices=PARTS,
        default="held-out",
        help="the samples that `xplayers train` holds out of the data set, those that it trains "
        "on, or all, for data that it has not seen (default: %(default)s)",
    )
    add("--plot", metavar="FILE.png", help="draw the confusion matrix; needs matplotlib")
    add_place(parser)


def run(args: argparse.Namespace) -> None:
    """Print the loss, the accuracy and the confusion matrix."""
    if args.plot is not None:
        check_plot(args.plot)
    found, _ = place(args)
    model, net, metadata = models.load(args.model)
    dataset = args.dataset or metadata.get("dataset")
    if not isinstance(dataset, str):
        message = f"{args.model} does not say what it was trained on; say --dataset"
        raise Mistake(message)
    data = datasets.read(dataset, args.data_dir, model.classes)
    pairs = {"held-out": [(data.x_test, data.t_test)], "train": [(data.x, data.t)]}
    pairs["all"] = pairs["train"] + pairs["held-out"]
    x = np.concatenate([model.prepared(x) for x, _ in pairs[args.part]])
    t = np.concatenate([t for _, t in pairs[args.part]])
    if len(data.classes) != len(model.classes):
        message = f"{data.name} has {len(data.classes)} classes, {args.model} {len(model.classes)}"
        raise Mistake(message)

    nothing = np.empty((0, len(model.classes)), np.float32)
    y = np.concatenate([nothing, *scores(net, x, args.batch_size, found)])
    loss = float(xl.SoftmaxWithLoss()(y, t))
    accuracy = float(xl.accuracy(y, t))
    matrix = xl.confusion_matrix(y, t)
    part = {"held-out": "held out", "train": "trained on", "all": "all"}[args.part]
    say(f"{data.name}, {part}: {len(t)} samples, loss {loss:.4f}, accuracy {accuracy:.4f}")
    for line in _table(matrix, model.classes):
        say(line)
    if args.plot is not None:
        xl.plot_confusion_matrix(matrix, args.plot, labels=list(map(str, model.classes)))
        say(f"drawn in {args.plot}")


def _table(matrix: np.ndarray, classes: datasets.Classes) -> list[str]:
    """Return a confusion matrix in lines: a class each row, what it was taken for each column."""
    if len(classes) > MOST_CLASSES:
        wrong = matrix * (1 - np.eye(len(classes), dtype=matrix.dtype))
        worst = [divmod(int(i), len(classes)) for i in np.argsort(-wrong, axis=None, kind="stable")]
        return [
            f"{classes[i]} taken for {classes[j]}: {wrong[i, j]}"
            for i, j in worst[:MOST_CLASSES]
            if wrong[i, j]
        ]
    cells = [["", *map(str, classes)]]
    cells += [[str(c), *map(str, row)] for c, row in zip(classes, matrix.tolist(), strict=True)]
    width = max(len(cell) for row in cells for cell in row)
    return ["  ".join(cell.rjust(width) for cell in row) for row in cells]
