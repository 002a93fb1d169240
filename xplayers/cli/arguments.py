"""The argument parser: types of arguments, and arguments that several subcommands share."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
from collections.abc import Callable
from typing import Any, NoReturn

from xplayers.arrays import devices
from xplayers.arrays.devices import LibraryInfo
from xplayers.cli.messages import UsageError, stdout


class Parser(argparse.ArgumentParser):
    """A parser that raises `UsageError`."""

    def error(self, message: str) -> NoReturn:
        """Raise the error."""
        if re.match(r"unrecognized arguments: [^-]", message):
            message += "; use --dataset for data"
        message = f"{message} (see {self.prog} --help)"
        raise UsageError(message)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print the help; the pipe may be broken."""
        stdout.write(message)
        stdout.flush()


def _number(kind: type, in_range: Callable[[Any], bool], expected: str) -> Callable[[str], Any]:
    """Return a type of arguments: numbers of a `kind` in a range."""

    def parse(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if in_range(kind(text)):
                return kind(text)
        message = f"{text!r} is not {expected}"
        raise argparse.ArgumentTypeError(message)

    return parse


positive_integer = _number(int, lambda n: n >= 1, "an integer of at least 1")
natural_number = _number(int, lambda n: n >= 0, "an integer of at least 0")
positive_number = _number(float, lambda x: 0 < x < math.inf, "a positive number")
nonnegative_number = _number(float, lambda x: 0 <= x < math.inf, "a number of at least 0")
fraction = _number(float, lambda x: 0 <= x < 1, "a number of at least 0 and below 1")


def class_weight(text: str) -> Any:
    """Return the weight of a class, or the word that asks for balanced ones."""
    return text if text == "balanced" else nonnegative_number(text)


def pattern(text: str) -> str:
    """Return a regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        message = f"{text!r} is not a regular expression: {error}"
        raise argparse.ArgumentTypeError(message) from error
    return text


def path(text: str) -> str:
    """Return a path; ``~`` is expanded, which the shell does not do in ``--save=~/net``."""
    expanded = os.path.expanduser(text)
    if not text or "\0" in text:
        message = f"{text!r} is not a file name"
        raise argparse.ArgumentTypeError(message)
    if expanded.startswith("~") and (expanded == "~" or expanded[1] in "/\\"):
        message = f"{text}: there is no home directory; set HOME or pass an absolute path"
        raise argparse.ArgumentTypeError(message)
    return expanded


# fmt: off
def add_model_file(parser: argparse.ArgumentParser) -> None:
    """Add the argument for a saved model."""
    parser.add_argument("model", type=path, metavar="MODEL",
        help="file written by `xplayers train --save`")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for a saved model and the batch size."""
    add_model_file(parser)
    add = parser.add_argument
    add("--batch-size", type=positive_integer, default=256, metavar="N",
        help="samples per batch (default: %(default)s)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the options for library and device."""
    add = parser.add_argument
    add("--backend", choices=("auto", "numpy", "cupy", "torch", "jax"), default="auto",
        help="library; auto: CuPy if it finds a GPU, else NumPy (default: %(default)s)")
    add("--device", default="auto", metavar="NAME",
        help="device of that library, as listed by `xplayers info`: cpu, cuda:0, ...; auto: the "
        "first (default: %(default)s)")
# fmt: on


def choose_device(args: argparse.Namespace) -> tuple[LibraryInfo, str]:
    """Return the selected library and device, and why it is not the GPU."""
    target, why = devices.choose(args.backend)
    if target.why:
        message = f"--backend {args.backend}: {target}; {target.fix}"
        raise UsageError(message)
    if args.device != "auto":
        try:
            target = devices.take(target, args.device)
        except ValueError as error:
            message = f"--device {args.device}: {error}"
            raise UsageError(message) from error
    return target, why
