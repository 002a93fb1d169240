"""Two processes by MPI; `nox -s "mpi(mpich)"` and `nox -s "mpi(openmpi)"` have one each."""

from __future__ import annotations

import os
import re
import time
from importlib.util import find_spec
from pathlib import Path

import mpi_programs as programs
import numpy as np
import pytest
from helpers import assert_same_bits, python
from mpi_jobs import ENVIRONMENT, NO_MPI, mpiexec

import xplayers as xl
from benchmarks import parallel
from xplayers.cli import main

pytestmark = [pytest.mark.host, NO_MPI]
LIBRARIES = [name for name in ("numpy", "torch") if find_spec(name)]


def run(*arguments, module=()):
    """Run a program in two processes, and return what they said and how they ended."""
    if isinstance(arguments[-1], Path):
        arguments[-1].mkdir(exist_ok=True)
    return mpiexec(2, *module, programs.__file__, *arguments)


def command(*arguments):
    return mpiexec(2, "-m", "xplayers", *arguments)


def assert_finished(ended):
    assert ended.returncode == 0, ended.stderr
    assert "finished" in ended.stdout


@pytest.mark.parametrize("library", LIBRARIES)
def test_sums_and_broadcasts(library):
    assert_finished(run("sums", library))


@pytest.mark.parametrize("name", programs.NETWORKS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_two_processes_train_as_one(library, name, tmp_path):
    """For 100 steps; the batches of one that is ``normalized`` are synchronized."""
    assert_finished(run("train", library, name, tmp_path))
    alone = python(programs.__file__, "train", library, name, tmp_path, env=ENVIRONMENT)
    assert_finished(alone)
    for dtype, tolerance in (("float32", 1e-6), ("float64", 1e-12)):
        one, first, second = (
            np.load(tmp_path / f"{dtype} {name}.npz") for name in ("0 of 1", "0 of 2", "1 of 2")
        )
        for k in one.files:
            assert_same_bits(first[k], second[k], k)
            largest = np.abs(one[k]).max() if "running" in k else 1.0  # of statistics up to 2.7
            atol = tolerance * max(largest, 1.0)
            np.testing.assert_allclose(first[k], one[k], rtol=0, atol=atol, err_msg=k)


@pytest.mark.parametrize(
    ("how", "words"),
    [("label", "for 3 classes"), ("exit", "")],
)
def test_a_rank_that_ends_ends_the_others(how, words):
    module = ("-m", "mpi4py") if how == "exit" else ()
    start = time.perf_counter()
    ended = run("one_ends", how, module=module)
    assert ended.returncode != 0
    assert time.perf_counter() - start < 20
    assert words in ended.stderr
    assert "finished" not in ended.stdout


def test_a_run_survives_a_kill(tmp_path):
    assert_finished(run("fit", "whole", tmp_path / "whole"))
    killed = run("fit", "kill", tmp_path)
    assert killed.returncode != 0
    assert not list(tmp_path.glob("*.npz"))
    assert "step-000000010" in str(list((tmp_path / "checkpoints").iterdir()))
    again = run("fit", "again", tmp_path)
    assert_finished(again)
    assert again.stderr.count("epoch 4") == 1  # of rank 0 alone
    for rank in (0, 1):
        whole = np.load(tmp_path / "whole" / f"whole {rank}.npz")
        other = np.load(tmp_path / f"again {rank}.npz")
        for name in whole.files:
            assert_same_bits(other[name], whole[name], name)


def test_an_interrupt_on_one_rank_stops_all(tmp_path):
    ended = run("fit", "interrupt", tmp_path)
    assert_finished(ended)
    assert "stopped: interrupted" in ended.stdout
    assert "step-000000013" in str(list((tmp_path / "checkpoints").iterdir()))  # after the next
    first, second = (np.load(tmp_path / f"interrupt {rank}.npz") for rank in (0, 1))
    for name in first.files:
        assert_same_bits(first[name], second[name], name)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("nan", "the loss of step 7 is not finite. The batch is not finite: there is inf or NaN in "
         "x. That is on rank 1."),
        ("memory", "MemoryError: Trainer: out of memory in step 13, with batches of"),
        ("exit", ""),
    ],
)  # fmt: skip
def test_a_failure_of_one_rank_ends_the_run(how, words, tmp_path):
    ended = run("fit", how, tmp_path)
    assert ended.returncode != 0
    assert words in ended.stderr
    assert "finished" not in ended.stdout


def test_the_command_trains_as_one_process(tmp_path):
    options = ("train", "--backend", "numpy", "--batch-size", "59", "--epochs", "2")
    results = ("--save", tmp_path / "two.safetensors", "--checkpoint-dir", tmp_path / "checkpoints")
    ended = command(*options, *results)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].endswith(", 2 processes")
    assert [line.partition(" ")[0] for line in lines].count("epoch") == 2
    again = command(*options[:-1], "3", *results[2:], "--resume")
    assert "epoch 3/3" in again.stdout, again.stderr
    assert main([*options, "--save", str(tmp_path / "one.safetensors")]) == 0
    one, two = (xl.load_model(tmp_path / f"{name}.safetensors").net for name in ("one", "two"))
    for name, a in one.arrays.items():
        np.testing.assert_allclose(two.arrays[name], a, rtol=0, atol=1e-4, err_msg=name)


def test_launch_starts_the_command():
    ended = python("-m", "xplayers", "launch", "--", "train", "--epochs", "1")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0].endswith(", 2 processes")


def test_the_command_says_once_what_is_wrong():
    ended = command("train", "--epochs", "0")
    assert ended.returncode != 0
    assert ended.stderr.count("xplayers: error: rank ") == 1
    assert "rank 0: argument --epochs" in ended.stderr


def test_the_command_ends_where_a_rank_stalls():
    code = (
        "import sys, time, xplayers as xl\n"
        "call = xl.TrainStep.__call__\n"
        "def stall(step, *args):\n"
        "    if step.group.rank: time.sleep(60)\n"
        "    return call(step, *args)\n"
        "xl.TrainStep.__call__ = stall\n"
        "from xplayers.cli import main\n"
        "sys.exit(main(['train', '--backend', 'numpy', '--stall-timeout', '1']))\n"
    )
    start = time.perf_counter()
    ended = mpiexec(2, "-c", code)
    assert ended.returncode != 0
    assert "Timeout" in ended.stderr
    assert time.perf_counter() - start < 30


def test_two_processes_are_measured_beside_one(monkeypatch, capsys):
    rows = {"one": (1, 1), "no sum": (2, 1), "two": (2, 1)}
    for name, value in {"ROWS": rows, "APART": "no sum", "STEPS": 1, "TURNS": 1}.items():
        monkeypatch.setattr(parallel, name, value)
    for name in ENVIRONMENT.keys() - os.environ.keys():
        monkeypatch.setenv(name, ENVIRONMENT[name])
    monkeypatch.setattr(parallel, "AIMS", {"one": 1e9})
    assert parallel.main(1) == 0
    said = capsys.readouterr().out
    assert "two / one: " in said
    assert re.search(r"\(aim: 1000000000.0, met\); with no sum at all \d+\.\d\d\n", said)
    assert re.search(r"^no sum +\d+\.\d ms$", said, re.M)
    assert re.search(r"two .* in the sum over the processes, which alone takes \d+%\n", said)


def test_ranks_that_differ_say_so():
    ended = run("differ")
    assert ended.returncode != 0
    assert "TrainStep: the processes differ: " in ended.stderr
    assert "optimizer is Adam(" in ended.stderr
    assert "on rank 1, SGD(" in ended.stderr
    assert "Rank 1 of 2 has failed, which ends all." in ended.stderr
