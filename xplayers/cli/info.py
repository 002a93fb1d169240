"""``xplayers info``: versions, libraries and devices."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import textwrap

import xplayers as xl
from xplayers.arrays import devices
from xplayers.cli.messages import print_line

# Packages that add something, by their extra, and what.
BESIDE = {
    "numba": ("numba", "machine code for NumPy"),
    "tqdm": ("train", "progress bars"),
    "matplotlib": ("train", "plots"),
    "mpi4py": ("mpi", "many processes"),
    "pillow": ("images", "folders of images"),
    "onnx": ("onnx", "export"),
    "scikit-learn": ("sklearn", "estimators"),
}

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
    rows += map(_beside, BESIDE)
    names = max(len(name) for name, _, _ in rows)
    versions = max(len(version) for _, version, text in rows if text)
    for name, version, text in rows:
        print_line(f"{name:{names}}  {version:{versions}}  {text}".rstrip())


def _beside(name: str) -> tuple[str, str, str]:
    """Return the row of a package that is used where it is installed."""
    extra, purpose = BESIDE[name]
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return name, "-", f'{purpose}: pip install "xplayers[{extra}]"'
    return name, version, purpose + (f" ({_mpi()})" if name == "mpi4py" else "")


def _mpi() -> str:
    """Return the MPI library that mpi4py finds, which is not initialized."""
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError):
        return "it finds no MPI library: pip install mpich"
    return MPI.Get_library_version().partition("\n")[0].strip()[:60]
