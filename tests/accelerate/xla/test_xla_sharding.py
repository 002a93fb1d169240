"""Arrays of JAX that are sharded over a mesh of two devices, against the same on one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest
from helpers import ROOT, python

pytest.importorskip("jax")

BEGINNING = """
    import json
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
    import xplayers as xl

    mesh = Mesh(np.asarray(jax.devices()), ("batch",))
    by_rows = NamedSharding(mesh, PartitionSpec("batch"))
    one = jax.devices()[0]
    rng = np.random.default_rng(0)
    loss = xl.SoftmaxWithLoss()

    def largest_difference(results):
        pairs = zip(*map(jax.tree.leaves, results), strict=True)
        return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in pairs)
"""


def on_two_devices(code):
    """Return what the code prints, as JSON, where JAX sees two devices."""
    program = textwrap.dedent(BEGINNING) + textwrap.dedent(code)
    return json.loads(said_on_two_devices("-c", program)[-1])


def said_on_two_devices(*arguments):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    ran = python("-W", "error", *arguments, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()


def test_steps_and_predictions():
    result = on_two_devices("""
        def convolutional():
            return xl.Sequential(
                xl.Convolution.init(1, 4, 3, rng=0), xl.BatchNormalization.init(4), xl.Relu(),
                xl.MaxPooling(2), xl.Dropout(0.3, seed=1), xl.Flatten(),
                xl.Affine.init(36, 3, rng=1),
            )

        def recurrent():
            return xl.Sequential(
                xl.Embedding.init(7, 5, rng=0), xl.Lstm.init(5, 4, rng=1), xl.Flatten(),
                xl.Affine.init(12, 3, rng=2),
            )

        t = rng.integers(0, 3, 16)
        images = rng.normal(size=(16, 1, 8, 8)).astype("float32")
        for make, x in [(convolutional, images), (recurrent, rng.integers(0, 7, (16, 3)))]:
            results = []
            for where in (one, by_rows):
                net, (x_there, t_there) = make(), jax.device_put((x, t), where)
                step = xl.TrainStep(net, loss, xl.Momentum(0.1))
                values = [step(x_there, t_there) for _ in range(3)]
                y = net.predict(x_there)
                results.append((values, dict(net.params), dict(net.buffers), y))
            assert all(a.sharding.is_fully_replicated for a in net.params.values())
            assert y.sharding.spec == by_rows.spec, y.sharding
            assert largest_difference(results) < 1e-6, largest_difference(results)
        print(json.dumps("equal"))
    """)
    assert result == "equal"


def test_several_steps():
    """On rows of a data set that is sharded: so are its batches, if the mesh divides them."""
    specs = on_two_devices("""
        x, t = rng.normal(size=(46, 8)).astype("float32"), rng.integers(0, 3, 46)
        on_mesh, seen, specs = NamedSharding(mesh, PartitionSpec()), [], []
        call = xl.TrainStep.__call__

        def watched(step, *batch, lr=None):
            seen.append([tuple(a.sharding.spec) for a in batch if hasattr(a.sharding, "spec")])
            return call(step, *batch, lr=lr)

        xl.TrainStep.__call__ = watched
        for size, weights in [(16, ()), (16, (rng.uniform(size=46).astype("float32"),)), (15, ())]:
            rows, results = rng.permutation(46)[: 2 * size].reshape(2, size), []
            for where, place in ((one, one), (by_rows, on_mesh)):
                arrays, index = jax.device_put((x, t, *weights), where), jax.device_put(rows, place)
                net = xl.mlp([8, 6, 3], rng=0)
                step = xl.TrainStep(net, loss, xl.Momentum(0.1))
                values = [step.many(*arrays[:2], index, *arrays[2:], lr=0.1 * i) for i in (1, 2)]
                results.append((values, dict(net.params)))
            assert largest_difference(results) < 1e-6, largest_difference(results)
            specs.append(seen[-1])
        print(json.dumps(specs))
    """)
    assert specs == [[["batch"]] * 2, [["batch"]] * 3, [[]] * 2]


def test_trainer_and_evaluation():
    result = on_two_devices("""
        x, t = rng.normal(size=(46, 8)).astype("float32"), rng.integers(0, 3, 46)
        results = []
        for where in (one, by_rows):
            x_there, t_there, *held_out = jax.device_put((x, t, x[:16], t[:16]), where)
            net = xl.mlp([8, 6, 3], rng=0)
            trainer = xl.Trainer(net, loss, xl.Adam(0.01), batch_size=16, epochs=1, seed=0)
            trainer.fit(x_there, t_there, validation=tuple(held_out))
            value = xl.evaluate(net, loss, *held_out, metrics={"a": xl.accuracy})
            results.append((dict(net.params), value))
        assert largest_difference(results) < 1e-6, largest_difference(results)

        # Of 46, an odd number is not for two devices.
        specs = [
            tuple(a.sharding.spec)
            for size in (23, 46) for batch in xl.minibatches(x_there, t_there, size, rng=0)
            for a in batch
        ]
        print(json.dumps(specs))
    """)
    assert result == [*[[]] * 4, *[["batch"]] * 2]


def test_what_does_not_meet_is_refused():
    said = on_two_devices("""
        x, t = rng.normal(size=(4, 8)).astype("float32"), rng.integers(0, 3, 4)
        x_there, x_here, t_here = jax.device_put(x, by_rows), *jax.device_put((x, t), one)
        net = xl.mlp([8, 3], rng=0).to(like=x_here)
        explicit = NamedSharding(
            Mesh(np.asarray(jax.devices()), ("rows",), axis_types=(AxisType.Explicit,)),
            PartitionSpec("rows"),
        )
        said = []
        for call in (
            lambda: xl.TrainStep(xl.mlp([8, 3], rng=0), loss, xl.SGD(0.1))(x_there, t_here),
            lambda: net.predict(x_there),
            lambda: net.predict(jax.device_put(x, explicit)),
        ):
            try:
                call()
            except TypeError as error:
                said.append(str(error))
        print(json.dumps(said))
    """)
    target, parameters, explicit = said
    assert "SoftmaxWithLoss: t is a jax array on the CPU" in target
    assert "x is a jax array on a mesh of 2 devices" in target
    assert "x is a jax array on a mesh of 2 devices, 0.W is a jax array on the CPU" in parameters
    assert "Call layer.to(like=x)" in parameters
    assert "AxisType.Auto" in explicit


def test_the_example_of_many_processes():
    """The same script, on two devices."""
    first, second = said_on_two_devices(ROOT / "examples" / "many_processes.py", "jax")
    assert first.startswith("one process, 2 devices: ")
    assert float(second.removeprefix("accuracy on held-out digits: ")) > 0.95


def test_two_processes():
    """Of ``jax.distributed``, whose arrays no process has all of; against steps on NumPy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = textwrap.dedent(f"""
        import json, sys, jax
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize("127.0.0.1:{port}", num_processes=2, process_id=int(sys.argv[1]))
    """)
    program += textwrap.dedent(BEGINNING) + textwrap.dedent("""
        x, t = rng.normal(size=(16, 8)).astype("float32"), rng.integers(0, 3, 16).astype("int32")
        x_there, t_there = (
            jax.make_array_from_callback(a.shape, by_rows, lambda i, a=a: a[i]) for a in (x, t)
        )
        results = []
        for batch in ((x, t), (x_there, t_there)):
            net = xl.mlp([8, 6, 3], rng=0)
            trainer = xl.Trainer(net, loss, xl.Momentum(0.1), batch_size=8, epochs=2, seed=0)
            trainer.fit(*batch)
            results.append((dict(net.params), xl.evaluate(net, loss, *batch)))
        assert not x_there.is_fully_addressable
        assert largest_difference(results) < 1e-6, largest_difference(results)
        print(json.dumps(float(np.sum(np.asarray(net.params["0.W"]), dtype="float64"))))
    """)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = (sys.executable, "-c", program)
    both = [
        subprocess.Popen(
            [*command, str(rank)], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=200) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], said
    first, second = (out.splitlines()[-1] for out, _ in said)
    assert first == second
