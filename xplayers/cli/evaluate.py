"""``xplayers evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import xplayers as xl
from xplayers._text import columns, right
from xplayers.cli import datasets, models
from xplayers.cli.arguments import add_model, add_place, path, place
from xplayers.cli.labels import Classes
from xplayers.cli.messages import Mistake, named, say, stdout
from xplayers.cli.predict import scores
from xplayers.cli.results import Result, check, is_picture
from xplayers.cli.train import check_plot

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
        type=path,
        metavar="{digits,mnist,fashion,spiral,FILE.npz}",
        help="as in `xplayers train` (default: the one it was trained on)",
    )
    add("--data-dir", type=path, metavar="FOLDER", help="as in `xplayers train`")
    add(
        "--part",
        choices=PARTS,
        default="held-out",
        help="the samples that `xplayers train` holds out of the data set, those that it trains "
        "on, or all, for data that it has not seen (default: %(default)s)",
    )
    add("--plot", type=path, metavar="FILE.png", help="draw the confusion matrix; needs matplotlib")
    add_place(parser)


def run(args: argparse.Namespace) -> None:
    """Print the loss, the accuracy and the confusion matrix."""
    if args.plot is not None:
        stdout.needed = False
        plot = Result(f"--plot {args.plot}", Path(args.plot), is_picture)
        check([plot], [args.model, args.dataset])
        check_plot(args.plot)
    found, _ = place(args)
    model, net, metadata = models.load(args.model)
    data = _data(args, model, metadata.get("data"))
    if len(model.shape) == 1 and not data.own:  # the images of ours have one order in a row
        data = data._replace(x=_rows(data.x), x_test=_rows(data.x_test))
    for part in (data.x, data.x_test):
        model.check(part, f"x of {data.name}")
    data = data.named(model.classes)
    pairs = {"held-out": [(data.x_test, data.t_test)], "train": [(data.x, data.t)]}
    pairs["all"] = pairs["train"] + pairs["held-out"]
    x = np.concatenate([model.prepared(x, f"x of {data.name}") for x, _ in pairs[args.part]])
    t = np.concatenate([t for _, t in pairs[args.part]])

    nothing = np.empty((0, len(model.classes)), np.float32)
    y = np.concatenate([nothing, *scores(net, x, args, found)])
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


def _rows(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


def _data(args: argparse.Namespace, model: models.Model, known: Any) -> datasets.Data:
    """Return the data that are asked for, or else the very ones that the model was trained on."""
    if args.dataset is not None:
        return datasets.read(args.dataset, args.data_dir, model.classes)
    try:
        source = datasets.Source(str(known["dataset"]), known["folder"])
        asked = source.folder if args.data_dir is None else args.data_dir
        if source.dataset not in datasets.BUILT_IN and not Path(source.dataset).exists():
            message = (
                f"{args.model} was trained on {source}, which is not there any more; say --dataset"
            )
            raise Mistake(message)
        data = datasets.read(source.dataset, asked, model.classes)
        changed = args.data_dir is None and data.digest() != known["sha256"]
    except (TypeError, KeyError) as error:
        message = f"{args.model} does not say what it was trained on; say --dataset"
        raise Mistake(message) from error
    if changed:
        where = "" if asked is None else f" --data-dir {asked}"
        message = (
            f"{source} is not what it was when {args.model} was trained on it; to measure on what "
            f"it is now, say --dataset {source.dataset}{where}"
        )
        raise Mistake(message)
    return data


def _table(matrix: np.ndarray, classes: Classes) -> list[str]:
    """Return a confusion matrix in lines: a class each row, what it was taken for each column."""
    names = named(classes)
    if len(classes) > MOST_CLASSES:
        wrong = matrix * (1 - np.eye(len(classes), dtype=matrix.dtype))
        worst = [divmod(int(i), len(classes)) for i in np.argsort(-wrong, axis=None, kind="stable")]
        return [
            f"{names[i]} taken for {names[j]}: {wrong[i, j]}"
            for i, j in worst[:MOST_CLASSES]
            if wrong[i, j]
        ]
    cells = [["", *names]]
    cells += [[name, *map(str, line)] for name, line in zip(names, matrix.tolist(), strict=True)]
    width = max(columns(cell) for line in cells for cell in line)
    return ["  ".join(right(cell, width) for cell in line) for line in cells]
