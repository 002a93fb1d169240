"""Groups of processes: which one a script was started in, and what is said where MPI is missing."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from groups import together
from helpers import says

from xplayers.parallel import Group, MPIGroup, SelfGroup, group, groups
from xplayers.training.exchange import gathered

LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")


@pytest.fixture
def alone(monkeypatch):
    """Take away what a launcher says."""
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


class Comm:
    """A communicator of one process, as MPI makes where it was not started by its own mpiexec."""

    rank, size = 0, 1

    def Allreduce(self, *buffers):
        pytest.fail("this is not to be summed")


@pytest.fixture
def mpi(alone):
    """Let mpi4py be there, with one process."""
    module = types.ModuleType("mpi4py.MPI")
    module.COMM_WORLD, module.IN_PLACE = Comm(), object()
    module.Get_library_version = lambda: "Open MPI v5.0.11, package: ..."
    package = types.ModuleType("mpi4py")
    package.MPI = module
    alone.setitem(sys.modules, "mpi4py", package)
    alone.setitem(sys.modules, "mpi4py.MPI", module)
    return alone


def test_a_group_of_one_needs_nothing(alone):
    alone.setitem(sys.modules, "mpi4py", None)
    for kind in ("auto", "self"):
        alone_group: Group = group(kind)
        assert (alone_group.rank, alone_group.size) == (0, 1)
        flat = np.asarray([1.0, 2.0])
        alone_group.sum_(flat)
        alone_group.broadcast_(flat)
        alone_group.barrier()
        assert flat.tolist() == [1.0, 2.0]
        assert repr(alone_group) == "SelfGroup()"
    with pytest.raises(SystemExit) as ended:
        SelfGroup().abort(3)
    assert ended.value.code == 3


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.parametrize(("value", "number"), [("4", 4), ("1", 1), ("", 1), ("x", 1)])
def test_launchers_say_how_many_processes_there_are(alone, name, value, number):
    alone.setenv(name, value)
    assert groups.launched() == number


def test_several_processes_are_found_by_mpi(mpi):
    mpi.setenv("PMI_SIZE", "2")
    mpi.setattr(Comm, "size", 2)
    hook = sys.excepthook
    try:
        assert repr(group()) == "MPIGroup(rank=0, size=2)"
        assert sys.excepthook is not hook
        once = sys.excepthook
        assert group("mpi").size == 2
        assert sys.excepthook is once
    finally:
        sys.excepthook = hook


@pytest.mark.parametrize("gpu", [True, False])
def test_processes_that_have_imported_cupy_sum_by_nccl(mpi, gpu):
    """Where it finds a GPU."""
    from xplayers.parallel import nccl

    cupy = types.ModuleType("cupy")
    cupy.is_available = lambda: gpu
    mpi.setitem(sys.modules, "cupy", cupy)
    mpi.setattr(nccl, "NcclGroup", lambda **options: "by NCCL")
    mpi.setattr("xplayers.parallel.mpi.MPIGroup", lambda **options: "by MPI")
    assert isinstance(group(), SelfGroup)
    mpi.setenv("PMI_SIZE", "2")
    assert group() == ("by NCCL" if gpu else "by MPI")


def test_batches_are_synchronized_on_request(mpi):
    assert not group("mpi").synchronized
    own = group("mpi", synchronized=True)
    assert own.synchronized
    make, arguments = own.__reduce__()
    assert make(*arguments).synchronized
    assert not group("self", synchronized=True).synchronized  # all of a batch is here
    with pytest.raises(TypeError, match=says("group: synchronized is 1; expected True or False")):
        group("self", synchronized=1)


def test_mpi_asked_for_by_name_may_have_one_process(mpi):
    hook = sys.excepthook
    assert group("mpi").size == 1
    assert isinstance(group("mpi"), MPIGroup)
    assert sys.excepthook is hook


def test_a_launcher_of_another_mpi(mpi):
    mpi.setenv("PMI_SIZE", "2")
    words = "2 processes were started together, but each is alone in Open MPI v5.0.11: "
    with pytest.raises(RuntimeError, match=says(words)):
        group()


def test_what_to_install(alone):
    alone.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r"mpi4py is not installed: pip install .xplayers\[mpi\]"):
        group("mpi")


def test_nccl_without_cupy(alone):
    alone.setitem(sys.modules, "cupy", None)
    with pytest.raises(
        ImportError, match=r"NcclGroup: CuPy is not installed: pip install .xplayer"
    ):
        group("nccl")
    cupy = types.ModuleType("cupy")
    cupy.is_available = lambda: False
    alone.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(ValueError, match="NcclGroup: CuPy finds no GPU"):
        group("nccl")


def test_no_mpi_library(alone):
    class Broken(types.ModuleType):
        __path__ = ()

        def __getattr__(self, name):
            raise RuntimeError("cannot load MPI library")

    alone.setitem(sys.modules, "mpi4py", Broken("mpi4py"))
    with pytest.raises(ImportError, match="mpi4py finds no MPI library: .* pip install mpich"):
        group("mpi")


@pytest.mark.parametrize("kind", ["NCCL", "MPI", None, 2])
def test_groups_of_other_kinds(kind):
    with pytest.raises((ValueError, TypeError), match="group: kind is"):
        group(kind)


def test_arrays_that_mpi_cannot_sum(mpi):
    for a in (np.zeros(2, "float16"), np.zeros(2, "bool")):
        with pytest.raises(TypeError, match=says("MPIGroup: got ")):
            group("mpi").sum_(a)


def test_arrays_that_mpi_cannot_write_to(mpi):
    xp = pytest.importorskip("jax.numpy")
    with pytest.raises(TypeError, match=says("MPIGroup: got an array of jax on ")):
        group("mpi").sum_(xp.zeros(2))


def test_texts_of_all_ranks():
    texts = ["", "one", "zwölf"]
    for gathered_here in together(3, lambda group: gathered(group, texts[group.rank])):
        assert gathered_here == texts
