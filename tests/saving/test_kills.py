"""Runs that are killed: each goes on from its last checkpoint and ends with the same bits."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import xplayers as xl
from xplayers.saving.checkpoint import Checkpoint
from xplayers.saving.files import TEMPORARY
from xplayers.saving.safetensors import reading

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")

PROGRAM = Path(__file__).with_name("resumable_run.py")


class Run:
    """A run of some steps in a folder, which can be started again and again."""

    def __init__(self, folder, steps):
        self.folder, self.steps = folder / "checkpoints", steps
        self.result = folder / "result.safetensors"

    def start(self, *line):
        package = str(Path(xl.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": package, "OPENBLAS_NUM_THREADS": "1"}
        arguments = (self.folder, self.result, self.steps, *line)
        return subprocess.Popen(
            [sys.executable, PROGRAM, *map(str, arguments)], env=environment, stdout=subprocess.PIPE
        )

    def finish(self, *line):
        """Start it, wait for its end, and return whether it was killed."""
        with self.start(*line) as process:
            process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        return process.returncode != 0

    def kill_after(self, seconds):
        """Start it and kill it so long after its first step; return whether it had not ended."""
        with self.start() as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(seconds)
            process.kill()
        assert process.returncode in (0, -signal.SIGKILL)
        return process.returncode != 0

    def check_files(self):
        """Check that every file under its final name can be read, and return how many there are."""
        files = list(self.folder.glob("step-*"))
        for path in files:
            with reading(path) as file:
                file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Checkpoint(self.folder).latest()
        return len(files)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The results of runs that were not killed, by their steps."""
    results = {}

    def result(steps):
        if steps not in results:
            run = Run(tmp_path_factory.mktemp("whole"), steps)
            assert not run.finish()
            results[steps] = run.result.read_bytes()
        return results[steps]

    return result


def killed_at_random(folder, steps, kills, expected, rng, longest):
    """Kill runs until there were so many kills; let each end; return the number of runs."""
    run, runs = Run(folder, steps), 1
    while kills:
        if run.kill_after(rng.uniform(0, longest)):
            run.check_files()
            kills -= 1
        else:
            assert run.result.read_bytes() == expected
            shutil.rmtree(run.folder)
            run.result.unlink()
            runs += 1
    run.finish()
    assert run.result.read_bytes() == expected
    assert run.check_files() == 3
    assert not list(run.folder.glob(TEMPORARY))
    return runs


def test_a_run_that_is_killed_ends_with_the_same_bits(tmp_path, expected):
    run = Run(tmp_path, 30)
    assert run.finish(3000)  # amid a checkpoint
    assert 0 < run.check_files() <= 4
    killed_at_random(tmp_path, 30, 1, expected(30), np.random.default_rng(0), 0.01)


@pytest.mark.slow
def test_a_hundred_kills_at_random_moments(tmp_path, expected):
    rng = np.random.default_rng(1)
    runs = killed_at_random(tmp_path, 600, 100, expected(600), rng, 0.3)
    print(f"100 kills in {runs} runs")  # noqa: T201 - a figure


@pytest.mark.slow
def test_kills_at_the_lines_that_write(tmp_path, expected):
    """All over four checkpoints and the first deletion."""
    run, killed = Run(tmp_path, 12), 0
    for line in range(1, 10**6, 61):
        shutil.rmtree(run.folder, ignore_errors=True)
        run.result.unlink(missing_ok=True)
        if not run.finish(line):
            break
        killed += 1
        run.check_files()
        assert not run.finish()
        assert run.result.read_bytes() == expected(12), line
        assert not list(run.folder.glob(TEMPORARY)), line
    assert killed > 30
