"""The whole command: which part of it runs, and how it ends."""

from __future__ import annotations

import argparse
import contextlib
import sys
import traceback
import warnings
from collections.abc import Sequence

import xplayers as xl
from xplayers.cli import bench, config, evaluate, info, predict, train
from xplayers.cli.arguments import Parser
from xplayers.cli.messages import (
    INTERRUPTED,
    PIPE_CLOSED,
    Mistake,
    abandon,
    complain,
    in_words,
    note,
    print_error,
    stdout,
    warn,
)

PARTS = (train, evaluate, predict, bench, info)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        Exit code: 0; 2 after an error, which is one line on stderr (with ``--debug`` below a
        traceback); 130 after Ctrl-C; 141 where nobody reads the output any more.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    stdout.begin()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = warn
            args = _arguments(argv)
            code = args.run(args)
        stdout.flush()
    except BrokenPipeError:
        abandon(sys.stdout)
        return PIPE_CLOSED
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    except Exception as error:
        if "--debug" in argv:
            for line in traceback.format_exc().splitlines():
                print_error(line)
        complain("error", in_words(error))
        with contextlib.suppress(Exception):
            stdout.flush()
        return 2
    return code or 0


def _parser() -> Parser:
    parser = Parser(
        prog="xplayers",
        description="Train a network, use it, and say what there is to compute with.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"xplayers {xl.__version__}")
    names = ",".join(part.NAME for part in PARTS)
    commands = parser.add_subparsers(metavar=f"{{{names}}}", required=True)
    for part in PARTS:
        sentence = f"{part.SUMMARY[0].upper()}{part.SUMMARY[1:]}."
        one = commands.add_parser(
            part.NAME, help=part.SUMMARY, description=sentence, allow_abbrev=False
        )
        one.set_defaults(run=part.run)
        one.add_argument(
            "--debug", action="store_true", help="after an error, show where in the code it was"
        )
        part.add_arguments(one)
    return parser


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments; those of a file of ``train`` come first, so that later ones win."""
    parser = _parser()
    args = parser.parse_args(argv)
    path = config.to_read(args)
    if path is None:
        return args
    given = config.read(path)
    try:
        parser.parse_args(["train", *given])
    except Mistake as mistake:
        message = f"{path}: {mistake}"
        raise Mistake(message) from mistake
    return parser.parse_args(["train", *given, *argv[1:]])
