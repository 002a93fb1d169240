"""The rows of the benchmarks on toys: do all implementations compute the same?"""

import importlib.util
import sys

import numpy as np
import pytest
from helpers import ROOT

sys.path.append(str(ROOT))  # behind an installed xplayers: the benchmarks are not installed

from benchmarks.implementations import NotRun, epoch_sums, load
from benchmarks.workloads import (
    WARM_UP,
    Workload,
    comparison,
    convolutional,
    data,
    find,
    transformer_block,
)

BY_LIBRARY = {
    "numpy": ["book", "xplayers-numpy", "xplayers-numpy-step", "scikit-learn"],
    "torch": ["torch-eager", "xplayers-torch", "xplayers-torch-plain"],
    "jax": ["jax", "xplayers-jax"],
}


@pytest.fixture
def implementations(xpv, monkeypatch):
    """Yield the implementations on a library, and let nothing of their settings stay."""
    monkeypatch.setenv("XPLAYERS_JIT", "0")
    threads = xpv.xp.get_num_threads() if xpv.backend == "torch" else 1
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    yield {name: load(name)() for name in BY_LIBRARY[xpv.backend] if is_installed(name)}
    if xpv.backend == "torch":
        xpv.xp.set_num_threads(threads)


def is_installed(name):
    # The folder of tests of that name is no package.
    spec = importlib.util.find_spec("sklearn")
    return name != "scikit-learn" or (spec is not None and spec.origin is not None)


def agree(implementations, workload, lr=0.0, without=()):
    """Compare the results of all that take part in a workload; `without` are those that cannot."""
    rows, expected, refused = data(workload), None, set()
    reference = load("xplayers-numpy")()
    for name, implementation in {"reference": reference, **implementations}.items():
        build = getattr(implementation, workload.kind, None)
        if build is None:
            continue
        try:
            task = build(rows, lr)
        except NotRun:
            refused.add(name)
            continue
        results = [np.asarray(a) for a in comparison(rows)(task.comparable(task.run()))]
        expected = results if expected is None else expected
        assert len(results) == len(expected)
        for array, other in zip(results, expected, strict=True):
            np.testing.assert_allclose(array, other, rtol=1e-4, atol=1e-4, err_msg=name)
    assert refused == {name for name in without if name in implementations}
    return expected


NOT_IN_THE_BOOK = ["attention", "layer_normalization", "lstm", "embedding", "dropout", "sequential"]


@pytest.mark.only(*BY_LIBRARY)
@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((5, 4), ("affine", 3)),
        ((6, 5), ("batch_normalization",)),
        ((3, 2, 4, 4), ("batch_normalization",)),
        ((3, 2, 6, 7), ("convolution", 4, 3)),
        ((3, 2, 4, 6), ("max_pooling", 2)),
        ((6, 5), ("layer_normalization",)),
        ((2, 5, 8), ("attention", 2)),
        ((3, 4, 5), ("lstm", 6)),
        ((3, 4), ("embedding", 7, 5)),
        ((500, 400), ("dropout", 0.1)),
        ((2, 5, 8), transformer_block(8, 2)),
    ],
    ids=lambda value: value[0] if isinstance(value[0], str) else "",
)
def test_layers_of_all_implementations_agree(implementations, shape, spec):
    workload = Workload("toy", "layer", shape, "toy", (spec,))
    without = ["book"] if spec[0] in NOT_IN_THE_BOOK else []
    y, *rest = agree(implementations, workload, without=without)
    if spec[0] == "dropout":
        assert float(y) == 0.1  # the share of zeros
        assert [a.tolist() for a in rest] == [pytest.approx([1.111])] * 2 + [0.0]
    else:
        first = [shape] if spec[0] != "embedding" else []
        layer = data(workload)["layer"]
        assert len(rest) == len(first) + len(layer.learnt)
        assert [a.shape for a in rest[: len(first)]] == first


@pytest.mark.only(*BY_LIBRARY)
def test_inference_and_loading_of_all_implementations_agree(implementations):
    network = *convolutional(2)[:4], ("flatten",), ("affine", 3)
    (y,) = agree(implementations, Workload("toy", "inference", (2, 1, 6, 6), "toy", network))
    assert y.shape == (2, 3)
    count, *sums = agree(implementations, Workload("toy", "loading", (300, 5), "toy"))
    assert int(count) == 3  # batches of 100
    assert [a.shape for a in sums] == [(5,), (5,)]


def test_dropout_that_masks_its_gradient_otherwise_is_seen():
    workload = Workload("toy", "layer", (100, 200), "toy", (("dropout", 0.1),))
    rows = data(workload)
    y, dx = load("xplayers-numpy")().layer(rows, 0.0).run()
    right = comparison(rows)((y, dx))
    for wrong in (y, np.flip(dx)), (y, 0.9 * dx), (0.9 * y, dx), (y * (rows["x"] > 0), dx):
        different = comparison(rows)(wrong)
        assert [np.shape(a) for a in different] != [np.shape(a) for a in right] or any(
            np.any(np.abs(a - b) > 1e-3 * np.abs(b)) for a, b in zip(different, right, strict=True)
        )


def test_an_epoch_that_lacks_a_sample_or_swaps_labels_is_seen():
    x, t = np.arange(12.0).reshape(6, 2), np.arange(6) % 4
    right = epoch_sums([(x[:4], t[:4]), (x[4:], t[4:])])
    assert np.all(np.equal(right[1], epoch_sums([(x[2:], t[2:]), (x[:2], t[:2])])[1]))
    for batches in (
        [(x, t)],
        [(x[:4], t[:4]), (x[:2], t[:2])],
        [(x[:4], t[:4]), (x[4:], t[4:][::-1])],
    ):
        assert any(np.any(a != b) for a, b in zip(epoch_sums(batches), right, strict=True))


@pytest.mark.only(*BY_LIBRARY)
def test_steps_of_a_convolutional_network_agree(implementations):
    layers = *convolutional(2)[:4], ("flatten",), ("affine", 3)  # half of it: JAX compiles slowly
    workload = Workload("toy", "step", (8, 1, 6, 6), "toy", layers)
    reference = load("xplayers-numpy")().step(data(workload), 0.01)
    expected = [float(reference.run()[0]) for _ in range(4)]
    assert expected[3] < 0.95 * expected[0]
    for name in implementations.keys() - {"scikit-learn"}:
        task = implementations[name].step(data(workload), 0.01)
        assert [float(task.run()[0]) for _ in range(4)] == pytest.approx(expected, rel=1e-4)


def test_the_steps_of_scikit_learn_are_those_of_its_perceptron():
    pytest.importorskip("sklearn.neural_network")
    perceptron, rows = load("scikit-learn")(), data(find("step-6-5-4-3"))
    expected, losses = (
        [float(task.run()[0]) for _ in range(4)]
        for task in (load("xplayers-numpy")().step(rows, 0.01), perceptron.step(rows, 0.01))
    )
    assert expected[3] < 0.99 * expected[0]
    assert losses == pytest.approx(expected, rel=1e-4)
    with pytest.raises(NotRun, match="affine layers with ReLU"):
        perceptron.step(data(WARM_UP), 0.01)
