"""Configuration files: the options of a run in TOML, from which it can be repeated."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xplayers as xl
from xplayers.cli.datasets import BUILT_IN
from xplayers.cli.messages import UsageError, print_warning
from xplayers.cli.results import Result
from xplayers.saving.files import opened, replacing
from xplayers.saving.kinds import kind_of_file

NAME = "config.toml"
# Options of a call, not of the run.
OF_THE_CALL = ("config", "debug", "help", "resume", "stall_timeout", "elastic")
# Paths of results, which are not repeated.
RESULTS = ("save", "plot", "log", "checkpoint_dir")
# Options that have to be the same when a run is resumed; data are compared by digest.
SAME = (
    "task", "model", "hidden", "channels", "optimizer", "schedule", "weight_decay",
    "label_smoothing", "class_weights", "dropout", "patience", "seed", "batch_size", "shift",
    "flip",
)  # fmt: skip
OTHER = "that file belongs to another run, or was written or edited by hand"
_OF = b"# Of: "


def to_read(args: argparse.Namespace) -> Path | None:
    """Return the configuration file to read: --config, or that of a resumed run."""
    if getattr(args, "config", None) is not None:
        return Path(args.config)
    if getattr(args, "resume", False) and args.checkpoint_dir is not None:
        path = Path(args.checkpoint_dir) / NAME
        return path if path.exists() else None
    return None


def read(path: Path) -> list[str]:
    """Return the options in a file as arguments of ``xplayers train``."""
    try:
        with opened(path) as file:
            table = tomllib.load(file)
    except ValueError as error:  # not TOML, not UTF-8, or not a file
        kind = kind_of_file(path)
        fault = f" is {kind}, not TOML" if kind and not kind.startswith("a t") else ""
        message = f"--config {path}{fault}: {error}"
        raise UsageError(message) from error
    return [argument for name, value in table.items() for argument in _option(path, name, value)]


def _option(path: Path, name: str, value: Any) -> Iterator[str]:
    option = name.replace("_", "-")
    if name in OF_THE_CALL:
        message = f"{path}: {name} is an option of a call, not of a run; remove it"
        raise UsageError(message)
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
            raise UsageError(message)


def results(args: argparse.Namespace) -> list[Result]:
    """Return the configuration files to write: one beside each result."""
    names_by_path: dict[Path, list[str]] = {}
    for name, suffix in ((args.save, ".safetensors"), (args.log, ".jsonl")):
        if name is not None:
            path = Path(name)
            # Other suffixes are kept: that of lr-0.1 is part of the name.
            stem = path.name.removesuffix(suffix) or path.name
            names_by_path.setdefault(path.with_name(f"{stem}.{NAME}"), []).append(path.name)
    own: dict[Path, Callable[[Path], bool]] = {
        path: functools.partial(_is_of, names) for path, names in names_by_path.items()
    }
    if args.checkpoint_dir is not None:
        is_of_any = functools.partial(_is_of, [])
        own[Path(args.checkpoint_dir) / NAME] = (lambda _: True) if args.resume else is_of_any
    return [Result(f"{path} (the options of the run)", path, own[path], OTHER) for path in own]


def _is_of(names: list[str], path: Path) -> bool:
    """Whether it is an unedited configuration file of xplayers, with results of these names."""
    mark, _, rest = path.read_bytes().partition(b"\n")
    if mark != _mark(rest):
        return False
    results = _origin(rest)["results"]
    return not names or not results or not set(names).isdisjoint(results)


def _mark(rest: bytes) -> bytes:
    """Return the first line of a configuration file, which detects edits of the rest."""
    return f"# xplayers; sha256 of the rest: {hashlib.sha256(rest).hexdigest()}".encode()


def _origin(rest: bytes) -> dict[str, Any]:
    """Return the contents of the second line: names of the results, and the digest of the data."""
    return json.loads(rest.partition(b"\n")[0].removeprefix(_OF))


def check_same(args: argparse.Namespace, digest: str) -> None:
    """Check that the run in the checkpoint directory had these options and data."""
    path = Path(args.checkpoint_dir) / NAME
    if not path.exists():
        return
    text = path.read_bytes()
    try:
        was = tomllib.loads(text.decode())
        data = _origin(text.partition(b"\n")[2])["data"]
    except (ValueError, TypeError, KeyError):  # edited by hand
        was, data = {}, digest
    changed = [
        f"{option} was {was[option]}, is {value}"
        for option, value in ((name.replace("_", "-"), getattr(args, name)) for name in SAME)
        if option in was and was[option] != value
    ]
    if data != digest:
        changed.append(f"the data differ from those of {was.get('dataset', args.dataset)} then")
    if changed:
        message = (
            f"--resume: {args.checkpoint_dir} belongs to another run: {'; '.join(changed)}. Remove "
            "these options, or use another folder"
        )
        raise UsageError(message)


def write(path: Path, args: argparse.Namespace, backend: str, digest: str) -> None:
    """Write the configuration file of a run.

    `backend` is its library, `digest` that of its data. The file of a resumed run is kept if it was
    edited by hand.
    """
    if path.exists() and path.stat().st_size and not _is_of([], path):
        print_warning(f"{path} was edited by hand and is not changed")
        return
    options = {
        name: value
        for name, value in {**vars(args), "backend": backend}.items()
        if value is not None and name not in (*OF_THE_CALL, *RESULTS, "run")
    }
    if options["dataset"] not in BUILT_IN:  # independent of the working directory
        options["dataset"] = os.path.abspath(options["dataset"])
    if "data_dir" in options:
        options["data_dir"] = os.path.abspath(options["data_dir"])
    names = [Path(name).name for name in (args.save, args.log) if name is not None]
    lines = [
        _OF.decode() + json.dumps({"results": names, "data": digest}),
        f"# xplayers {xl.__version__}. To repeat the run: xplayers train --config "
        f"{path.name if path.name.isprintable() else ascii(path.name)}",
        *(f"{name.replace('_', '-')} = {_toml(value)}" for name, value in options.items()),
    ]
    rest = b"".join(_encoded(line) + b"\n" for line in lines)
    with replacing(path) as file:
        file.write(_mark(rest) + b"\n" + rest)


def _encoded(line: str) -> bytes:
    """Encode a line of TOML as UTF-8; with a file name that is not UTF-8 it becomes a comment."""
    try:
        return line.encode()
    except UnicodeEncodeError:
        return f"# not UTF-8, pass it as an option: {line}".encode("utf-8", "backslashreplace")


def _toml(value: Any) -> str:
    """Return a value in TOML, whose strings are those of JSON except for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
