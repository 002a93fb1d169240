"""``xplayers info``."""

from __future__ import annotations

import argparse
import platform
import textwrap

import xplayers as xl
from xplayers.arrays import devices
from xplayers.cli.messages import say

NAME = "info"
SUMMARY = "say which libraries and devices there are, and what is wrong with them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: there is nothing to choose."""


def run(args: argparse.Namespace) -> None:
    """Print a table."""
    rows = [
        ("xplayers", xl.__version__, ""),
        ("python", platform.python_version(), ""),
        ("platform", platform.platform(), ""),
    ]
    for found in map(devices.look, devices.LIBRARIES):
        if found.why and found.name == "array-api-strict":
            continue  # of use in tests only, so nobody misses it
        version = found.version or "-"
        if found.why:
            rows.append((found.name, version, found.why))
            rows += [("", "", line) for line in textwrap.wrap(f"-> {found.fix}", 66)]
        else:
            note = f" ({found.note})" if found.note else ""
            rows.append((found.name, version, ", ".join(found.devices) + note))
    names = max(len(name) for name, _, _ in rows)
    versions = max(len(version) for _, version, words in rows if words)
    for name, version, words in rows:
        say(f"{name:{names}}  {version:{versions}}  {words}".rstrip())
