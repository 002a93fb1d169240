"""``xplayers info``: versions, libraries and devices."""

from __future__ import annotations

import argparse
import platform
import textwrap

import xplayers as xl
from xplayers.arrays import devices
from xplayers.cli.messages import print_line

NAME = "info"
SUMMARY = "list libraries and devices, and their problems"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no options."""


def run(args: argparse.Namespace) -> None:
    """Print a table."""
    rows = [
        ("xplayers", xl.__version__, ""),
        ("python", platform.python_version(), ""),
        ("platform", platform.platform(), ""),
    ]
    for library in map(devices.look, devices.LIBRARIES):
        if library.why and library.name == "array-api-strict":
            continue  # only used in tests
        version = library.version or "-"
        if library.why:
            rows.append((library.name, version, library.why))
            rows += [("", "", line) for line in textwrap.wrap(f"-> {library.fix}", 66)]
        else:
            note = f" ({library.note})" if library.note else ""
            rows.append((library.name, version, ", ".join(library.devices) + note))
    names = max(len(name) for name, _, _ in rows)
    versions = max(len(version) for _, version, text in rows if text)
    for name, version, text in rows:
        print_line(f"{name:{names}}  {version:{versions}}  {text}".rstrip())
