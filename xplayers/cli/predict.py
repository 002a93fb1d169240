"""``xplayers predict``: predictions of a saved model."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import xplayers as xl
from xplayers.arrays.devices import LibraryInfo
from xplayers.cli import models
from xplayers.cli.arguments import add_device, add_model, choose_device, path
from xplayers.cli.arrays import check_numbers, read_samples
from xplayers.cli.messages import UsageError, stdout
from xplayers.cli.results import NPY_HEADER, Result, check, is_predictions
from xplayers.saving.files import replacing

NAME = "predict"
SUMMARY = "predict the classes of samples by a saved model"


# fmt: off
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add_model(parser)
    add("input", type=path, metavar="INPUT",
        help="samples: an .npy file, of any size, or an .npz file with x or one array")
    add("--output", type=path, metavar="FILE.npy",
        help="write an array to this file, instead of CSV to the standard output")
    add("--probabilities", action="store_true",
        help="output the probability of each class: additional columns in CSV, or an array (n, "
        "classes)")
    add_device(parser)
# fmt: on


def run(args: argparse.Namespace) -> None:
    """Print or write the predictions, in batches."""
    if args.output is not None:
        stdout.required = False
        if Path(args.output).suffix != ".npy":
            message = f"--output {args.output}: expected a name that ends in .npy"
            raise UsageError(message)
        output = Result(f"--output {args.output}", Path(args.output), is_predictions)
        check([output], [args.model, args.input])
    target, _ = choose_device(args)
    model, net, _ = models.load(args.model)
    x = read_samples(args.input)
    model.check(x, args.input)
    check_numbers(x, args.input)  # before the first prediction
    parts = (
        part
        for i in range(0, len(x), models.ROWS)  # to limit the memory
        for part in scores(
            net, model.prepared(x[i : i + models.ROWS], args.input, i), args, target, i
        )
    )
    if args.output is not None:
        _write(args.output, parts, len(x), model, args.probabilities)
        return
    rows = csv.writer(stdout, lineterminator="\n")
    rows.writerow(["class", *(model.classes if args.probabilities else ())])
    for y in parts:
        predicted = [model.classes[i] for i in np.argmax(y, axis=1)]
        probabilities = _probabilities(y).tolist() if args.probabilities else [[]] * len(y)
        for name, row in zip(predicted, probabilities, strict=True):
            rows.writerow([name, *(f"{p:.6g}" for p in row)])


def scores(
    net: xl.Layer, x: np.ndarray, args: argparse.Namespace, target: LibraryInfo, start: int = 0
) -> Iterator[np.ndarray]:
    """Yield the outputs of a network for host samples, in batches, on the host."""
    for i in range(0, len(x), args.batch_size):
        batch = xl.move(x[i : i + args.batch_size], xp=target.xp, device=target.device)
        with np.errstate(over="ignore", invalid="ignore"):
            y = xl.to_numpy(net.predict(batch))
        finite = np.isfinite(y).all(axis=1)
        if not finite.all():
            message = (
                f"{args.model} has no finite scores for row {start + i + int(np.argmin(finite))} "
                "(from 0): its values are too far from the training data"
            )
            raise UsageError(message)
        yield y


def _write(
    path: str, parts: Iterator[np.ndarray], n: int, model: models.Model, probabilities: bool
) -> None:
    """Write an ``.npy`` file in blocks, atomically."""
    classes = np.asarray(model.classes)
    shape = (n, len(classes)) if probabilities else (n,)
    dtype = np.dtype(np.float32) if probabilities else classes.dtype
    header = repr({"descr": dtype.str, "fortran_order": False, "shape": shape})
    with replacing(path) as file:
        file.write(b"\x93NUMPY\x01\x00" + (NPY_HEADER - 10).to_bytes(2, "little"))
        file.write(f"{header:{NPY_HEADER - 11}}\n".encode())
        for y in parts:
            values = _probabilities(y) if probabilities else classes[np.argmax(y, axis=1)]
            file.write(np.ascontiguousarray(values, dtype).tobytes())


def _probabilities(y: np.ndarray) -> np.ndarray:
    return xl.functional.softmax(y, axis=-1)
