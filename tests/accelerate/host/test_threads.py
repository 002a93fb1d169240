"""Work that is shared out among threads."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from xplayers.accelerate.host import threads
from xplayers.accelerate.host.libc import of_c


def test_all_parts_are_done_once(two_threads):
    for n in (0, 1, 2, 100):
        seen = []
        threads.share(seen.extend, range(n))
        assert sorted(seen) == list(range(n))


def test_who_is_kept_waiting_takes_fewer_parts(two_threads):
    caller, done = threading.get_ident(), threading.Event()
    counts = {}

    def run(parts):
        for part in parts:
            me = threading.get_ident()
            counts[me] = counts.get(me, 0) + 1
            if me != caller:
                assert done.wait(60)
            elif part == 99:
                done.set()
            else:
                while len(counts) < 2:  # until the other one has taken its part
                    done.wait(0.001)

    threads.share(run, range(100))
    assert counts.pop(caller) == 99
    assert [*counts.values()] == [1]


def test_an_error_in_a_thread_is_raised(two_threads):
    def run(parts):
        for part in parts:
            if part == 7:
                raise FloatingPointError(part)

    with pytest.raises(FloatingPointError, match="7"):
        threads.share(run, range(100))


@pytest.mark.skipif(threads._this_core() < 0, reason="the system does not tell the core")
def test_other_threads_leave_the_core_of_the_caller(two_threads, monkeypatch):
    usable, caller = os.sched_getaffinity(0), threading.get_ident()
    together = threading.Barrier(2)
    for core in (*usable, -1):  # each of them, and one that is not known
        monkeypatch.setattr(threads, "_this_core", lambda core=core: core)
        seen = {}

        def run(parts, seen=seen):
            for _ in parts:
                seen[threading.get_ident()] = os.sched_getaffinity(0)
                together.wait(60)

        threads.share(run, range(2))
        assert seen.pop(caller) == usable  # nothing is done to the caller
        if core >= 0:
            assert [*seen.values()] == [usable - {core} or usable]

    def forbidden(pid, cores):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    monkeypatch.setattr(threads, "_this_core", lambda: min(usable))
    done = []
    threads.share(done.extend, range(9))
    assert sorted(done) == list(range(9))


def test_a_part_may_share_out_work_itself(two_threads):
    done = []

    def run(parts):
        for part in parts:
            threads.share(done.extend, [(part, i) for i in range(3)])

    thread = threading.Thread(target=threads.share, args=(run, range(20)), daemon=True)
    thread.start()
    thread.join(60)
    assert sorted(done) == [(i, j) for i in range(20) for j in range(3)]


def test_where_there_are_no_threads_all_is_done_in_this_one(monkeypatch):
    def ended():
        message = "can't register atexit after shutdown"
        raise RuntimeError(message)

    monkeypatch.setattr(threads, "_pool", ended)
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    done = []
    threads.share(done.extend, range(9))
    assert done == [*range(9)]


def test_a_python_without_ctypes(two_threads, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctypes", None)
    monkeypatch.setattr(threads, "of_c", of_c.__wrapped__)
    assert threads._this_core() == -1
