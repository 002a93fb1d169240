"""``xplayers bench``: the benchmarks of the repository, which are installed with the package."""

from __future__ import annotations

import argparse
import importlib
import sys
from importlib import metadata
from pathlib import Path

import xplayers as xl
from xplayers.cli.arguments import path, pattern, positive_integer
from xplayers.cli.messages import UsageError
from xplayers.cli.results import Result, check, is_measurements

NAME = "bench"
SUMMARY = "benchmark xplayers and other libraries on this CPU, in two minutes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--list", action="store_true", help="only list the benchmarks")
    add("--full", action="store_true", help="run all benchmarks, for up to an hour")
    add("--only", type=pattern, metavar="REGEX", help="workloads whose name matches")
    add("--implementations", type=pattern, metavar="REGEX", help="those whose name matches")
    add("--threads", type=positive_integer, metavar="N", help="for all libraries (default: cores)")
    add("--json", type=path, metavar="FILE", help="write the results to this file")


def run(args: argparse.Namespace) -> int:
    """Run ``python -m benchmarks``."""
    if args.json is not None:
        check([Result(f"--json {args.json}", Path(args.json), is_measurements)], [])
    folder = _folder()
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    benchmarks = importlib.import_module("benchmarks.__main__")
    argv = [flag for flag, on in (("--list", args.list), ("--quick", not args.full)) if on]
    for name in ("only", "implementations", "threads", "json"):
        if getattr(args, name) is not None:
            argv.append(f"--{name}={getattr(args, name)}")
    return benchmarks.main(argv)


def _folder() -> Path:
    """Return the directory of the package ``benchmarks``: in a clone, or installed."""
    clone = Path(xl.__file__).parents[1]
    if (clone / "pyproject.toml").exists() and (clone / "benchmarks").exists():
        return clone
    try:
        files = metadata.files("xplayers") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix().endswith("share/xplayers/benchmarks/__main__.py"):
            return Path(str(file.locate())).resolve().parents[1]
    message = "the benchmarks are not installed; run xplayers bench in a clone of the repository"
    raise UsageError(message)
