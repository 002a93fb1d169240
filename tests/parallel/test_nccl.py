"""Processes with a GPU each, which sum by NCCL: on emulated GPUs, with a stand-in for NCCL."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time

import emulator
import nccl_programs as programs
import numpy as np
import pytest
from helpers import ROOT, TESTS, assert_same_bits, says

from xplayers.parallel import NcclGroup, group


@pytest.fixture(autouse=True)
def _emulated():
    pytest.importorskip("nvmath")
    if not emulator.installed():
        pytest.skip("processes that have to have GPUs have emulated ones")


def run(folder, *arguments, size=2):
    """Run a program in so many processes; where one fails the others, which wait for it, end."""
    paths = os.pathsep.join(map(str, (ROOT, TESTS, TESTS / "accelerate" / "cuda")))
    environment = {**os.environ, "PYTHONPATH": paths, "PMI_SIZE": str(size)}
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as sockets, contextlib.ExitStack() as stack:
        outs = [stack.enter_context(open(f"{sockets}/{rank}", "w+")) for rank in range(size)]
        line = [sys.executable, programs.__file__, str(size), sockets, str(folder), *arguments]
        started = [
            subprocess.Popen(
                [*line[:2], str(rank), *line[2:]], env=environment, stdout=out, stderr=out
            )
            for rank, out in enumerate(outs)
        ]
        codes, end = [None] * size, time.monotonic() + 300
        while None in codes and not any(codes) and time.monotonic() < end:
            time.sleep(0.05)
            codes = [process.poll() for process in started]
        for process in started:
            process.kill()
            process.wait()
        for out in outs:
            out.seek(0)
        said = [out.read() for out in outs]
    assert codes == [0] * size, "\n".join(said)
    assert all(text.endswith("finished\n") for text in said)


def saved(folder, name):
    return dict(np.load(folder / f"{name}.npz"))


def test_sums_and_broadcasts(tmp_path):
    run(tmp_path, "sums")


def test_two_processes_train_as_one(tmp_path):
    """With parts of 15 and 14 samples, and statistics of all."""
    run(tmp_path, "train", "stands", "synchronized")
    run(tmp_path / "one", "train", "stands", "synchronized", size=1)
    one = saved(tmp_path / "one", "stands synchronized 0 of 1")
    first, second = (saved(tmp_path, f"stands synchronized {rank} of 2") for rank in (0, 1))
    for name, a in one.items():
        assert_same_bits(first[name], second[name], name)
        np.testing.assert_allclose(first[name], a, rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("what", ["plain", "normalized", "synchronized", "closed"])
def test_graphs_have_the_bits_of_steps_that_stand(what, tmp_path):
    """Also with running statistics, and where one process has closed its graphs between steps."""
    run(tmp_path, "train", "stands", what)
    run(tmp_path, "train", "graph", what)
    for rank in (0, 1):
        for name, a in saved(tmp_path, f"stands {what} {rank} of 2").items():
            assert_same_bits(saved(tmp_path, f"graph {what} {rank} of 2")[name], a, name)


@pytest.mark.parametrize("compile", ["stands", "graph"])
def test_who_stops_one_stops_all_at_the_same_step(compile, tmp_path):
    run(tmp_path, "stop", compile)
    first, second = (saved(tmp_path, f"stop {rank} of 2") for rank in (0, 1))
    for name, a in first.items():
        assert_same_bits(second[name], a, name)


class Neighbours(programs.Comm):
    """A communicator of one process, on a node with others."""

    def __init__(self, size):
        super().__init__(0, 1, programs.Alone())
        self.neighbours = size

    def Split_type(self, kind):
        return programs.Comm(0, self.neighbours, programs.Alone())


@pytest.fixture
def nccl(monkeypatch):
    """Let MPI and NCCL be there, with one process."""
    import cupy

    for name in ("mpi4py", "mpi4py.MPI", "cupy.cuda.nccl"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(cupy.cuda, "nccl", None, raising=False)
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    programs.begin(0, 1, None)
    return sys.modules["cupy.cuda.nccl"]


def test_a_group_of_one(nccl):
    import cupy as cp

    alone = group("nccl")
    flat = cp.arange(3.0)
    alone.sum_(flat)
    assert flat.tolist() == [0.0, 1.0, 2.0]
    assert (alone.rank, alone.size, alone.device) == (0, 1, 0)
    again = alone.__reduce__()
    assert again[0](*again[1]).device == 0


def test_one_process_for_each_gpu(nccl):
    with pytest.raises(ValueError, match=says("NcclGroup: this node has 3 processes and 2 GPUs")):
        NcclGroup(Neighbours(3))
    assert NcclGroup(Neighbours(2)).device == 0
    assert NcclGroup(Neighbours(3), device=0).device == 0


def test_what_nccl_says(nccl, monkeypatch):
    def refuse(*arguments):
        raise nccl.NcclError("NCCL_ERROR_INVALID_USAGE: invalid usage")

    monkeypatch.setattr(nccl, "NcclCommunicator", refuse)
    words = "NCCL cannot connect GPU 0 of rank 0 with the others: NCCL_ERROR_INVALID_USAGE: "
    with pytest.raises(RuntimeError, match=says(words)):
        group("nccl")
    monkeypatch.setattr(nccl, "available", False)
    with pytest.raises(ImportError, match="CuPy finds no NCCL: pip install nvidia-nccl-cu13"):
        group("nccl")
