"""Says which process was killed, where the launcher does not, and ends the others.

The launcher of MPICH ends a job within milliseconds, and names another process; where a process has
exited by itself, or has ended before MPI was there, it may wait for ever, or return 0. So one small
program on each machine, beside the job, waits for the first process that ends; this file is that
program, too, which must import nothing of the package. Processes tell it by messages, which outlast
them, that they have begun, and that they may end. The first one that begins starts it, and needs no
MPI for that.

A process that is killed closes its files some time before the system says that it has ended. The
launcher sees that, and may end another one in between, which has less to give back and has ended
first. So each keeps a line to the program, whose end says who was the first to close its files.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

# What its launcher sets: the processes of this machine, and of all machines; the number of each.
_OF_MPICH, _SIZE, _RANK = "MPI_LOCALNRANKS", "PMI_SIZE", "PMI_RANK"
LAST_WORDS = 0.2  # seconds before who fails ends the others, in which it is printed
# Messages, two of them with the number of a process; that of one that ends all says when it does.
# "within" says that MPI has begun, for which all have waited.
_BEGUN, _WITHIN, _LEFT, _ALL = b"begun ", b"within", b"left ", b"all "
_AT_ONCE = 1.0  # seconds within which the launcher ends the others
_IN_VAIN = 1.0  # seconds after which who waits for MPI waits in vain
_TRIES = 100  # a hundredth of a second apart, until the launcher has started all
_PATIENCE = 5.0  # seconds: Linux keeps some ten messages for a program that is not there yet

_LINES, _QUEUE = b" lines", 4096  # where it takes lines, and how many may wait for that
_EXITING = 4  # a flag of a process in /proc

_address: tuple[int, bytes] | None = None  # this process, and where the program gets messages
_line: int | None = None  # the file of a socket, which ends with this process


def begin() -> None:
    """Let this process be watched from now on.

    At the end of the interpreter it says by itself that it may end.
    """
    if _address is None and start():
        _tell(_BEGUN + os.environ[_RANK].encode())
        _take_line()
        atexit.register(leave)


def _take_line() -> None:
    """Keep a line to the program; without it the end of this process is seen later."""
    global _line
    if _address is not None:
        with contextlib.suppress(OSError), _socket(stream=True) as line:
            line.setblocking(False)
            line.connect(_address[1] + _LINES)
            line.set_inheritable(True)  # it stays if the process becomes another program
            _line = line.detach()


def within() -> None:
    """Say that MPI has begun."""
    _tell(_WITHIN)


def leave(*, all: bool = False) -> None:
    """Say that this process may end, or that it ends all of them."""
    if _address is not None and _address[0] == os.getpid():  # not in one that was forked
        _tell(_LEFT + os.environ[_RANK].encode())
        if all:
            _tell(_ALL + b"%f" % (time.monotonic() + LAST_WORDS))


def start() -> bool:
    """Start the program, if it is not there; return whether it is there then."""
    global _address
    if not {_OF_MPICH, _SIZE, _RANK} <= os.environ.keys() or os.environ[_SIZE] == "1":
        return False
    if not hasattr(os, "pidfd_open"):  # it is of Linux
        return False
    with (
        contextlib.suppress(OSError, ValueError),
        _socket() as inbox,
        _socket(stream=True) as lines,
    ):
        inbox.setblocking(False)
        launcher = _launcher()
        address = b"\0xplayers %d %d" % (launcher, _stat(launcher).birth)
        try:
            inbox.bind(address)
        except OSError:  # another one has been faster
            pass
        else:
            lines.setblocking(False)
            lines.bind(address + _LINES)
            lines.listen(_QUEUE)
            _spawn(_started(launcher), inbox.fileno(), lines.fileno())
        _address = os.getpid(), address
        return True
    return False  # it is not allowed here


def _socket(stream: bool = False) -> Any:
    import socket

    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)


def _tell(message: bytes) -> None:
    if _address is not None:
        with contextlib.suppress(OSError), _socket() as outbox:
            outbox.settimeout(_PATIENCE)
            outbox.sendto(message, _address[1])


def _launcher() -> int:
    """Return the process that has started those of this machine, perhaps through other ones."""
    process = os.getpid()
    while _rank(parent := _stat(process).parent) is not None:
        process = parent
    return parent


class _Stat(NamedTuple):
    """What the system says of a process: its parent, flags, and when it was started."""

    parent: int
    flags: int
    birth: int


def _stat(process: int) -> _Stat:
    with open(f"/proc/{process}/stat") as file:
        fields = file.read().rpartition(")")[2].split()  # after its name, with any characters
    return _Stat(int(fields[1]), int(fields[6]), int(fields[19]))


def _is_ending(process: int) -> bool:
    """Whether a process ends, or has ended."""
    try:
        return bool(_stat(process).flags & _EXITING)
    except (OSError, IndexError):
        return True


def _rank(process: int) -> int | None:
    """Return the number that the launcher has given to a process; None if it is another's."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/environ", "rb") as file:
        for line in file.read().split(b"\0"):
            name, _, value = line.partition(b"=")
            if name == _RANK.encode():
                return int(value)
    return None


def _started(launcher: int) -> dict[int, int]:
    """Return the processes of this machine by their numbers."""
    processes: dict[int | None, int] = {}
    for _ in range(_TRIES):
        with open(f"/proc/{launcher}/task/{launcher}/children") as file:
            processes = {_rank(int(process)): int(process) for process in file.read().split()}
        processes.pop(None, None)
        if len(processes) >= int(os.environ[_OF_MPICH]):
            break
        time.sleep(0.01)
    return {rank: process for rank, process in processes.items() if rank is not None}


def _spawn(processes: dict[int, int], inbox: int, lines: int) -> None:
    """Start the program, with the files of what it watches.

    The events are of this process, so that none is before the program is there.
    """
    events = select.epoll()
    for file in (inbox, lines):
        events.register(file, select.EPOLLIN)
    arguments, files = [], [events.fileno()]
    try:
        if os.environ[_OF_MPICH] == os.environ[_SIZE]:  # else nobody knows which are elsewhere
            ended = {*range(int(os.environ[_SIZE]))} - processes.keys()
            arguments += [text for rank in sorted(ended) for text in (str(rank), "-1", "0")]
        for rank, process in processes.items():
            files.append(os.pidfd_open(process))
            events.register(files[-1], select.EPOLLIN)
            arguments += [str(rank), str(files[-1]), str(process)]
        for file in [*files, inbox, lines]:
            os.set_inheritable(file, True)
        nothing = [(os.POSIX_SPAWN_OPEN, i, os.devnull, os.O_RDWR, 0) for i in (0, 1)]
        numbers = [os.environ[_SIZE], *map(str, (files[0], inbox, lines)), *arguments]
        line = [sys.executable, "-I", "-S", __file__, *numbers]
        os.posix_spawn(line[0], line, os.environ, file_actions=nothing, setsid=True)
    finally:
        events.close()
        for file in files[1:]:
            os.close(file)


def main(size: str, epoll: str, inbox: str, lines: str, *arguments: str) -> None:
    """Wait until processes end, and name the first one that has not said so before."""
    with contextlib.suppress(OSError):  # as root: the launcher reads what is said for moments only
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    numbers = iter(map(int, arguments))
    watched, files = {}, {}
    for rank, file, process in zip(*[numbers] * 3, strict=True):
        watched[file], files[process] = rank, file
    watch = _Watch(select.epoll.fromfd(int(epoll)), int(inbox), int(lines), watched, files)
    rank = watch.killed()
    if rank is not None:
        _end(rank, size, watched)


class _Watch:
    """The processes of a machine that have not ended, and what all have said.

    One that has not begun may end as it likes, as long as the launcher does not end the others, and
    these do not wait for it.
    """

    def __init__(
        self, events: Any, inbox: int, lines: int, watched: dict[int, int], files: dict[int, int]
    ) -> None:
        import socket

        self.events, self.inbox = events, inbox
        self.lines = socket.socket(fileno=lines)  # where those who have begun take a line
        self.files = files  # those files, by the processes
        self.ends: dict[int, tuple[Any, int]] = {}  # lines, and whose they are
        self.watched = watched  # their numbers by the files that tell of their ends
        self.said: set[bytes] = set()
        # One that had not begun, and when it ended.
        self.before = None if -1 not in watched else (watched.pop(-1), time.monotonic())
        self.end = math.inf  # when one that has failed ends all

    def killed(self) -> int | None:
        """Wait, and return the number of the one that was killed; None if none was."""
        while self.watched:
            event = self._next()
            self._listen()
            # Who has ended before that may be why it has failed.
            if time.monotonic() > self.end:
                return None
            if self.end < math.inf and event is None:
                return self._ending()
            rank = None
            if event is None:
                rank = self._waited_for()
            elif event == self.lines.fileno():
                self._accept()
            elif event in self.ends:
                rank = self._hung_up(event)
            elif event in self.watched:
                rank = self._ended(event)
            if rank is not None:
                return rank
        return None

    def _next(self) -> int | None:
        """Return the file of what happens next; None if others may wait in vain, or are ended."""
        wait = _IN_VAIN if self.before is not None and _WITHIN not in self.said else None
        # In the order in which they have ended.
        events = self.events.poll(wait if self.end == math.inf else 0, maxevents=1)
        return events[0][0] if events else None

    def _accept(self) -> None:
        """Take the lines of processes, whose ends are all that is asked for."""
        import socket

        with contextlib.suppress(BlockingIOError):
            while True:
                line = self.lines.accept()[0]
                peer = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                process = int.from_bytes(peer[:4], sys.byteorder)
                self.ends[line.fileno()] = line, process
                self.events.register(line, select.EPOLLRDHUP)

    def _hung_up(self, line: int) -> int | None:
        """Return which one was killed, now that a line has ended."""
        end, process = self.ends.pop(line)
        self.events.unregister(end)
        end.close()
        # It may have closed its files alone, or be what a watched one has started.
        file = self.files.get(process)
        return self._ended(file) if file in self.watched and _is_ending(process) else None

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while message := os.read(self.inbox, 64):
                self.said.add(message)
                if message.startswith(_ALL):
                    self.end = min(self.end, float(message.removeprefix(_ALL)))

    def _waited_for(self) -> int | None:
        """Return the one that has ended before MPI was there, for which others wait."""
        begun = any(_BEGUN + b"%d" % rank in self.said for rank in self.watched.values())
        in_vain = begun and _WITHIN not in self.said
        return self.before[0] if self.before is not None and in_vain else None

    def _ending(self) -> int | None:
        """Return who is about to end without a word."""
        for process, file in self.files.items():
            if file in self.watched and _is_ending(process):
                rank = self._ended(file)
                if rank is not None:
                    return rank
        return None

    def _ended(self, process: int) -> int | None:
        """Return which one was killed, now that `process` has ended; None if it may end so."""
        self.events.unregister(process)
        rank, now = self.watched.pop(process), time.monotonic()
        if _LEFT + b"%d" % rank in self.said:
            return None
        if self.before is not None and now - self.before[1] < _AT_ONCE:
            return self.before[0]  # this one was ended with it
        if _BEGUN + b"%d" % rank not in self.said:
            self.before = rank, now
            return None
        return rank


def _end(rank: int, size: str, others: Iterable[int]) -> None:
    """Name a process, and end the others before the launcher does, who might call it a success."""
    os.write(2, f"Rank {rank} of {size} has ended without a word; was it killed?\n".encode())
    for other in others:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(other, signal.SIGKILL)


def through(line: list[str]) -> list[str]:
    """Return a command line that becomes another one, and lets that be watched while it begins."""
    if not hasattr(os, "pidfd_open"):
        return line
    return [sys.executable, "-I", "-S", __file__, *line]


def become(*line: str) -> None:
    """Become another program."""
    start()
    os.execv(line[0], line)


if __name__ == "__main__":
    (become if os.sep in sys.argv[1] else main)(*sys.argv[1:])
