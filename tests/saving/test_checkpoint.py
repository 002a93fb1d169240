"""Checkpoints: a run that goes on from one gives the bits of the run that never stopped."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time

import numpy as np
import pytest
from helpers import assert_at_home, assert_same_arrays, assert_same_bits, values

import xplayers as xl
from xplayers.arrays.transfer import to_numpy
from xplayers.saving import files
from xplayers.saving.checkpoint import Checkpoint
from xplayers.saving.files import TEMPORARY
from xplayers.saving.network import RECORD, load, read_metadata, save
from xplayers.saving.safetensors import write
from xplayers.training.step import TrainStep


def network(seed=0):
    return xl.Sequential(
        xl.Affine.init(4, 5, rng=seed),
        xl.BatchNormalization.init(5),
        xl.Dropout(0.3),
        xl.Affine.init(5, 3, rng=seed + 1),
    )


def training(seed=0):
    return TrainStep(network(seed), xl.SoftmaxWithLoss(), xl.Adam())


def train(step, rng, asarray, steps):
    for _ in range(steps):
        x = asarray(rng.normal(size=(6, 4)), "float32")
        step(x, asarray(rng.integers(0, 3, 6)))


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(tmp_path / "run", keep=3)


def names(checkpoint):
    return sorted(path.name for path in checkpoint.folder.iterdir())


def damage(path):
    contents = bytearray(path.read_bytes())
    contents[-3] ^= 4
    path.write_bytes(contents)


# Going on


def test_a_run_goes_on_with_the_same_bits(xpv, checkpoint):
    whole, rng = training(), np.random.default_rng(5)
    train(whole, rng, xpv.asarray, 3)
    checkpoint.save(3, whole.net, whole.state, rng=rng, metadata={"losses": [1.5]})
    train(whole, rng, xpv.asarray, 3)
    checkpoint.save(6, whole.net, whole.state)
    for path in checkpoint.folder.glob("*6.safetensors"):
        path.unlink()

    other, rng = training(7), np.random.default_rng(8)
    saved = checkpoint.restore(other.net)
    assert saved is not None
    assert (saved.step, saved.metadata) == (3, {"losses": [1.5]})
    assert saved.path == checkpoint.folder / "step-000000003.safetensors" == checkpoint.latest()
    other.state, rng.bit_generator.state = saved.state, saved.rng_state
    train(other, rng, xpv.asarray, 3)
    assert_same_arrays(other.net.arrays, whole.net.arrays)
    assert_same_arrays(other.state, whole.state)
    assert int(to_numpy(other.state["optimizer"]["count"])) == 6


@pytest.mark.parametrize("on_device", [False, True])
def test_where_the_state_is(on_device, xpv, checkpoint):
    like = xpv.asarray(values((1, 4)), "float32")
    state = {"w": like, "n": xpv.asarray(np.asarray(3, "int32")), "f": xpv.asarray([True, False])}
    if "bfloat16" in xpv.floats:
        state["half"] = xpv.asarray(values((2, 2)), "bfloat16")
    checkpoint.save(1, network(), state)
    net = network().to(like=like) if on_device else network()
    saved = checkpoint.restore(net)
    assert saved is not None
    assert saved.state is not None
    assert_same_arrays(saved.state, state)
    for name, a in saved.state.items():
        if on_device:
            assert_at_home(a, like, state[name].dtype)
        else:
            assert type(a) is np.ndarray


def test_a_run_goes_on_with_another_library(xpv, checkpoint):
    """Trained on NumPy, gone on from elsewhere; as from a GPU to a machine without one."""
    first, rng = training(), np.random.default_rng(5)
    train(first, rng, np.asarray, 2)
    checkpoint.save(2, first.net, first.state)
    other = training(3)
    other.net.to(like=xpv.asarray(values((1, 4)), "float32"))
    saved = checkpoint.restore(other.net)
    assert saved is not None
    assert_same_arrays(other.net.arrays, first.net.arrays)
    assert_same_arrays(saved.state, first.state)
    assert_at_home(other.net.params["0.W"], xpv.asarray(values((1,)), "float32"))


def test_the_plain_loop(checkpoint):
    net, loss, optimizer = network(), xl.SoftmaxWithLoss(), xl.Momentum()
    x, t = values((6, 4)).astype("float32"), np.arange(6) % 3

    def train(net, optimizer):
        for _ in range(2):
            loss.forward(net.forward(x), t)
            net.backward(loss.backward())
            optimizer.update(net.params, net.grads)

    train(net, optimizer)
    checkpoint.save(2, net, optimizer.state)
    train(net, optimizer)
    other, again = network(3), xl.Momentum()
    saved = checkpoint.restore(other)
    assert saved is not None
    again.state = saved.state
    train(other, again)
    assert_same_arrays(other.arrays, net.arrays)


@pytest.mark.parametrize("name", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_generators_go_on(name, checkpoint):
    rng, other = (np.random.Generator(getattr(np.random, name)(seed)) for seed in (1, 2))
    rng.normal(size=3)
    rng.integers(0, 9, dtype="int8")  # leaves a half of 64 bits for the next
    before = repr(rng.bit_generator.state)
    checkpoint.save(1, network(), rng=rng)
    assert repr(rng.bit_generator.state) == before
    saved = checkpoint.restore(network())
    assert saved is not None
    other.bit_generator.state = saved.rng_state
    assert_same_bits(other.integers(0, 99, 9, dtype="int8"), rng.integers(0, 99, 9, dtype="int8"))
    assert_same_bits(other.normal(size=99), rng.normal(size=99))


def test_the_state_keeps_its_structure(checkpoint):
    a = np.arange(3)
    state = {
        "b": {"x/y": a, "x": {"y": a + 1}, "x~1y": a + 2, "": {"": a + 3}, "none": {}},
        "a": np.int32(4),
        "0.W": np.zeros((0, 2)),
        "ä\n": np.asarray(2.5),
    }
    checkpoint.save(1, network(), state)
    saved = checkpoint.restore(network())
    assert saved is not None
    assert_same_arrays(saved.state, state)
    assert saved.rng_state is None
    assert saved.metadata == {}
    for empty in ({}, None):
        checkpoint.save(1, network(), empty)
        saved = checkpoint.restore(network())
        assert saved is not None
        assert saved.state == empty


def test_metadata_may_be_long(checkpoint):
    history = {"loss": [i / 7 for i in range(200_000)], "best": np.inf, "n": np.int64(3)}
    checkpoint.save(1, network(), metadata=history)
    saved = checkpoint.restore(network())
    assert saved is not None
    assert saved.metadata == history


def test_what_is_given_is_not_written_to(xpv, checkpoint):
    step = training()
    train(step, np.random.default_rng(0), xpv.asarray, 1)
    held = {**step.net.arrays, **step.state["optimizer"]["m"]}
    before = {name: to_numpy(a).copy() for name, a in held.items()}
    checkpoint.save(1, step.net, step.state)
    train(step, np.random.default_rng(1), xpv.asarray, 1)
    saved = checkpoint.restore(step.net)
    assert saved is not None
    for name, a in before.items():
        restored = {**step.net.arrays, **saved.state["optimizer"]["m"]}
        assert_same_bits(restored[name], a, name)


def test_a_network_comes_out_of_a_checkpoint_alone(checkpoint):
    step = training()
    train(step, np.random.default_rng(0), np.asarray, 1)
    path = checkpoint.save(1, step.net, step.state, metadata={"a": 1})
    other = network(4)
    assert load(path, other) == read_metadata(path) == read_metadata(path, verify=False) == {"a": 1}
    assert_same_arrays(other.arrays, step.net.arrays)
    with pytest.raises(ValueError, match=r"does not match the network: missing in the file: 2\.W"):
        load(path, xl.Sequential(*network(4)[:2], xl.Affine.init(5, 3), xl.Relu()))


# When, and how many


def test_every_so_many_steps(tmp_path):
    checkpoint, due = Checkpoint(tmp_path, every_steps=10), []
    for step in [*range(0, 25), 29, 31, 33, 47]:  # steps may be passed over
        if checkpoint.due(step):
            due.append(step)
            checkpoint.save(step, xl.Relu())
    assert due == [10, 20, 31, 47]
    other = Checkpoint(tmp_path, every_steps=10)
    other.restore(xl.Relu())
    assert [step for step in range(47, 60) if other.due(step)] == list(range(50, 60))


def test_every_so_many_minutes(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path, every_minutes=0.5, every_steps=100)
    now[0] += 29.9
    assert not checkpoint.due(7)
    now[0] += 0.2
    assert checkpoint.due(7)
    checkpoint.save(7, xl.Relu())
    assert not checkpoint.due(8)
    now[0] += 30
    assert checkpoint.due(8)
    assert not checkpoint.due(7)  # it is there already
    checkpoint.restore(xl.Relu())
    assert not checkpoint.due(8)
    assert checkpoint.due(100)


def test_with_neither_none_is_due(checkpoint):
    assert not any(checkpoint.due(step) for step in range(1000))


def test_the_last_few_are_kept(checkpoint):
    for step in (1, 9, 10, 100, 10**9, 10**10):
        checkpoint.save(step, xl.Relu())
    latest = ["step-000000100", "step-1000000000", "step-10000000000"]
    assert names(checkpoint) == sorted(f"{name}.safetensors" for name in latest)
    assert checkpoint.latest() == checkpoint.folder / "step-10000000000.safetensors"


def test_what_a_killed_write_has_left_goes(checkpoint):
    checkpoint.save(1, xl.Relu())
    (checkpoint.folder / TEMPORARY.replace("*", "0123")).write_bytes(b"half")
    for name in ("mine", "step-x.safetensors", "step-3.safetensors.bak"):
        (checkpoint.folder / name).write_text("mine")
    assert checkpoint.latest() == checkpoint.folder / "step-000000001.safetensors"
    checkpoint.save(2, xl.Relu())
    steps = [f"step-{step:09d}.safetensors" for step in (1, 2)]
    assert names(checkpoint) == ["mine", *steps, "step-3.safetensors.bak", "step-x.safetensors"]


def test_none_there(checkpoint):
    assert checkpoint.latest() is None
    assert checkpoint.restore(network()) is None
    checkpoint.folder.mkdir()
    assert checkpoint.restore(network()) is None


# What goes wrong


def test_a_damaged_newest_one_is_passed_over(checkpoint):
    for step in (10, 20, 30, 40):
        checkpoint.save(step, xl.Affine.init(2, 2, rng=step))
    damage(checkpoint.folder / "step-000000040.safetensors")
    (checkpoint.folder / "step-000000030.safetensors").write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="skips .*step-0000000[34]0") as warned:
        assert checkpoint.latest() == checkpoint.folder / "step-000000020.safetensors"
    assert len(warned) == 2
    assert {w.filename for w in warned} == {__file__}
    net = xl.Affine.init(2, 2)
    with pytest.warns(RuntimeWarning) as warned:
        saved = checkpoint.restore(net)
    assert saved is not None
    assert saved.step == 20
    assert re.search("its checksum .* does not match", str(warned[0].message))
    assert re.search("is not a safetensors file", str(warned[1].message))
    assert_same_bits(net.W, xl.Affine.init(2, 2, rng=20).W)
    checkpoint.save(25, net)  # the damaged ones do not count as later
    checkpoint.save(30, net)  # and are written over
    with pytest.warns(RuntimeWarning, match="skips .*step-000000040"):
        assert checkpoint.latest() == checkpoint.folder / "step-000000030.safetensors"
    assert (checkpoint.folder / "step-000000020.safetensors").exists()


def test_all_are_damaged(checkpoint):
    damage(checkpoint.save(1, xl.Affine.init(2, 2)))
    for ask in (checkpoint.latest, lambda: checkpoint.restore(xl.Affine.init(2, 2))):
        with (
            pytest.warns(RuntimeWarning, match="skips"),
            pytest.raises(ValueError, match="none of the 1 files in .*run is complete"),
        ):
            ask()


def test_other_files_under_the_name_of_a_checkpoint(checkpoint, tmp_path):
    checkpoint.save(1, xl.Relu())
    save(checkpoint.folder / "step-2.safetensors", xl.Relu())
    (checkpoint.folder / "step-3.safetensors").mkdir()
    (checkpoint.folder / "step-8.safetensors").symlink_to("nothing")  # an OSError
    records = [b"[]", b"{}", b"[" * 9999, b'{"step":"1","state":{},"rng_state":{},"metadata":{}}']
    for i, record in enumerate(records):
        path = checkpoint.folder / f"step-{4 + i}.safetensors"
        write(path, {RECORD: np.frombuffer(record, "uint8")}, {})
        with pytest.raises(ValueError, match=path.name):
            load(path, xl.Relu())
    with pytest.warns(RuntimeWarning) as warned:
        assert checkpoint.latest() == checkpoint.folder / "step-000000001.safetensors"
    assert len(warned) == 7


def test_a_state_that_is_not_there(checkpoint):
    record = {"step": 1, "state": {"m": {"W": None}}, "rng_state": None, "metadata": {}}
    checkpoint.folder.mkdir()
    data = {RECORD: np.frombuffer(json.dumps(record).encode(), "uint8")}
    write(checkpoint.folder / "step-1.safetensors", data, {})
    with pytest.raises(ValueError, match=r"step-1\.safetensors: has no checkpoint/state/m/W"):
        checkpoint.restore(xl.Relu())


def test_a_network_that_does_not_fit(checkpoint):
    checkpoint.save(1, network())
    for other in (xl.mlp([4, 5, 3], rng=0), network().to(xp=np, dtype="float64")):
        before = dict(other.arrays)
        with pytest.raises(ValueError, match=r"step-000000001\.safetensors: does not match"):
            checkpoint.restore(other)
        assert all(other.arrays[name] is a for name, a in before.items())


@pytest.mark.only("jax")
def test_a_dtype_that_the_library_cannot_have(xpv, checkpoint):
    checkpoint.save(1, network(), {"total": np.asarray(1.0)})
    net = network().to(like=xpv.asarray(values((1, 4)), "float32"))
    before = dict(net.arrays)
    message = "checkpoint/state/total is float64, which a jax array on the CPU cannot be"
    with pytest.raises(ValueError, match=message):
        checkpoint.restore(net)
    assert all(net.arrays[name] is a for name, a in before.items())


def test_another_run_in_the_folder(checkpoint):
    for step in (10, 20):
        checkpoint.save(step, xl.Relu())
    with pytest.raises(ValueError, match=r"has step 20 of another run, and this one is at 5\."):
        Checkpoint(checkpoint.folder).save(5, xl.Relu())
    checkpoint.save(20, xl.Relu())  # the same step again, as after an interrupt
    assert len(names(checkpoint)) == 2


def test_a_full_disk_loses_no_earlier_checkpoint(checkpoint, monkeypatch):
    for step in (1, 2, 3):
        checkpoint.save(step, network(step))
    before = {p: p.read_bytes() for p in checkpoint.folder.iterdir()}

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        checkpoint.save(4, network())
    monkeypatch.undo()
    assert error.value.filename == str(checkpoint.folder / "step-000000004.safetensors")
    assert {p: p.read_bytes() for p in checkpoint.folder.iterdir()} == before
    checkpoint.save(4, network())
    assert len(names(checkpoint)) == 3


def test_arguments(checkpoint, tmp_path):
    for option in ("every_steps", "every_minutes", "keep"):
        with pytest.raises(ValueError, match=f"Checkpoint: {option} is 0; expected a positive"):
            Checkpoint(tmp_path, **{option: 0})
    with pytest.raises(TypeError, match="float"):
        Checkpoint(tmp_path, every_steps=1.5)  # type: ignore[arg-type]
    net = network()
    for arguments, message in (
        ((1, {}), "net is a dict; expected a layer"),
        ((1.5, net), "float"),
        ((1, net, [1]), "state is a list; expected a dict of arrays"),
        ((1, net, {"a": {3: np.ones(1)}}), "state has the name 3; expected a string"),
        ((1, net, {"a": {"b": 1.5}}), "save: checkpoint/state/a/b is a float; expected an array"),
        ((1, net, {"a": None}), "save: checkpoint/state/a is a NoneType"),
    ):
        with pytest.raises(TypeError, match=message):
            checkpoint.save(*arguments)
    with pytest.raises(TypeError, match=r"rng is a int; expected numpy\.random\.default_rng"):
        checkpoint.save(1, net, rng=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Checkpoint: metadata is a list; expected a dict"):
        checkpoint.save(1, net, metadata=[])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="net is a dict"):
        checkpoint.restore({})  # type: ignore[arg-type]
    with contextlib.suppress(FileNotFoundError):
        assert names(checkpoint) == []


# Damage of all kinds


def damaged(contents, rng):
    """Return the contents of a file with random damage, as disks and people do it."""
    contents, n = bytearray(contents), len(contents)
    kind = rng.integers(0, 8)
    a, b = sorted(rng.integers(0, n + 1, 2))
    if kind == 0:
        return contents[:a]
    if kind == 1:
        contents[a:b] = bytes(b - a)  # a block of zeros
    elif kind == 2:
        contents[a:b] = rng.bytes(b - a)
    elif kind == 3:
        del contents[a:b]
    elif kind == 4:
        contents[a:a] = contents[a:b]  # a part twice
    elif kind == 5:
        contents[:8] = rng.bytes(8) if a % 2 else int(a).to_bytes(8, "little")
    elif kind == 6:
        head = 8 + int.from_bytes(contents[:8], "little")
        offset = int(rng.integers(8, head))
        contents[offset] = rng.choice(np.frombuffer(b'0123456789-.eE"{}[]:, ', "uint8"))
    else:
        for offset in rng.integers(0, n, rng.integers(1, 9)):
            contents[offset] ^= 1 << rng.integers(0, 8)
    return contents


def check_damaged(checkpoint, count, seed):
    """Check that each damaged file loads right or is refused; return the worst seconds."""
    step, rng = training(), np.random.default_rng(seed)
    train(step, rng, np.asarray, 1)
    path = checkpoint.save(1, step.net, step.state, rng=rng, metadata={"losses": [1.5, 0.1]})
    original, net, worst = path.read_bytes(), network(3), 0.0
    before, refused = dict(net.arrays), 0
    for _ in range(count):
        contents = damaged(original, rng)
        with open(path, "r+b", buffering=0) as file:  # "wb" would wait for the disk each time
            file.write(contents)
            file.truncate(len(contents))
        start = time.process_time()
        if contents == original:
            load(path, net)
            before = dict(net.arrays)
        else:
            with pytest.raises(ValueError, match=r"step-000000001\.safetensors: "):
                load(path, net)
            assert all(net.arrays[name] is a for name, a in before.items())
            refused += 1
        worst = max(worst, time.process_time() - start)
    assert refused > 0.9 * count
    return worst


def test_damaged_files(checkpoint):
    assert check_damaged(checkpoint, 500, 0) < 1


@pytest.mark.slow
def test_ten_thousand_damaged_files(checkpoint):
    worst = check_damaged(checkpoint, 10_000, 1)
    print(f"10,000 damaged files: {worst:.3f} s the slowest")  # noqa: T201 - a figure
    assert worst < 1
