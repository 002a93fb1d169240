"""The program that says which process of a job was killed, without MPI: the tests launch."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from xplayers.parallel import watching

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="pidfds are of Linux"),
]
# Does what it is told to, line by line.
CHILD = f"""
import os, sys, time, importlib.util

spec = importlib.util.spec_from_file_location("watching", {watching.__file__!r})
watching = importlib.util.module_from_spec(spec)
spec.loader.exec_module(watching)


def slowly(*arguments, **options):
    print("late", flush=True)
    input()
    spawn(*arguments, **options)


def fork():
    process = os.fork()
    if not process:
        sys.exit()
    os.waitpid(process, 0)


spawn = os.posix_spawn
print("there", flush=True)
while True:
    word = input()
    if word == "end":
        break
    if word == "late":
        os.posix_spawn = slowly
    do = {{
        "begin": watching.begin, "fork": fork, "exit": lambda: os._exit(0), "late": watching.begin,
        "patience": lambda: setattr(watching, "LAST_WORDS", 60.0),
        "within": watching.within, "hang up": lambda: os.close(watching._line),
        "end all": lambda: watching.leave(all=True),
    }}
    do[word]()
    print("done", flush=True)
"""
WORDS = "Rank {} of 4 has ended without a word; was it killed?\n"


class Child:
    def __init__(self, rank, stderr, line=(), size=3):
        names = {watching._OF_MPICH: size, watching._SIZE: 4, watching._RANK: rank}
        self.process = subprocess.Popen(
            line or [sys.executable, "-I", "-S", "-c", CHILD],
            env={**os.environ, **{k: str(v) for k, v in names.items()}},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
        )  # fmt: skip

    def hear(self):
        return self.process.stdout.readline().strip()

    def say(self, word, answer="done"):
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        assert self.hear() == answer

    def end(self, word="end"):
        self.process.communicate(f"{word}\n")

    def kill(self):
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()


@pytest.fixture
def job():
    """Three processes, of ranks 1 to 3 of four, and a function that returns what is said then."""
    read, write = os.pipe()
    children = [Child(rank, write) for rank in (1, 2, 3)]
    os.close(write)
    assert [c.hear() for c in children] == ["there"] * 3

    def words():
        """Return it once all have ended, also the program."""
        with open(read) as file:
            return file.read()

    started = list(children)
    yield children, words
    for child in started:
        child.kill()


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_the_first_one_without_a_word_is_named(job, victim):
    children, words = job
    for child in children:
        child.say("begin")
    children.pop(victim).kill()
    for child in children:  # as the launcher does
        child.kill()
    assert words() == WORDS.format(victim + 1)


@pytest.fixture
def watch(job):
    """What the program does, in this process, of children that have begun."""
    (children, _), launcher = job, os.getpid()
    address = b"\0xplayers %d %d" % (launcher, watching._stat(launcher).birth)
    inbox, lines, events = watching._socket(), watching._socket(stream=True), select.epoll()
    with inbox, events:
        inbox.bind(address)
        inbox.setblocking(False)
        lines.bind(address + watching._LINES)
        lines.listen()
        lines.setblocking(False)
        for child in children:
            child.say("begin")
        pidfds = [os.pidfd_open(child.process.pid) for child in children]
        # The system says of the last one only late that it has ended.
        late = os.eventfd(0)
        files = [*pidfds[:-1], late]
        for file in [inbox.fileno(), lines.fileno(), *files]:
            events.register(file, select.EPOLLIN)
        watched = dict(zip(files, (1, 2, 3), strict=True))
        processes = dict(zip([child.process.pid for child in children], files, strict=True))
        watch = watching._Watch(events, inbox.fileno(), lines.detach(), watched, processes)
        with ThreadPoolExecutor(1) as thread:
            killed = thread.submit(watch.killed)
            while len(watch.ends) < len(children):
                time.sleep(0.01)
            yield children, lambda: killed.result(timeout=10.0)
            os.eventfd_write(late, 1)  # so that it ends
            for child in children:
                child.process.kill()
        for line in [watch.lines, *(line for line, *_ in watch.ends.values())]:
            line.close()
        for file in [*pidfds, late]:
            os.close(file)


def test_who_closes_files_first_is_named(watch):
    """The launcher ends another, which has less to give back and has ended before."""
    children, killed = watch
    children[2].kill()
    children[0].kill()
    assert killed() == 3


def test_who_is_about_to_end_is_why_another_has_failed(watch, monkeypatch):
    children, killed = watch
    victim = children[2].process.pid
    children[2].say("hang up")  # so that the line does not say it
    time.sleep(0.2)
    monkeypatch.setattr(watching, "_is_ending", lambda process: process == victim)
    children[0].say("end all")
    assert killed() == 3


def test_who_only_closes_files_is_not_named(watch):
    children, killed = watch
    children[2].say("hang up")
    children[1].kill()
    assert killed() == 2


@pytest.mark.parametrize("victim", [1, 2])
def test_it_is_known_before_the_program_is_there(job, victim):
    children, words = job
    children[0].say("late", "late")
    for child in children[1:]:
        child.say("begin")
    children[victim].kill()
    children[3 - victim].kill()
    children[0].say("")
    assert words() == WORDS.format(victim + 1)


def test_one_that_has_not_begun(job):
    """The launcher ends the others at once."""
    children, words = job
    children[0].say("begin")
    children[2].kill()
    children[0].kill()
    children[1].kill()
    assert words() == WORDS.format(3)


def test_the_others_do_not_wait_for_one_that_has_not_begun(job):
    """In MPI_Init, where the launcher of MPICH may let them wait."""
    children, words = job
    children[0].say("begin")
    children[2].kill()
    assert words() == WORDS.format(3)
    for child in children[:2]:
        assert child.process.wait(20) == -signal.SIGKILL


def test_one_that_is_killed_before_there_is_a_program():
    read, write = os.pipe()
    children = [Child(rank, write, size=4) for rank in range(4)]
    os.close(write)
    assert [c.hear() for c in children] == ["there"] * 4
    children[2].kill()
    children[3].say("begin")
    with open(read) as file:
        assert file.read() == WORDS.format(2)
    for child in children:
        child.process.wait(20)
        child.kill()


def test_one_that_never_begins_may_end(job):
    """Its part in MPI_Init it has done: else no other would be through it."""
    children, words = job
    for child in children[:2]:
        child.say("begin")
        child.say("within")
    children[2].end()
    time.sleep(watching._IN_VAIN + 0.5)
    for child in children[:2]:
        assert child.process.poll() is None
        child.end()
    assert words() == ""


def test_nothing_is_said_of_those_that_end_as_they_should(job):
    children, words = job
    for child in children:
        child.say("begin")
    for child in children:
        child.end()
    assert words() == ""


def test_an_exit_without_a_word(job):
    children, words = job
    for child in children:
        child.say("begin")
    children[0].end()
    children[2].end("exit")
    assert words() == WORDS.format(3)
    assert children[1].process.wait(20) == -signal.SIGKILL


def test_one_that_ends_all(job):
    children, words = job
    for child in children:
        child.say("begin")
    children[1].say("end all")
    time.sleep(watching.LAST_WORDS)
    for child in (children[0], children[1], children[2]):
        child.kill()
    assert words() == ""


def test_one_that_was_killed_before_another_ends_all(job):
    """Which MPI tells the other as an error."""
    children, words = job
    children[0].say("late", "late")
    for child in children[1:]:
        child.say("begin")
    children[1].kill()
    children[2].say("patience")
    children[2].say("end all")
    children[0].say("")
    assert words() == WORDS.format(2)


def test_a_child_of_a_process_has_not_its_voice(job):
    children, words = job
    for child in children:
        child.say("begin")
    children[1].say("fork")
    children[1].kill()
    assert words() == WORDS.format(2)


def test_a_program_is_watched_before_it_begins():
    read, write = os.pipe()
    code = "print('there', flush=True); input()"
    line = watching.through([sys.executable, "-I", "-S", "-c", code])
    children = [Child(rank, write, line, size=2) for rank in (1, 2)]
    os.close(write)
    assert [c.hear() for c in children] == ["there"] * 2
    children[1].kill()
    children[0].kill()
    with open(read) as file:
        assert file.read() == WORDS.format(2)


def test_many_begin_at_once():
    """More than messages that Linux keeps."""
    read, write = os.pipe()
    children = [Child(rank, write, size=30) for rank in range(30)]
    os.close(write)
    for child in children:
        assert child.hear() == "there"
    for child in children:
        child.process.stdin.write("begin\n")
        child.process.stdin.flush()
    for child in children:
        assert child.hear() == "done"
    children[20].end("exit")
    with open(read) as file:
        assert file.read() == WORDS.format(20)
    for child in children:
        child.process.communicate()


def test_other_launchers_say_so_themselves(monkeypatch):
    monkeypatch.delenv(watching._OF_MPICH, raising=False)
    assert not watching.start()
    watching.begin()
    watching.leave()
    assert watching._address is None


def test_where_it_is_not_allowed_nothing_is_started(monkeypatch):
    for name in (watching._OF_MPICH, watching._SIZE):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv(watching._RANK, "0")

    def forbidden(pid):
        raise PermissionError

    monkeypatch.setattr(watching, "_started", lambda _: {0: os.getpid()})
    monkeypatch.setattr(os, "pidfd_open", forbidden)
    monkeypatch.setattr(os, "posix_spawn", lambda *_, **__: pytest.fail("it is started"))
    assert not watching.start()
    assert watching._address is None
