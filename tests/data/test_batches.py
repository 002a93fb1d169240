"""`Batches`: the same batches as `minibatches`, brought by a thread that always ends."""

from __future__ import annotations

import threading
import tracemalloc
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import assert_at_home, assert_same_arrays, assert_same_bits, python

import xplayers as xl
from xplayers.accelerate.cuda.loading import PinnedLoader
from xplayers.arrays.transfer import to_numpy
from xplayers.data import loading

N = 23
X = np.random.default_rng(0).normal(size=(N, 3)).astype("float32")
T = np.arange(N)


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("xplayers-batches")]


def lists(batches):
    return [(to_numpy(x).tolist(), to_numpy(t).tolist()) for x, t in batches]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert threads() == []


# The batches


@pytest.mark.doubles
def test_they_are_those_of_minibatches(xpv):
    """In order, dtype and place, the last partial one too."""
    like = xpv.asarray(X)
    assert_at_home(xpv.asarray(T), like, dtype=xpv.asarray(T).dtype)
    for rng, drop_last in ((None, False), (5, False), (5, True)):
        expected = list(xl.minibatches(like, xpv.asarray(T), 8, rng, drop_last))
        for target in ({"like": like}, {"xp": xpv.xp, "device": xpv.device}):
            batches = xl.Batches(X, T, 8, rng, drop_last=drop_last, **target)
            pairs = list(batches)
            assert len(pairs) == len(expected) == len(batches)
            for (x, t), (x2, t2) in zip(pairs, expected, strict=True):
                assert_at_home(x, like)
                assert t.dtype == t2.dtype
                assert_same_bits(x, x2)
                assert_same_bits(t, t2)


def test_a_pass_again_and_a_generator_that_goes_on():
    batches = xl.Batches(X, T, 8, 3)
    assert lists(batches) == lists(batches) == lists(xl.minibatches(X, T, 8, 3))
    one, other = np.random.default_rng(1), np.random.default_rng(1)
    batches = xl.Batches(X, T, 8, one, transform=lambda x, rng: x + 0 * rng.normal())
    for _ in range(3):
        assert lists(batches) == lists(xl.minibatches(X, T, 8, other))


def test_an_epoch_is_that_of_its_number():
    batches = xl.Batches(X, T, 8, 3)
    for epoch in (0, 1, 7):
        rng = np.random.default_rng([3, epoch])
        assert lists(batches(epoch)) == lists(xl.minibatches(X, T, 8, rng))
    assert lists(xl.Batches(X, T, 8)(4)) == lists(xl.minibatches(X, T, 8))
    with pytest.raises(TypeError, match=r"rng is a Generator; the order of an epoch needs an int"):
        xl.Batches(X, T, 8, np.random.default_rng(0))(0)


def test_nothing_shares_memory_with_the_data():
    x, t = X.copy(), T.copy()
    for batch_x, batch_t in xl.Batches(x, t, 5):
        batch_x += 1
        batch_t += 1
    assert_same_bits(x, X)
    assert_same_bits(t, T)


def test_two_passes_at_once():
    batches = xl.Batches(X, T, 2, 0)
    pairs = list(zip(batches, batches, strict=True))
    assert lists(a for a, _ in pairs) == lists(b for _, b in pairs) == lists(batches)


@pytest.mark.parametrize("dtype", ["uint8", ">f4", "float64", "int32"])
def test_dtypes_stay_and_become_native(dtype):
    x = np.arange(12).astype(dtype).reshape(6, 2)
    for batch, _ in xl.Batches(x, np.arange(6), 4):
        assert batch.dtype == np.dtype(dtype).newbyteorder("=")
    assert_same_bits(batch, x[4:].astype(x.dtype.newbyteorder("=")))


def test_no_samples():
    assert list(xl.Batches(X[:0], T[:0], 4)) == []


def test_a_transform_has_the_generator_of_its_pass():
    def noisy(x, rng):
        return x + rng.normal(size=x.shape).astype(x.dtype)

    batches = xl.Batches(X, T, 8, 3, transform=noisy)
    first = lists(batches(2))
    assert lists(batches(2)) == first
    assert lists(batches(1)) != first
    assert [t for _, t in first] == [t for _, t in lists(xl.Batches(X, T, 8, 3)(2))]
    seen = []
    list(xl.Batches(X, T, 8, transform=lambda x, rng: seen.append(rng)))
    assert seen == [None] * 3


# Files


def test_a_file_larger_than_the_memory_it_takes(tmp_path):
    """64 MiB on the disk; also in an order in which `numpy.take` would copy all of it."""
    rows, columns = 4096, 4096
    for fortran in (False, True):
        path = tmp_path / f"x-{fortran}.npy"
        mapped = np.lib.format.open_memmap(
            path, "w+", "float32", (rows, columns), fortran_order=fortran
        )
        mapped[:, 0] = np.arange(rows)
        mapped.flush()
        x = np.load(path, mmap_mode="r")
        t = np.arange(rows)
        list(xl.Batches(x[:16], t[:16], 16, 0))  # modules are imported when arrays are first seen
        tracemalloc.start()
        try:
            batches = iter(xl.Batches(x, t, 16, 0))
            for _ in range(8):
                batch, labels = next(batches)
                assert batch[:, 0].tolist() == labels.tolist()
            batches.close()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 6 * 16 * columns * 4, f"{peak / 2**20:.1f} MiB"


# The thread


class Slow(np.ndarray):
    """An array that says when samples are taken out of it, and fails at one of them."""

    def __getitem__(self, index):
        if isinstance(index, np.ndarray):
            self.taken.append((index.tolist(), threading.current_thread().name))
            if self.bad in index:
                raise OSError(f"sample {self.bad} cannot be read")
        return super().__getitem__(index)


def slow(bad=-1):
    x = X.copy().view(Slow)
    x.taken, x.bad = [], bad
    return x


def test_the_next_batches_are_loaded_meanwhile():
    x = slow()
    batches = iter(xl.Batches(x, T, 2))
    assert x.taken == []  # nothing before it is asked for
    next(batches)
    while len(x.taken) < 1 + loading.AHEAD:
        pass  # the thread takes them while nobody asks
    assert [index for index, _ in x.taken] == [[0, 1], [2, 3], [4, 5]]
    assert {name.rpartition("_")[0] for _, name in x.taken} == {"xplayers-batches"}
    batches.close()


def test_jax_has_a_thread_for_files_alone(tmp_path):
    jnp = pytest.importorskip("jax.numpy")
    x, t = np.arange(12.0, dtype="float32").reshape(6, 2), np.arange(6)
    np.save(tmp_path / "x.npy", x)
    for samples, expected in ((x, 0), (np.load(tmp_path / "x.npy", mmap_mode="r"), 1)):
        batches = iter(xl.Batches(samples, t, 2, like=jnp.zeros(1)))
        first, labels = next(batches)
        assert len(threads()) == expected
        assert_same_bits(first, x[:2])
        assert labels.tolist() == [0, 1]
        batches.close()


def test_an_error_in_the_thread_is_raised_in_its_turn():
    batches = iter(xl.Batches(slow(bad=9), T, 2))
    for _ in range(4):
        next(batches)
    with pytest.raises(OSError, match="sample 9 cannot be read"):
        next(batches)
    assert threads() == []


def test_an_error_in_the_loop_ends_the_thread():
    def loop():
        for x, _ in xl.Batches(X, T, 2):
            raise ZeroDivisionError(x)

    with pytest.raises(ZeroDivisionError):
        loop()


@pytest.mark.parametrize("end", ["break", "close", "drop"])
def test_an_early_end_ends_the_thread(end):
    x = slow()
    batches = iter(xl.Batches(x, T, 1))
    next(batches)
    assert len(threads()) == 1
    if end == "close":
        batches.close()
    del batches
    assert threads() == []
    assert len(x.taken) <= 1 + loading.AHEAD


def test_an_interpreter_ends_amid_a_pass():
    code = (
        "import numpy as np, xplayers as xl\n"
        "batches = iter(xl.Batches(np.zeros((99, 2)), np.zeros(99), 3))\n"
        "next(batches)\n"
    )
    ran = python("-W", "error", "-c", code, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")


# In a trainer


def fitted(source, t=None, **options):
    net = xl.mlp([3, 4, N], rng=0)
    options = {"batch_size": 8, "epochs": 3, "seed": 5, "progress": False, **options}
    resume = options.pop("resume", False)
    trainer = xl.Trainer(net, xl.SoftmaxWithLoss(), xl.Adam(), **options)
    history = trainer.fit(source, t, validation=xl.Batches(X, T, 8), resume=resume)
    return net, history


def test_a_trainer_gets_the_bits_of_arrays():
    net, history = fitted(xl.Batches(X, T, 8, 5))
    other, expected = fitted(X, T)
    assert_same_arrays(net.params, other.params)
    for column in ("loss", "val_loss", "val_accuracy"):
        assert history[column].tolist() == expected[column].tolist()


def test_a_run_goes_on(tmp_path):
    def noisy(x, rng):
        return x + rng.normal(size=x.shape).astype(x.dtype)

    whole, _ = fitted(xl.Batches(X, T, 8, 5, transform=noisy))
    for epochs in (2, 3):
        checkpoint = xl.Checkpoint(tmp_path, every_steps=2)
        batches = xl.Batches(X, T, 8, 5, transform=noisy)
        net, _ = fitted(batches, checkpoint=checkpoint, epochs=epochs, resume=True)
    assert_same_arrays(net.params, whole.params)


def test_a_loss_that_is_not_finite_ends_the_thread():
    x = X.copy()
    x[7] = np.inf
    with pytest.raises(xl.NonFiniteLoss):
        fitted(xl.Batches(x, T, 1, 5))


# What is refused


@pytest.mark.parametrize(
    ("x", "t", "size", "error", "message"),
    [
        (X.tolist(), T, 2, TypeError, "Batches: x is a list; expected a numpy.ndarray"),
        (X, T.tolist(), 2, TypeError, "Batches: t is a list"),
        (X, T[:5], 2, ValueError, r"x has shape \(23, 3\), t has shape \(5,\)"),
        (np.asarray(1.0), np.asarray(1), 2, ValueError, r"x has shape \(\)"),
        (X, T, 0, ValueError, "batch_size is 0; expected 1 or more"),
    ],
)
def test_refusals(x, t, size, error, message):
    with pytest.raises(error, match=message):
        xl.Batches(x, t, size)


@pytest.mark.only("torch", "jax", "strict")
def test_arrays_that_are_in_their_place_already(xpv):
    with pytest.raises(TypeError, match="For arrays of other libraries use minibatches"):
        xl.Batches(xpv.asarray(X), T, 2)


# Page-locked memory, with a stand-in for CuPy that writes down the order of things


class Event:
    def __init__(self, gpu, stream):
        self.gpu, self.name = gpu, f"{stream}:{len(gpu.log)}"

    def synchronize(self):
        self.gpu.log.append(("host waits for", self.name))


class Stream:
    def __init__(self, gpu, name):
        self.gpu, self.name = gpu, name

    def record(self):
        event = Event(self.gpu, self.name)
        self.gpu.log.append((self.name, "records", event.name))
        return event

    def wait_event(self, event):
        self.gpu.log.append((self.name, "waits for", event.name))

    def synchronize(self):
        self.gpu.log.append(("host waits for", self.name))


class Gpu:
    """What `PinnedLoader` uses of CuPy; copies are done when they are waited for."""

    __name__ = "cupy"

    def __init__(self):
        self.log, self.pinned, self.copies = [], [], {}
        self.compute = Stream(self, "compute")
        self.cuda = SimpleNamespace(
            Device=nullcontext,
            Stream=lambda non_blocking: Stream(self, "copy"),
            get_current_stream=lambda: self.compute,
        )

    def empty_pinned(self, shape, dtype):
        self.pinned.append(np.full(shape, 99, dtype))
        return self.pinned[-1]

    def empty(self, shape, dtype):
        gpu = self

        class OnDevice:
            def __init__(self):
                self.shape, self.dtype = shape, np.dtype(dtype)

            def set(self, host, stream):
                assert any(np.shares_memory(host, p) for p in gpu.pinned)
                assert (host.shape, host.dtype) == (self.shape, self.dtype)
                gpu.log.append((stream.name, "copies"))
                self.host = host  # as an asynchronous copy, which may be late
                self.now = host.copy()

        return OnDevice()


def test_page_locked_buffers_are_used_in_turn_and_waited_for():
    gpu = Gpu()
    loader = PinnedLoader(gpu, gpu.empty_pinned, (X, T), None)
    parts = [np.arange(i, min(i + 5, N)) for i in range(0, N, 5)]
    for part in parts:
        x, t = loader.finish(loader.load(loader.begin(part)))
        assert_same_bits(x.now, X[part])
        assert_same_bits(t.now, T[part])
    loader.close()
    assert [p.shape for p in gpu.pinned] == [(5, 3), (5,)] * 2  # two buffers, of the largest batch

    lines = [" ".join(words) for words in gpu.log]
    assert lines[-1] == "host waits for copy"
    copied = [line.split()[-1] for line in lines if line.startswith("copy records")]
    free = [line.split()[-1] for line in lines if line.startswith("compute records")]
    assert len(copied) == len(free) == len(parts)
    for i in range(len(parts)):
        start = lines.index(f"copy waits for {free[i]}")  # memory that computation may have used
        end = lines.index(f"copy records {copied[i]}")
        assert lines[start + 1 : end] == ["copy copies"] * 2
        assert lines.index(f"compute waits for {copied[i]}") > end
        if i + 2 < len(parts):  # before the buffer is overwritten
            waited = lines.index(f"host waits for {copied[i]}")
            assert end < waited < lines.index(f"copy waits for {free[i + 2]}")


def test_page_locked_memory_brings_the_batches_of_a_pass(monkeypatch):
    gpu = Gpu()
    loader = PinnedLoader(gpu, gpu.empty_pinned, (X, T), None)
    parts = [np.arange(i, i + 4) for i in range(0, 20, 4)]
    pairs = list(loading._prefetched(loader, iter(parts)))
    for (x, t), part in zip(pairs, parts, strict=True):
        assert_same_bits(x.now, X[part])
        assert_same_bits(t.now, T[part])


@pytest.mark.only("cupy")
def test_a_batch_is_waited_for(xpv):
    """The only one of a pass, after which no other copy makes the device wait."""
    batches = iter(xl.Batches(X, T, N, like=xpv.asarray(X)))
    x, t = next(batches)
    assert_same_bits(x, X)
    assert_same_bits(t, T)
    batches.close()


@pytest.mark.only("cupy")
def test_a_batch_that_nobody_took_is_not_copied_late(xpv):
    """Its memory may have been given out again by then."""
    passes = iter(xl.Batches(X, T, 4, like=xpv.asarray(X)))
    next(passes)
    passes.close()
    others = [xpv.xp.zeros((4, 3), dtype="float32") for _ in range(20)]
    for _ in range(2):  # as this stream leaves it, and after all others
        assert all((to_numpy(a) == 0).all() for a in others)
        xpv.device.synchronize()
