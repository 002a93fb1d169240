"""The options of a run in a TOML file, from which it can be repeated."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xplayers as xl
from xplayers.cli.datasets import BUILT_IN
from xplayers.cli.messages import Mistake, complain
from xplayers.cli.results import Result
from xplayers.saving.files import opened, replacing
from xplayers.saving.kinds import kind_of_file

NAME = "config.toml"
OF_THE_CALL = ("config", "debug", "help", "resume")  # and not of the run
# Where a run has put its results: another one puts them elsewhere.
RESULTS = ("save", "plot", "log", "checkpoint_dir")
# What has to be the same in a run that goes on; its data are known by their digest.
SAME = ("model", "hidden", "channels", "optimizer", "seed", "batch_size", "shift", "flip")
OTHER = "that file is of another run, or was written or changed by hand"
_OF = b"# Of: "


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
        kind = kind_of_file(path)
        what = f" is {kind}, not TOML" if kind and not kind.startswith("a t") else ""
        message = f"--config {path}{what}: {error}"
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


def results(args: argparse.Namespace) -> list[Result]:
    """Return where the options of a run are written: beside each of its results."""
    beside: dict[Path, list[str]] = {}
    for name, suffix in ((args.save, ".safetensors"), (args.log, ".jsonl")):
        if name is not None:
            path = Path(name)
            # No other suffix is left out: that of lr-0.1 is a part of its name.
            stem = path.name.removesuffix(suffix) or path.name
            beside.setdefault(path.with_name(f"{stem}.{NAME}"), []).append(path.name)
    if args.checkpoint_dir is not None:
        beside[Path(args.checkpoint_dir) / NAME] = []
    return [
        Result(f"{path} (the options of the run)", path, _own(args, names), OTHER)
        for path, names in beside.items()
    ]


def _own(args: argparse.Namespace, names: list[str]) -> Callable[[Path], bool]:
    """Return whether a file of options is of an earlier run with a result of these names."""

    def own(path: Path) -> bool:
        return (args.resume and not names) or _is_of(path, names)

    return own


def _is_of(path: Path, names: list[str]) -> bool:
    """Whether xplayers has written a file of options, with results of these names, as it is."""
    mark, _, rest = path.read_bytes().partition(b"\n")
    if mark != _mark(rest):
        return False
    found = _origin(rest)["results"]
    return not names or not found or not set(names).isdisjoint(found)


def _mark(rest: bytes) -> bytes:
    """Return the first line of a file of options. Who changes the others makes it his own."""
    return f"# xplayers; sha256 of the rest: {hashlib.sha256(rest).hexdigest()}".encode()


def _origin(rest: bytes) -> dict[str, Any]:
    """Return what the second line says: of which results the options are, and of which data."""
    return json.loads(rest.partition(b"\n")[0].removeprefix(_OF))


def check_same(args: argparse.Namespace, digest: str) -> None:
    """Check that the run in a folder of checkpoints was one of these options and data."""
    path = Path(args.checkpoint_dir) / NAME
    if not path.exists():
        return
    text = path.read_bytes()
    try:
        was = tomllib.loads(text.decode())
        data = _origin(text.partition(b"\n")[2])["data"]
    except (ValueError, TypeError, KeyError):  # changed by hand
        was, data = {}, digest
    changed = [
        f"{option} was {was[option]}, is {value}"
        for option, value in ((name.replace("_", "-"), getattr(args, name)) for name in SAME)
        if option in was and was[option] != value
    ]
    if data != digest:
        changed.append(f"the data are not what was in {was.get('dataset', args.dataset)}")
    if changed:
        message = (
            f"--resume: {args.checkpoint_dir} is of another run: {'; '.join(changed)}. Leave out "
            "what differs, or begin a run in another folder"
        )
        raise Mistake(message)


def write(path: Path, args: argparse.Namespace, backend: str, digest: str) -> None:
    """Write the options of a run.

    `backend` is the library that it computes with, `digest` that of its data. The file of a run
    that goes on stays as it is where it was changed by hand.
    """
    if path.exists() and path.stat().st_size and not _is_of(path, []):
        complain("warning", f"{path} was changed by hand, and stays as it is")
        return
    options = {
        name: value
        for name, value in {**vars(args), "backend": backend}.items()
        if value is not None and name not in (*OF_THE_CALL, *RESULTS, "run")
    }
    if options["dataset"] not in BUILT_IN:  # from wherever it is repeated
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
    """Return a line of TOML, which is UTF-8: the name of a file that is not becomes a comment."""
    try:
        return line.encode()
    except UnicodeEncodeError:
        return f"# not UTF-8, so say it: {line}".encode("utf-8", "backslashreplace")


def _toml(value: Any) -> str:
    """Return a value in TOML, whose strings are JSON's but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
