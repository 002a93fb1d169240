"""The arguments of the command: kinds of numbers, and those that several parts have."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
from typing import Any, NoReturn

from xplayers.arrays import devices
from xplayers.arrays.devices import Found
from xplayers.cli.messages import Mistake, stdout


class Parser(argparse.ArgumentParser):
    """A parser whose errors are like all others of the command."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong."""
        if re.match(r"unrecognized arguments: [^-]", message):
            message += "; data are given by --dataset"
        message = f"{message} (see {self.prog} --help)"
        raise Mistake(message)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print a help, which nobody may read any more."""
        stdout.write(message)
        stdout.flush()


def positive_integer(text: str) -> int:
    """Return an integer of at least 1."""
    return _integer(text, least=1)


def natural_number(text: str) -> int:
    """Return an integer of at least 0."""
    return _integer(text, least=0)


def _integer(text: str, least: int) -> int:
    with contextlib.suppress(ValueError):
        if int(text) >= least:
            return int(text)
    message = f"{text!r} is not an integer of at least {least}"
    raise argparse.ArgumentTypeError(message)


def positive_number(text: str) -> float:
    """Return a number above 0 that is finite."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    message = f"{text!r} is not a positive number"
    raise argparse.ArgumentTypeError(message)


def pattern(text: str) -> str:
    """Return a regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        message = f"{text!r} is no regular expression: {error}"
        raise argparse.ArgumentTypeError(message) from error
    return text


def path(text: str) -> str:
    """Return the name of a file; ``~`` is a home, which a shell misses in ``--save=~/net``."""
    found = os.path.expanduser(text)
    if not text or "\0" in text:
        message = f"{text!r} is no name of a file"
        raise argparse.ArgumentTypeError(message)
    if found.startswith("~") and (found == "~" or found[1] in "/\\"):
        message = f"{text}: there is no home directory; say HOME=... or the whole path"
        raise argparse.ArgumentTypeError(message)
    return found


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the saved model, and how much of the samples it is given at once."""
    add = parser.add_argument
    add("model", type=path, metavar="MODEL", help="file that `xplayers train --save` has written")
    add(
        "--batch-size",
        type=positive_integer,
        default=256,
        metavar="N",
        help="samples that are computed at once (default: %(default)s)",
    )


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add where to compute."""
    parser.add_argument(
        "--backend",
        choices=("auto", "numpy", "cupy", "torch", "jax"),
        default="auto",
        help="library to compute with; auto: CuPy if it finds a GPU, else NumPy "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="device of that library, as `xplayers info` lists them: cpu, cuda:0, ...; auto: the "
        "first (default: %(default)s)",
    )


def place(args: argparse.Namespace) -> tuple[Found, str]:
    """Return the library and device that are asked for, and why it is not the GPU."""
    found, why = devices.choose(args.backend)
    if found.why:
        message = f"--backend {args.backend}: {found}; {found.fix}"
        raise Mistake(message)
    if args.device != "auto":
        try:
            found = devices.take(found, args.device)
        except ValueError as error:
            message = f"--device {args.device}: {error}"
            raise Mistake(message) from error
    return found, why
