"""``python -m xplayers.book SCRIPT``: run a script of the book on these layers."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np

from xplayers.arrays.devices import look
from xplayers.book.device import Device
from xplayers.book.replacing import Reader, book_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; `argv` are its arguments, by default those of the process."""
    parser = argparse.ArgumentParser(
        prog="python -m xplayers.book",
        description="Run a script of Deep Learning from Scratch on the layers of xplayers.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--on", default="numpy", metavar="LIBRARY",
        help="where the arrays are: numpy, cupy, torch, or a device of it as torch:cuda",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", default="float64", choices=["float64", "float32"],
        help="what the script gets where it does not name a dtype",
    )  # fmt: skip
    parser.add_argument(
        "--compare", action="store_true",
        help="run it with the book's own code too, from one seed, and show both losses",
    )  # fmt: skip
    parser.add_argument("--losses", type=Path, help=argparse.SUPPRESS)  # of --compare
    parser.add_argument("--own", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("script", type=Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the script")
    args = parser.parse_args(argv)
    script = args.script.resolve()
    if not script.is_file():
        parser.error(f"there is no script {args.script}")
    if args.compare:
        command = [sys.executable, "-m", "xplayers.book"]
        return compare(command, ["--on", args.on, "--dtype", args.dtype], script, args.arguments)
    try:
        device = None if args.own else Device(args.on, args.dtype)
    except (ImportError, ValueError) as error:
        library = look(args.on.partition(":")[0]) if isinstance(error, ImportError) else None
        missing = library and library.why and f"{library.name} {library.why}: {library.fix}"
        parser.error(missing or str(error))
    run(script, args.arguments, device, args.losses)
    return 0


def run(script: Path, arguments: list[str], device: Device | None, losses: Path | None) -> None:
    """Run a script, and say at its end what was replaced; `losses` is a file to write them to."""
    recorded = Losses() if losses else None
    reader = Reader(book_of(script), device, recorded and recorded.record)
    if recorded:
        np.random.seed(0)  # noqa: NPY002 - of scripts that use it
    start = time.perf_counter()
    try:
        with device.accelerated() if device else contextlib.nullcontext():
            reader.run(script, arguments)
    except URLError as error:  # as in dataset/mnist.py
        error.add_note(
            "xplayers.book: the script could not download its data. Put the files, of MNIST "
            "train-images-idx3-ubyte.gz and the three others, into the book's folder `dataset`."
        )
        raise
    finally:
        for module, names in reader.replaced.items():
            others = f"; yours: {', '.join(reader.own[module])}" if reader.own[module] else ""
            _say(f"{module}: {', '.join(names)} of xplayers{others}")
        if device and not reader.replaced:
            _say("nothing was replaced: the script imports no common.layers and the like")
        if device and device.on_host:
            _say(f"computed by NumPy on the host: {', '.join(sorted(device.on_host))}")
    if losses and recorded:
        values = [float(v) for v in recorded.layers or recorded.functions]
        losses.write_text(json.dumps([values, time.perf_counter() - start]))


def _say(text: str) -> None:
    print(f"xplayers.book: {text}", file=sys.stderr)


class Losses:
    """What the losses of a script return, in their order."""

    def __init__(self) -> None:
        self.layers: list[Any] = []
        self.functions: list[Any] = []  # of cross_entropy_error, of scripts without layers

    def record(self, module: str, names: dict[str, Any]) -> None:
        """Let the losses in an imported module write down what they return."""
        for name, value in [*names.items()]:
            if name.endswith("WithLoss") and isinstance(value, type):
                forward = _written(value.forward, self.layers)
                names[name] = type(name, (value,), {"forward": forward})
            elif name == "cross_entropy_error" and module == "functions":
                names[name] = _written(value, self.functions)


def _written(function: Any, values: list[Any]) -> Any:
    def written(*args: Any) -> Any:
        values.append(function(*args))
        return values[-1]

    return written


def compare(command: list[str], options: list[str], script: Path, arguments: list[str]) -> int:
    """Run a script both ways, and print the losses side by side."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "losses.json")
        for way in (["--own"], options):
            parts = [*command, *way, "--losses", str(file), str(script), *arguments]
            code = subprocess.run(parts, stdout=subprocess.DEVNULL, env=os.environ).returncode
            if code:
                return code
            results.append(json.loads(file.read_text()))
    (own, seconds), (ours, our_seconds) = results
    print(f"{'loss':>7} {'the book':>14} {'xplayers':>14}")
    n = min(len(own), len(ours))
    for i in sorted({round(k * (n - 1) / 9) for k in range(10)}) if n else ():
        print(f"{i + 1:7} {own[i]:14.8f} {ours[i]:14.8f}")
    difference = max((abs(a - b) for a, b in zip(own, ours, strict=False)), default=0.0)
    print(f"largest difference of {n} losses: {difference:.1e}")
    print(f"seconds: {seconds:.1f} and {our_seconds:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
