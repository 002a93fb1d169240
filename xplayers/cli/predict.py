"""``xplayers predict``: predictions of a saved model."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import xplayers as xl
from xplayers.arrays.devices import LibraryInfo
from xplayers.cli import images, tables
from xplayers.cli.arguments import add_device, add_model, choose_device, path
from xplayers.cli.arrays import read_samples
from xplayers.cli.messages import UsageError, stdout
from xplayers.cli.results import NPY_HEADER, Result, check, is_predictions
from xplayers.data.samples import check_numbers
from xplayers.models import Model
from xplayers.saving.files import replacing

NAME = "predict"
SUMMARY = "predict the classes of samples, or their values, by a saved model"


# fmt: off
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add_model(parser)
    add("input", type=path, metavar="INPUT",
        help="samples: an .npy file, of any size, an .npz file with x or one array; for a model of "
        "a table another one with its columns, for one of images an image or a folder of them")
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
    model = xl.load_model(args.model)
    if model.targets is not None and args.probabilities:
        message = f"--probabilities: {args.model} is a regression, it has no classes"
        raise UsageError(message)
    files = _images(Path(args.input))
    x = _samples(args.input, files, model)
    model.check(x, args.input)
    check_numbers(x, args.input)  # before the first prediction
    parts = scores(model, x, args.input, args.batch_size, target)
    if args.output is not None:
        _write(args.output, parts, len(x), model, args.probabilities)
        return
    rows = csv.writer(stdout, lineterminator="\n")
    names = iter(files)
    file = ["file"] if files else []
    if model.targets is not None:
        rows.writerow([*file, *_value_names(model)])
        for y in parts:
            for row in model.values(y).reshape(len(y), -1).tolist():
                file = [next(names).name] if files else []
                rows.writerow([*file, *(f"{value:.7g}" for value in row)])
        return
    rows.writerow([*file, "class", *(model.classes if args.probabilities else ())])
    for y in parts:
        predicted = [model.classes[i] for i in np.argmax(y, axis=1)]
        probabilities = _probabilities(y).tolist() if args.probabilities else [[]] * len(y)
        for name, row in zip(predicted, probabilities, strict=True):
            file = [next(names).name] if files else []
            rows.writerow([*file, name, *(f"{p:.6g}" for p in row)])


def _value_names(model: Model) -> list[str]:
    """Return the names of the values of a regression."""
    if model.columns is not None:
        return [model.columns.target]
    n = model.architecture.outputs
    return ["value"] if n == 1 else [f"value {i}" for i in range(n)]


def _images(path: Path) -> list[Path]:
    """Return the images that are a path, or lie in it."""
    return [path] if path.suffix.lower() in images.SUFFIXES else images.images_in(path)


def _samples(path: str, files: list[Path], model: Model) -> np.ndarray:
    """Return samples of the kind that the model was trained on."""
    if files:
        about = model.about.get("images")
        if about is None:  # pixels may have been scaled before
            message = f"{path} has images; {model.path} was not trained on a folder of images"
            raise UsageError(message)
        size = images.Size(*model.shape)
        return images.read(files, size, scale=about["size"] is not None)
    if model.columns is not None and tables.is_table(path):
        return tables.samples(tables.read_table(path), model.columns)
    return read_samples(path)


def scores(
    model: Model, x: np.ndarray, name: str, batch_size: int, target: LibraryInfo
) -> Iterator[np.ndarray]:
    """Yield the scores of host samples, computed on the device in batches, on the host."""
    for y in model.scores(x, batch_size, name=name, xp=target.xp, device=target.device):
        yield xl.to_numpy(y)


def _write(
    path: str, parts: Iterator[np.ndarray], n: int, model: Model, probabilities: bool
) -> None:
    """Write an ``.npy`` file in blocks, atomically."""
    classes, outputs = np.asarray(model.classes), model.architecture.outputs
    is_values = model.targets is not None
    several = probabilities or (is_values and outputs > 1)
    shape = (n, outputs) if several else (n,)
    dtype = np.dtype(np.float32) if probabilities or is_values else classes.dtype
    header = repr({"descr": dtype.str, "fortran_order": False, "shape": shape})
    with replacing(path) as file:
        file.write(b"\x93NUMPY\x01\x00" + (NPY_HEADER - 10).to_bytes(2, "little"))
        file.write(f"{header:{NPY_HEADER - 11}}\n".encode())
        for y in parts:
            if is_values:
                values = model.values(y)
            else:
                values = _probabilities(y) if probabilities else classes[np.argmax(y, axis=1)]
            file.write(np.ascontiguousarray(values, dtype).tobytes())


def _probabilities(y: np.ndarray) -> np.ndarray:
    return xl.functional.softmax(y, axis=-1)
