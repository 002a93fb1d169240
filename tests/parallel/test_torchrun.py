"""Two processes by torchrun, of the session of PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys

import mpi_programs as programs
import numpy as np
import pytest
from helpers import ROOT

from xplayers.parallel import TorchGroup, group

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed")


def torchrun(*arguments):
    """Run a program in two processes."""
    line = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, programs.__file__]
    return subprocess.run(
        [sys.executable, *map(str, (*line, *arguments))],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_sums_and_broadcasts():
    ended = torchrun("sums", "numpy", "torch")
    assert ended.returncode == 0, ended.stderr
    assert "finished" in ended.stdout


def test_two_processes_train_as_one(tmp_path):
    ended = torchrun("train", "torch", "perceptron", tmp_path)
    assert ended.returncode == 0, ended.stderr
    subprocess.run(
        [sys.executable, programs.__file__, "train", "torch", "perceptron", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120, check=True, capture_output=True,
    )  # fmt: skip
    for dtype, bound in (("float32", 1e-6), ("float64", 1e-12)):
        one = np.load(tmp_path / f"{dtype} 0 of 1.npz")
        first, second = (np.load(tmp_path / f"{dtype} {rank} of 2.npz") for rank in range(2))
        for name in one:
            assert first[name].tobytes() == second[name].tobytes(), name
            assert abs(first[name] - one[name]).max() <= bound, name


def test_without_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert repr(group()) == "SelfGroup()"
    with pytest.raises(RuntimeError, match="RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT are not in"):
        group("torch")


def test_arrays_that_it_does_not_take(monkeypatch):
    own = object.__new__(TorchGroup)
    own._distributed, own._process_group = torch.distributed, None
    for flat in (np.zeros(2, np.float16), torch.zeros(2, dtype=torch.bfloat16)):
        with pytest.raises(TypeError, match="TorchGroup: got .*float16; expected one of float32"):
            own.sum_(flat)
