"""``xplayers export``: a saved model as an ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path

import xplayers as xl
from xplayers.cli.arguments import add_model_file, path
from xplayers.cli.messages import UsageError, print_line, stdout
from xplayers.cli.results import Result, check, is_onnx

NAME = "export"
SUMMARY = "write a saved model as an ONNX file, for other programs"


# fmt: off
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_model_file(parser)
    parser.add_argument("output", type=path, metavar="FILE.onnx",
        help="takes samples as they are, gives the probability of each class, whose names are in "
        "its metadata, or the values of a regression")
# fmt: on


def run(args: argparse.Namespace) -> None:
    """Write the file, and print its input and output."""
    stdout.required = False
    if Path(args.output).suffix != ".onnx":
        message = f"{args.output}: expected a name that ends in .onnx"
        raise UsageError(message)
    check([Result(args.output, Path(args.output), is_onnx)], [args.model])
    model = xl.load_model(args.model)
    from xplayers.onnx import export  # where its packages may be missing

    export(model, args.output)
    sample = ", ".join(map(str, model.shape or model.architecture.sample))
    print_line(
        f"saved in {args.output}: x (N, {sample}), float32, to "
        f"{'probabilities' if model.classes else 'values'} (N, {model.architecture.outputs})"
    )
