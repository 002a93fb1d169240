"""The program that says which process of a job was killed, without MPI."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import types

import pytest

from xplayers.parallel import watching

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="pidfds are of Linux"),
]
CHILD = (
    "import mmap, os, sys\n"
    "file = os.memfd_create('flag')\n"
    "os.ftruncate(file, 1)\n"
    "flag = mmap.mmap(file, 1)\n"
    "print(file, flush=True)\n"
    "flag[0] = int(sys.stdin.readline())\n"
)
WORDS = "Rank {} of 4 has ended without a word; was it killed?\n"


@pytest.fixture
def children():
    """Three processes, which end when they are told to, with a flag or without."""
    line = [sys.executable, "-I", "-S", "-c", CHILD]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(line, **pipes) for _ in range(3)]
    yield started, [(c.pid, int(c.stdout.readline())) for c in started]
    for child in started:
        child.kill()
        child.communicate()


def end(child, flag):
    child.communicate(f"{flag}\n")


def kill(child):
    child.kill()
    child.wait()


@pytest.fixture
def words(children, monkeypatch, tmp_path):
    """Let `happen` happen to ranks 1 to 3, before or after the program is there; what it says."""
    _, processes = children
    monkeypatch.setenv(watching._OF_MPICH, "3")
    here, left, pids = watching.platform.node(), [], []
    monkeypatch.setattr(watching.atexit, "register", left.append)
    rows = [("elsewhere", 1, 1), *[(here, *process) for process in processes]]

    def said(happen, *, before):
        def spawned(path, line, environment, *, file_actions, setsid):
            assert line[:4] == [sys.executable, "-I", "-S", watching.__file__]
            if before:
                happen()
            words = os.POSIX_SPAWN_OPEN, 2, str(tmp_path / "words"), os.O_WRONLY | os.O_CREAT, 0o600
            actions = [*file_actions, words]
            pids.append(spawn(path, line, environment, file_actions=actions, setsid=setsid))

        spawn = os.posix_spawn
        monkeypatch.setattr(os, "posix_spawn", spawned)
        for rank in range(4):
            comm = types.SimpleNamespace(rank=rank, size=4, allgather=lambda row: rows)
            leave = watching.watch(comm)
            assert leave is left[rank]
            leave()
        if not before:
            happen()
        (pid,) = pids  # the lowest process of a machine has started it
        assert os.waitpid(pid, 0)[1] == 0
        return (tmp_path / "words").read_text()

    return said


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("victim", [0, 1])
def test_the_first_one_without_a_word_is_named(children, words, victim, before):
    """However late the program gets to see it: the others are ended soon after."""
    started, _ = children

    def happen():
        end(started[2], 1)
        kill(started[victim])
        kill(started[1 - victim])

    assert words(happen, before=before) == WORDS.format(victim + 1)


def test_nothing_is_said_of_those_that_end_as_they_should(children, words):
    def happen():
        for child in children[0]:
            end(child, 1)

    assert words(happen, before=False) == ""


def test_an_exit_without_a_word(children, words):
    started, _ = children

    def happen():
        end(started[0], 1)
        end(started[2], 0)

    assert words(happen, before=False) == WORDS.format(3)
    assert started[1].wait(20) == -signal.SIGKILL


def test_other_launchers_say_so_themselves(monkeypatch):
    monkeypatch.delenv(watching._OF_MPICH, raising=False)
    watching.watch(None)()


def test_where_it_is_not_allowed_nothing_is_started(monkeypatch):
    monkeypatch.setenv(watching._OF_MPICH, "2")

    def forbidden(pid):
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", forbidden)
    monkeypatch.setattr(os, "posix_spawn", lambda *_, **__: pytest.fail("it is started"))
    rows = [(watching.platform.node(), os.getpid(), 3)] * 2
    watching.watch(types.SimpleNamespace(rank=0, size=2, allgather=lambda row: rows))()
