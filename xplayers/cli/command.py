"""The entry point of the command: subcommands, errors and exit codes."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

import xplayers as xl
from xplayers.cli import bench, config, evaluate, export, info, launch, predict, processes, train
from xplayers.cli.arguments import Parser
from xplayers.cli.messages import (
    INTERRUPTED,
    PIPE_CLOSED,
    UsageError,
    error_text,
    print_error,
    print_note,
    redirect_to_null,
    stdout,
    warn,
    write_stderr,
)
from xplayers.parallel import watching

PARTS = (train, evaluate, predict, export, bench, info, launch)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        Exit code: 0; 2 after an error, which is one line on stderr (with ``--debug`` after a
        traceback); 130 after Ctrl-C; 141 after a broken pipe.

    Examples
    --------
    >>> from xplayers.cli import main
    >>> main(["train", "--epochs", "many"])  # says on stderr what --epochs has to be
    2
    """
    if argv is None:
        watching.begin()
        processes.divide_threads()
    argv = sys.argv[1:] if argv is None else list(argv)
    stdout.begin()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = warn
            args = _arguments(argv)
            code = args.run(args)
        stdout.flush()
    except BrokenPipeError:
        redirect_to_null(sys.stdout)
        code = PIPE_CLOSED
    except KeyboardInterrupt:
        print_note("interrupted")
        code = INTERRUPTED
    except Exception as error:
        processes.wait_for_first()
        if "--debug" in argv:
            for line in traceback.format_exc().splitlines():
                write_stderr(line)
        print_error(processes.named(error_text(error)))
        with contextlib.suppress(Exception):
            stdout.flush()
        code = 2
    else:
        return code or 0
    processes.end_all(code)
    return code


def _parser() -> Parser:
    parser = Parser(
        prog="xplayers",
        description="Train a network, use it, and list libraries and devices.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"xplayers {xl.__version__}")
    names = ",".join(part.NAME for part in PARTS)
    commands = parser.add_subparsers(metavar=f"{{{names}}}", required=True)
    for part in PARTS:
        sentence = f"{part.SUMMARY[0].upper()}{part.SUMMARY[1:]}."
        subparser = commands.add_parser(
            part.NAME, help=part.SUMMARY, description=sentence, allow_abbrev=False
        )
        subparser.set_defaults(run=part.run)
        subparser.add_argument(
            "--debug", action="store_true", help="after an error, print the traceback"
        )
        part.add_arguments(subparser)
    return parser


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments; those of a file of ``train`` come first and are overridden."""
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what could follow
        import argcomplete

        argcomplete.autocomplete(parser)
    args = parser.parse_args(argv)
    path = config.to_read(args)
    if path is None:
        return args
    options = config.read(path)
    try:
        parser.parse_args(["train", *options])
    except UsageError as error:
        message = f"{path}: {error}"
        raise UsageError(message) from error
    return parser.parse_args(["train", *options, *argv[1:]])
