"""What processes do that `test_nccl.py` starts, with their rank, size and folders as arguments.

Each has emulated GPUs of its own. In the place of mpi4py and of NCCL stand a socket to the other
process: NCCL's sums are operations of the stream that they are given, as a GPU computes them, and a
graph has them. What waits on the host lets the GPU get on with its work before, as one does.
"""

from __future__ import annotations

import sys
import time
import types
from multiprocessing.connection import Client, Listener
from pathlib import Path

import emulator
import numpy as np
from emulator.emulated_gpu import view

STEPS = (29, 30, 29, 29, 7, 30, 29, 7, 30)  # samples, of which the second process has 14, 15, 3
TYPES = {"FLOAT32": 7, "FLOAT64": 8, "INT32": 2, "INT64": 4, "UINT8": 1}  # as in nccl.h


class Socket:
    """The other of two processes."""

    def __init__(self, rank: int, address: str) -> None:
        self.rank = rank
        if rank == 0:
            with Listener(address, "AF_UNIX") as listener:
                Path(f"{address} is there").touch()
                self._other = listener.accept()
        else:
            while not Path(f"{address} is there").exists():
                time.sleep(0.01)
            self._other = Client(address, "AF_UNIX")

    def exchange(self, value):
        """Return the values of both ranks."""
        if self.rank:
            first = self._other.recv()
            self._other.send(value)
            return [first, value]
        self._other.send(value)
        return [value, self._other.recv()]


class Alone:
    """No other process."""

    def exchange(self, value):
        return [value]


class Comm:
    """What groups ask of a communicator of mpi4py."""

    def __init__(self, rank, size, others):
        self.rank, self.size, self._others = rank, size, others
        self.calls = 0

    def _exchange(self, value):
        import cupy

        for number in range(2):
            cupy.cuda.Device(number).synchronize()
        self.calls += 1
        return self._others.exchange(value)

    def Allreduce(self, in_place, flat):
        first, *others = self._exchange(flat.copy())
        flat[...] = sum(others, start=first)

    def Bcast(self, flat):
        flat[...] = self._exchange(flat.copy())[0]

    def bcast(self, value):
        return self._exchange(value)[0]

    def Barrier(self):
        self._exchange(None)

    def Split_type(self, kind):
        return self

    def Free(self):
        pass

    def Abort(self, code):
        raise SystemExit(code)


class NcclError(RuntimeError):
    pass


def stand_in(others) -> types.ModuleType:
    """Return what stands for ``cupy.cuda.nccl``."""
    library = types.ModuleType("cupy.cuda.nccl")
    library.available, library.NcclError, library.NCCL_SUM = True, NcclError, 0
    vars(library).update({f"NCCL_{name}": number for name, number in TYPES.items()})
    names = {number: name.lower() for name, number in TYPES.items()}

    class NcclCommunicator:
        calls = 0

        def __init__(self, size: int, identity: bytes, rank: int) -> None:
            import cupy

            found = others.exchange((identity, cupy.cuda.Device().id, size))
            assert len(identity) == 128
            assert {(i, n) for i, _, n in found} == {(identity, size)}, "another identity"
            if len({gpu for _, gpu, _ in found}) < size:
                raise NcclError("NCCL_ERROR_INVALID_USAGE: invalid usage")

        def _put(self, at: int, count: int, kind: int, stream: int, result) -> None:
            NcclCommunicator.calls += 1
            flat = view(at, names[kind], (count,))

            def run():
                flat[...] = result(others.exchange(flat.copy()))

            emulator.put(run, stream)

        def allReduce(self, send, receive, count, kind, op, stream):
            assert (send, op) == (receive, 0)
            self._put(send, count, kind, stream, lambda all: sum(all[1:], start=all[0]))

        def broadcast(self, send, receive, count, kind, root, stream):
            assert (send, root) == (receive, 0)
            self._put(send, count, kind, stream, lambda all: all[0])

    library.NcclCommunicator = NcclCommunicator
    library.get_unique_id = lambda: np.random.default_rng().bytes(128)
    return library


def begin(rank: int, size: int, folder: Path) -> Comm:
    """Let groups find the other process."""
    mpi = types.ModuleType("mpi4py.MPI")
    host, gpus = (
        Socket(rank, str(folder / name)) if size > 1 else Alone() for name in ("host", "gpus")
    )
    mpi.COMM_WORLD = Comm(rank, size, host)
    mpi.IN_PLACE, mpi.COMM_TYPE_SHARED = object(), 0
    mpi.Get_library_version = lambda: "a stand-in"
    package = types.ModuleType("mpi4py")
    package.MPI = mpi
    sys.modules.update({"mpi4py": package, "mpi4py.MPI": mpi})
    import cupy

    cupy.cuda.nccl = sys.modules["cupy.cuda.nccl"] = stand_in(gpus)
    return mpi.COMM_WORLD


def sums(group, folder: Path) -> None:
    """Check what a group does."""
    import cupy as cp
    import pytest

    for xp in (cp, np):
        for dtype in ("float32", "float64", "int32", "int64", "uint8"):
            flat = xp.arange(5).astype(dtype) + xp.asarray(group.rank, dtype)
            group.sum_(flat)
            assert flat.tolist() == [2 * i + 1 for i in range(5)]
            flat[...] = 7 + group.rank
            group.broadcast_(flat)
            assert flat.tolist() == [7] * 5
    group.barrier()
    assert cp.cuda.Device().id == group.rank  # one for each
    assert repr(group) == f"NcclGroup(rank={group.rank}, size=2, device={group.rank})"
    for flat, words in (
        (cp.zeros(4, "float16"), "NcclGroup: got float16; expected one of float32"),
        (cp.zeros(4, "float32")[::2], "NcclGroup: got an array with gaps"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            group.sum_(flat)
    with cp.cuda.Device(1 - group.rank):
        elsewhere = cp.zeros(4, "float32")
    with pytest.raises(TypeError, match=f"expected CuPy's on GPU {group.rank}, which is that of"):
        group.sum_(elsewhere)


def batch(seed: int, n: int, xp):
    rng = np.random.default_rng(seed)
    return xp.asarray(rng.standard_normal((n, 6)), "float32"), xp.asarray(rng.integers(0, 3, n))


def part(group, n: int) -> slice:
    rank, size = (0, 1) if group is None else (group.rank, group.size)
    return slice(-(-n * rank // size), -(-n * (rank + 1) // size))


def network(normalized: bool):
    import xplayers as xl

    more = [xl.BatchNormalization.init(8)] if normalized else []
    return xl.Sequential(
        xl.Affine.init(6, 8, rng=0), *more, xl.Relu(), xl.Dropout(0.0), xl.Affine.init(8, 3, rng=1)
    )


def train(group, folder: Path, compile: str, what: str) -> None:
    """Take steps on parts of batches, and save the parameters of each rank."""
    import cupy as cp

    import xplayers as xl
    from xplayers.accelerate.cuda.gemm import Gemm
    from xplayers.cuda import fused

    net = network(what in ("normalized", "synchronized")).to(like=cp.zeros(1, "float32"))
    if group is not None and group.rank:
        for name, a in net.params.items():
            net.params[name] = a + 1  # those of rank 0 go
    step = xl.TrainStep(
        net, xl.SoftmaxWithLoss(), xl.Momentum(0.05), compile=how(compile), group=group,
        gemm=lambda: Gemm(autotune=False),
    )  # fmt: skip
    losses = []
    with fused():
        for i, n in enumerate(STEPS):
            if what == "closed" and i == 6 and group.rank == 1 and compile == "graph":
                captured_by(step).close()  # as where there is no memory left
            x, t = batch(i, n, cp)
            rows = part(group, n)
            losses.append(float(step(x[rows, ...], t[rows])))
    if compile == "graph" and group is not None:
        # A sum in each of two runs before a capture, and in that: of batches of 29, 30 and 7, which
        # come again after the graphs are closed.
        calls = sys.modules["cupy.cuda.nccl"].NcclCommunicator.calls - shared(step)
        captures, sums = 6 if what == "closed" else 3, 5 if what == "synchronized" else 1
        assert calls == 3 * captures * sums, calls
        assert len(captured_by(step)._graphs) == 3
    arrays = {name: a.get() for name, a in net.arrays.items()}
    rank, size = (0, 1) if group is None else (group.rank, group.size)
    np.savez(folder / f"{compile} {what} {rank} of {size}.npz", losses=losses, **arrays)
    step.close()


def how(compile: str):
    """Return the argument of a step: a graph, or none of it."""
    return compile if compile == "graph" else False


def captured_by(step):
    (taker,) = step._compiled.values()
    (captured,) = taker.functions.values()
    return captured


def shared(step) -> int:
    """Return in how many broadcasts the arrays of rank 0 went to the others."""
    state = step.state["optimizer"]
    leaves = [a for v in state.values() for a in (v.values() if isinstance(v, dict) else [v])]
    return len(step.net.arrays) + len(leaves)


def stop(group, folder: Path, compile: str) -> None:
    """Let one rank ask all to stop, where a graph computes the steps."""
    import cupy as cp

    import xplayers as xl

    def ask(event):
        if event.kind == "step" and event.step == 4 and group.rank == 1:
            event.trainer._run.stop("callback")

    x, t = batch(0, 45, cp)
    trainer = xl.Trainer(
        network(False), xl.SoftmaxWithLoss(), xl.Adam(0.01), batch_size=15, epochs=4, seed=0,
        compile=how(compile), group=group, callbacks=[ask], progress=False,
    )  # fmt: skip
    history = trainer.fit(x, t, validation=batch(1, 7, cp))
    assert history.stopped == "callback"
    assert int(trainer.optimizer.state["count"]) == 5
    assert len(history["val_loss"]) == 1
    arrays = {name: a.get() for name, a in trainer.net.arrays.items()}
    np.savez(folder / f"stop {group.rank} of 2.npz", val_loss=history["val_loss"], **arrays)


if __name__ == "__main__":
    rank, size, sockets, folder, name, *arguments = sys.argv[1:]
    emulator.install()
    begin(int(rank), int(size), Path(sockets))
    import cupy  # noqa: F401 - which is what "auto" looks for

    import xplayers as xl

    options = {"synchronized": "synchronized" in arguments}
    group = xl.parallel.group(**options) if int(size) > 1 else None
    programs = {f.__name__: f for f in (sums, train, stop)}
    programs[name](group, Path(folder), *arguments)
    print("finished")  # noqa: T201
