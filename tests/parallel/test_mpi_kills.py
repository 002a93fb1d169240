"""Jobs of which processes are killed, or fail: they end, say why, and resume with the same bits.

``nox -s "mpi(mpich)" -- -m slow -s`` runs these and prints their figures.
"""

from __future__ import annotations

import collections
import re
import time

import numpy as np
import pytest
from helpers import assert_same_bits
from mpi_jobs import IS_OPEN_MPI, NO_MPI, Job

pytestmark = [pytest.mark.host, NO_MPI]
KILLS = 10  # of each part
IN_TIME = 5.0  # seconds from a kill to the end of the job


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The results of runs that nobody disturbs, and how long they train, by their sizes."""
    results = {}

    def result(size):
        if size not in results:
            job = Job(tmp_path_factory.mktemp("whole"), size, "fit", "plain", 0, 0)
            start = job.begun()
            code, _ = job.wait()
            assert code == 0, job.words
            assert "without a word" not in job.words
            results[size] = np.load(job.folder / "0.npz"), job.end - start
        return results[size]

    return result


def killed(folder, size, victim, moment):
    """Kill a process after so many seconds; return how long the job lives on, or None: too long."""
    job = Job(folder, size, "fit", "plain", 0, 0)
    start = job.begun()
    time.sleep(max(start + moment - time.perf_counter(), 0))
    if not job.kill(victim):
        job.wait()
        return None
    code, seconds = job.wait()
    if job.ended:  # it had all been done
        return None
    assert code != 0
    assert seconds < IN_TIME
    assert re.search(rf"\b[Rr]ank {victim}\b", job.words), job.words
    return seconds


def assert_resumes(folder, size, whole):
    """Check that the same job ends with the same bits on all ranks."""
    job = Job(folder, size, "fit", "plain", 0, 0)
    code, _ = job.wait()
    assert code == 0, job.words
    for number in range(size):
        again = np.load(folder / f"{number}.npz")
        for name in whole.files:
            assert_same_bits(again[name], whole[name], name)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))
def test_kills_at_random_moments(part, tmp_path, expected):
    rng, times, too_late = np.random.default_rng([1, part]), [], 0
    while len(times) < KILLS:
        size = int(rng.integers(2, 4))
        whole, duration = expected(size)
        folder = tmp_path / str(len(times) + too_late)
        seconds = killed(folder, size, int(rng.integers(size)), rng.uniform(0, duration))
        if seconds is None:
            too_late += 1
            continue
        assert_resumes(folder, size, whole)
        times.append(seconds)
    print(  # noqa: T201 - figures
        f"{KILLS} kills: the jobs ended in {np.median(times):.2f} s, at most {max(times):.2f} s, "
        f"and resumed with the same bits; {too_late} kills came too late"
    )


# What happens to a rank: words of the job, and whether it fails.
KINDS = {
    "raise": ("Failure: enough", True),
    "exit": ("", True),
    "_exit": ("", True),
    "_exit(0)": ("", True if IS_OPEN_MPI else None),  # which MPICH may call a success
    "memory": ("MemoryError", True),
    "interrupt": ("interrupted 0 of", False),
    "nan": ("not finite", True),
}


def failing(folder, name, kind, size, number, step, wait):
    """Let something happen to a rank; return how long the job then takes."""
    words, fails = KINDS[kind]
    # Python alone does not end the others by sys.exit in a loop of one's own.
    by_mpi4py = name == "loop" and kind == "exit"
    job = Job(folder, size, name, kind, number, step, module=("-m", "mpi4py") * by_mpi4py)
    if kind == "interrupt":
        start = job.begun()
        time.sleep(wait)
        if not job.kill(number, 2) or "finished" in job.words:  # it had all been done
            job.wait()
            return time.perf_counter() - start
        if name == "loop":
            words, fails = "KeyboardInterrupt", True
    else:
        start = time.perf_counter()
    code, _ = job.wait()
    assert fails is None or (code != 0) == fails, job.words
    assert words in job.words, job.words
    assert fails is False or not ("finished" in job.words or job.ended), job.words
    return time.perf_counter() - start


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_no_job_hangs(part, tmp_path):
    """Ten jobs a part, of seven kinds of failures, in a `Trainer` or a loop of one's own."""
    rng, seen = np.random.default_rng([2, part]), collections.Counter()
    longest, kinds = 0.0, list(KINDS)
    for i in range(10):
        kind = kinds[(10 * part + i) % len(kinds)]
        name, size = rng.choice(["fit", "loop"]), int(rng.integers(2, 4))
        number, step, wait = int(rng.integers(size)), int(rng.integers(1, 400)), rng.uniform(0, 1)
        seconds = failing(tmp_path / str(i), str(name), kind, size, number, step, wait)
        longest = max(longest, seconds)
        seen[kind] += 1
    library = "Open MPI" if IS_OPEN_MPI else "MPICH"
    print(  # noqa: T201 - figures
        f"10 jobs under {library} without a hang, at most {longest:.1f} s: {dict(seen)}"
    )
