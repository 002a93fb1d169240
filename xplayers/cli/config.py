"""The options of a run in a TOML file, from which it can be repeated."""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xplayers as xl
from xplayers._files import opened, replacing
from xplayers.cli.datasets import BUILT_IN
from xplayers.cli.words import Mistake

NAME = "config.toml"
OF_THE_CALL = ("config", "debug", "help", "resume")  # and not of the run
# Where a run has put its results: another one puts them elsewhere.
RESULTS = ("save", "plot", "log", "checkpoint_dir")


def to_read(args: argparse.Namespace) -> Path | None:
    """Return the file that the arguments ask for; a run that goes on has its own."""
    if getattr(args, "config", None) is not None:
        return Path(args.config)
    if getattr(args, "resume", False) and args.checkpoint_dir is not None:
        beside = Path(args.checkpoint_dir) / NAME
        return beside if beside.exists() else None
    return None


def read(path: Path) -> list[str]:
    """Return the options in a file as arguments of ``xplayers train``."""
    try:
        with opened(path) as file:
            table = tomllib.load(file)
    except ValueError as error:  # no TOML, no UTF-8, or no file
        message = f"--config {path}: {error}"
        raise Mistake(message) from error
    return [argument for name, value in table.items() for argument in _option(path, name, value)]


def _option(path: Path, name: str, value: Any) -> Iterator[str]:
    option = name.replace("_", "-")
    if name in OF_THE_CALL:
        message = f"{path}: {name} belongs to a call, not to a run; leave it out"
        raise Mistake(message)
    match value:
        case bool():
            yield f"--{option}" if value else f"--no-{option}"
        case list():
            yield f"--{option}"
            yield from map(str, value)
        case int() | float() | str():
            yield f"--{option}={value}"
        case _:
            message = f"{path}: {name} is a {type(value).__name__}; expected a string or number"
            raise Mistake(message)


def paths(args: argparse.Namespace) -> list[Path]:
    """Return where the options of a run are written: beside each of its results."""
    found = [Path(path).with_suffix(f".{NAME}") for path in (args.save, args.log) if path]
    if args.checkpoint_dir is not None:
        found.append(Path(args.checkpoint_dir) / NAME)
    return list(dict.fromkeys(found))


def write(path: Path, args: argparse.Namespace, backend: str) -> None:
    """Write the options of a run; `backend` is the library that it computes with."""
    options = {
        name: value
        for name, value in {**vars(args), "backend": backend}.items()
        if value is not None and name not in (*OF_THE_CALL, *RESULTS, "run")
    }
    for name in ("dataset", "data_dir"):  # from wherever it is repeated
        if options.get(name, BUILT_IN[0]) not in BUILT_IN:
            options[name] = os.path.abspath(options[name])
    lines = [
        f"# xplayers {xl.__version__}. To repeat the run: xplayers train --config {path.name}",
        *(f"{name.replace('_', '-')} = {_toml(value)}" for name, value in options.items()),
    ]
    with replacing(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def _toml(value: Any) -> str:
    """Return a value in TOML, whose strings are JSON's but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
