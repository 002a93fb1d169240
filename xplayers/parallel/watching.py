"""Says which process was killed, where the launcher does not, and ends the others.

The launcher of MPICH ends a job within milliseconds, and names another process; where a process has
exited by itself, it may wait for ever, or return 0. So one small program on each machine, beside
the job, waits for the first process that ends; this file is that program, too, which must import
nothing of the package. A process that ends as it should leaves a flag in memory that outlasts it.
"""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import platform
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

_OF_MPICH = "MPI_LOCALNRANKS"  # which its launcher sets


def watch(comm: Any) -> Callable[[], None]:
    """Let the processes of a communicator be watched; all of them have to call this.

    Returns
    -------
    callable
        Says that this process may end. At the end of the interpreter that is said by itself.
    """
    if _OF_MPICH not in os.environ or not hasattr(os, "pidfd_open"):  # on Linux
        return lambda: None
    file = os.memfd_create("xplayers")
    os.ftruncate(file, 1)
    flag = mmap.mmap(file, 1)

    def leave() -> None:
        flag[0] = 1

    atexit.register(leave)
    rows = comm.allgather((platform.node(), os.getpid(), file))
    here = [rank for rank, row in enumerate(rows) if row[0] == platform.node()]
    if comm.rank == here[0]:
        with contextlib.suppress(OSError):  # it is not allowed here
            _start([(rank, *rows[rank][1:]) for rank in here], comm.size)
    return leave


def _start(processes: list[tuple[int, int, int]], size: int) -> None:
    """Start the program, with the files of what it watches.

    The events are of this process, so that none is before the program is there.
    """
    events = select.epoll()
    arguments, files = [], [events.fileno()]
    try:
        for rank, pid, file in processes:
            files += [os.pidfd_open(pid), os.open(f"/proc/{pid}/fd/{file}", os.O_RDONLY)]
            events.register(files[-2], select.EPOLLIN)
            arguments += [str(rank), *map(str, files[-2:])]
        for file in files:
            os.set_inheritable(file, True)
        nothing = [(os.POSIX_SPAWN_OPEN, i, os.devnull, os.O_RDWR, 0) for i in (0, 1)]
        line = [sys.executable, "-I", "-S", __file__, str(size), str(files[0]), *arguments]
        os.posix_spawn(line[0], line, os.environ, file_actions=nothing, setsid=True)
    finally:
        events.close()
        for file in files[1:]:
            os.close(file)


def main(size: str, epoll: str, *arguments: str) -> None:
    """Wait until processes end, and name the first one that has not said so before."""
    numbers = iter(map(int, arguments))
    watched = {process: (rank, flag) for rank, process, flag in zip(*[numbers] * 3, strict=True)}
    events = select.epoll.fromfd(int(epoll))
    while watched:
        process = events.poll(maxevents=1)[0][0]  # in the order in which they have ended
        events.unregister(process)
        rank, flag = watched.pop(process)
        if os.pread(flag, 1, 0) == b"\0":
            text = f"Rank {rank} of {size} has ended without a word; was it killed?\n"
            os.write(2, text.encode())
            for other in watched:  # before the launcher does, which might call it a success
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(other, signal.SIGKILL)
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
