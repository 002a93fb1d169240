"""Which run a checkpoint is of: what differs is said, and nothing is taken from another run."""

import json
import shutil

import numpy as np
import pytest

import xplayers as xl
from xplayers.arrays.transfer import to_numpy
from xplayers.training import identity as identity_module
from xplayers.training.identity import described, digest

X = np.random.default_rng(0).normal(size=(22, 4)).astype(np.float32)
T = np.arange(22) % 3
CHANGED = X + np.float32(0)
CHANGED[21, 3] += np.float32(1e-3)


def network(rate=0.3, hidden=5):
    return xl.Sequential(
        fc1=xl.Affine.init(4, hidden, rng=0), relu=xl.LeakyRelu(0.1), drop=xl.Dropout(rate, seed=1),
        fc2=xl.Affine.init(hidden, 3, rng=1),
    )  # fmt: skip


def train(folder, x=X, t=T, *, net=None, loss=None, optimizer=None, validation=(X[:9], T[:9]),
          resume=False, **options):  # fmt: skip
    options = {"batch_size": 8, "epochs": 2, "seed": 5, "progress": False, **options}
    net = network() if net is None else net
    checkpoint = xl.Checkpoint(folder, every_steps=2)
    trainer = xl.Trainer(
        net, loss or xl.SoftmaxWithLoss(), optimizer or xl.Adam(0.01), checkpoint=checkpoint,
        **options,
    )  # fmt: skip
    return trainer.fit(x, t, validation=validation, resume=resume)


def arrays(net):
    return {name: to_numpy(a).copy() for name, a in net.arrays.items()}


def refused(folder, words, **changes):
    """Resume with changes; see that it is refused, and that nothing was touched before."""
    net = changes.pop("net", None) or network()
    before, files = arrays(net), sorted(p.name for p in folder.iterdir())
    with pytest.raises(ValueError, match="to another run: ") as error:
        train(folder, net=net, resume=True, epochs=3, **changes)
    for word in words:
        assert word in str(error.value)
    after = arrays(net)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert sorted(p.name for p in folder.iterdir()) == files


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(folder)
    return folder


def schedule(step):
    return 0.01 / (1 + step)


def other_schedule(step):
    return 0.02 / (1 + step)


other_schedule.__name__ = "schedule"

CHANGES = {
    "x": ({"x": CHANGED}, ["x was float32 (22, 4) ", ", is float32 (22, 4) "]),
    "fewer samples": ({"x": X[:21], "t": T[:21]}, ["samples was 22, is 21", "x was float32 (22"]),
    "another dtype": ({"x": X.astype("f8"), "validation": None}, ["x was float32", "is float64"]),
    "t": ({"t": T[::-1].copy()}, ["t was integers (22,) "]),
    "one-hot t": ({"t": np.eye(3, dtype="f4")[T]}, ["t was integers (22,)", "is float32 (22, 3)"]),
    "validation x": ({"validation": (X[1:10], T[:9])}, ["validation x was float32 (9, 4)"]),
    "validation t": ({"validation": (X[:9], T[1:10])}, ["validation t was integers (9,)"]),
    "no validation": (
        {"validation": None},
        ["validation x was float32 (9, 4)", "is None", "monitor was val_loss, is loss"],
    ),
    "monitor": ({"monitor": "val_accuracy"}, ["is val_accuracy", "mode was "]),
    "mode": ({"mode": "max"}, ["mode was min, is max"]),
    "patience": ({"patience": 9}, ["patience was None, is 9", "restore_best was False, is True"]),
    "restore_best": ({"restore_best": True}, ["restore_best was False, is True"]),
    "metrics": ({"metrics": {"own": xl.accuracy}}, ["metrics was accuracy, is own"]),
    "no metrics": ({"metrics": {}}, ["metrics was accuracy, is none"]),
    "train_metrics": ({"train_metrics": True}, ["train_metrics was False, is True"]),
    "batch_size": ({"batch_size": 4}, ["batch_size was 8, is 4"]),
    "accumulate": ({"accumulate": 2}, ["accumulate was 1, is 2"]),
    "seed": ({"seed": 6}, ["seed was 5, is 6"]),
    "clip_norm": ({"clip_norm": 1.0}, ["clip_norm was None, is 1.0"]),
    "reduce_grads": ({"reduce_grads": dict}, ["reduce_grads was None, is dict"]),
    "optimizer": ({"optimizer": xl.SGD(0.01)}, ["optimizer was Adam(lr=0.01,", "is SGD(lr=0.01,"]),
    "lr": ({"optimizer": xl.Adam(0.02)}, ["Adam(lr=0.01,", "is Adam(lr=0.02,"]),
    "beta": ({"optimizer": xl.Adam(0.01, beta1=0.8)}, ["beta1=0.9", "beta1=0.8"]),
    "schedule": (
        {"optimizer": xl.Adam(xl.schedules.Cosine(0.01, steps=99))},
        ["Adam(lr=0.01,", "Adam(lr=Cosine(lr=0.01, steps=99, "],
    ),
    "loss": ({"loss": xl.SoftmaxWithLoss(label_smoothing=0.1)}, ["hing=0.0", "hing=0.1"]),
    "class weights": (
        {"loss": xl.SoftmaxWithLoss(class_weights=np.ones(3, "f4"))},
        ["class_weights=<float32 (3,)"],
    ),
    "precision": ({"precision": xl.MixedPrecision()}, ["precision was None, is MixedPrecision("]),
    "an option of a layer": (
        {"net": network(0.4)},
        ["network was drop=Dropout(rate=0.3", ", is drop=Dropout(rate=0.4"],
    ),
    "a layer": ({"net": network(hidden=6)}, ["network was fc1=Affine.init(4, 5)"]),
    "a layer more": ({"net": xl.Sequential(network(), xl.Relu())}, ["network was Sequential("]),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_differs_is_said(name, done):
    changes, words = CHANGES[name]
    refused(done, words, **changes)


def test_what_does_not_change_results_may_change(done, tmp_path):
    """The width of integers, the size of evaluation batches, callbacks, more epochs."""
    folder = tmp_path / "run"
    shutil.copytree(done, folder)
    x = np.asfortranarray(X)  # the values count, not how they lie
    history = train(
        folder, x, T.astype("int32"), epochs=3, resume=True, eval_batch_size=3, monitor="val_loss",
        mode="min", on_nonfinite="ignore", callbacks=[lambda event: None], compile=False,
    )  # fmt: skip
    assert history["epoch"].tolist() == [1, 2, 3]
    net, other = network(), network()
    expected = train(tmp_path / "whole", net=net, epochs=3)
    xl.Checkpoint(folder).restore(other)
    for name, a in arrays(net).items():
        np.testing.assert_array_equal(arrays(other)[name], a)
    assert history["loss"].tolist() == expected["loss"].tolist()
    np.testing.assert_allclose(history["val_loss"], expected["val_loss"], rtol=1e-6)


def test_epochs_may_grow_and_not_shrink(done, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(done, folder)
    assert len(train(folder, epochs=2, resume=True)) == 2  # all are done: nothing to do
    for epochs in (0, 1):
        with pytest.raises(ValueError, match=f"has 2 epochs; epochs is {epochs}. Pass epoch"):
            train(folder, epochs=epochs, resume=True)

    def stop(event):
        if event.step == 4:
            event.trainer.stop()

    train(tmp_path / "part", epochs=2, callbacks=[stop])
    words = "has 1 epochs and a part of the next; epochs is 1. Pass epochs=2 or more"
    with pytest.raises(ValueError, match=words):
        train(tmp_path / "part", epochs=1, resume=True)


@pytest.mark.parametrize("kind", ["missing", "empty", "others"])
def test_a_folder_without_checkpoints_is_said(kind, tmp_path, capsys):
    folder = tmp_path / "tpyo"
    if kind != "missing":
        folder.mkdir()
    if kind == "others":
        (folder / "notes.txt").write_text("mine")
    assert len(train(folder, resume=True)) == 2
    words = f"there is no checkpoint in {folder}; the run begins with its first step."
    assert capsys.readouterr().err == f"Trainer.fit: {words}\n"
    assert len(train(folder, resume=True, epochs=3)) == 3  # now there is one
    assert capsys.readouterr().err == ""


def test_a_checkpoint_of_a_loop_is_no_run_of_a_trainer(tmp_path):
    xl.Checkpoint(tmp_path).save(3, network(), metadata={"run": 1})
    with pytest.raises(ValueError, match="was not written by a Trainer. load"):
        train(tmp_path, resume=True)


def test_a_checkpoint_of_an_earlier_version_is_believed(done, tmp_path):
    net = network()
    checkpoint = xl.Checkpoint(done)
    saved = checkpoint.restore(net)
    known = ("batch_size", "accumulate", "seed", "samples")
    metadata = {**saved.metadata, "run": {k: saved.metadata["run"][k] for k in known}}
    xl.Checkpoint(tmp_path / "old").save(saved.step, net, saved.state, metadata=metadata)
    assert len(train(tmp_path / "old", x=CHANGED, epochs=3, resume=True)) == 3
    with pytest.raises(ValueError, match="batch_size was 8, is 4"):
        train(tmp_path / "old", batch_size=4, epochs=3, resume=True)


# Batches and other forms


class Loader:
    """Batches of somebody else's."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def halves(x=X):
    return [(x[:11], T[:11]), (x[11:], T[11:])]


FORMS = {
    "list": (lambda: halves(), lambda: halves(CHANGED), "x was 2 batches"),
    "longer": (lambda: halves(), lambda: halves() * 2, "x was 2 batches"),
    "batches": (
        lambda: xl.Batches(X, T, 8, rng=0), lambda: xl.Batches(CHANGED, T, 8, rng=0), "x was float",
    ),
    "order": (
        lambda: xl.Batches(X, T, 8, rng=0), lambda: xl.Batches(X, T, 8, rng=1),
        "batches was batch_size=8, rng=0, drop_last=False, transform=None, is batch_size=8, rng=1",
    ),
    "transform": (
        lambda: xl.Batches(X, T, 8, rng=0),
        lambda: xl.Batches(X, T, 8, rng=0, transform=lambda x, rng: x),
        "batches was batch_size=8, rng=0, drop_last=False, transform=None, is batch_size=8, rng=0",
    ),
    "arrays": (lambda: halves(), lambda: xl.Batches(X, T, 11), "x was 2 batches"),
    "loader": (lambda: Loader(halves()), lambda: Loader(halves() * 2), "x was a Loader of 2 b"),
    "function": (lambda: lambda epoch: halves(), lambda: Loader(halves()), "x was a function, is"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("validation", [False, True])
def test_batches_are_told_apart(name, validation, tmp_path):
    first, second, words = FORMS[name]
    if validation and name == "function":
        pytest.skip("validation is no function")

    def arguments(data):
        return {"validation": data} if validation else {"x": data, "t": None}

    train(tmp_path, **arguments(first()))
    assert len(train(tmp_path, **arguments(first()), resume=True, epochs=3)) == 3
    net = network()
    with pytest.raises(ValueError, match="to another run: ") as error:
        train(tmp_path, net=net, **arguments(second()), resume=True, epochs=4)
    assert ("validation " * validation + words) in str(error.value)


def test_a_file_in_the_place_of_memory_is_the_same_run(tmp_path):
    np.save(tmp_path / "x.npy", X)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    train(tmp_path / "run", xl.Batches(X, T, 8, rng=0), None)
    history = train(tmp_path / "run", xl.Batches(x, T, 8, rng=0), None, resume=True, epochs=3)
    assert len(history) == 3


# Digests


def test_a_digest_is_of_the_values_on_every_library(xpv):
    for dtype in ("float32", "int32"):
        x = (X * 10).astype(dtype)
        assert digest(xpv.asarray(x)) == digest(x)
    assert digest(X[::2]) == digest(X[::2].copy()) == digest(np.asfortranarray(X[::2]))
    assert digest(X.astype(">f4")) == digest(X)
    assert digest(T.astype("uint8")) == digest(T.astype("int32")) == digest(T)
    assert digest(np.empty((0, 4), "f4")) != digest(np.empty((0, 5), "f4"))
    assert digest(np.float32(3)) != digest(np.float32(4))
    assert digest(np.zeros(4, bool)) != digest(np.asarray([0, 0, 0, 1], bool))
    assert digest(X.reshape(-1)) != digest(X)


@pytest.mark.parametrize("shape", [(4099, 3), (40_000,), (5, 999), (1, 9999), (3, 4000)])
def test_a_large_array_is_told_by_a_sample(shape, monkeypatch, xpv):
    monkeypatch.setattr(identity_module, "_SAMPLE", 4096)
    monkeypatch.setattr(identity_module, "_BLOCKS", 8)
    x = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    seen = []

    class Spy:
        dtype, shape = x.dtype, x.shape

        def __getitem__(self, key):
            seen.append(x[key])
            return x[key]

    first = digest(Spy(), 8192)
    assert first == digest(xpv.asarray(x), 8192)
    assert sum(part.nbytes for part in seen) <= max(4096, 2 * x.nbytes // shape[0])
    assert seen[0].flat[0] == 0
    assert seen[-1].flat[-1] == x.size - 1
    x[-1, ...] += 1
    assert digest(x, 8192) != first


def test_options_in_words():
    assert described(xl.Adam()) == described(xl.Adam())
    assert described(xl.SGD(schedule)) != described(xl.SGD(other_schedule))
    assert described(lambda: 0) == "<lambda>"
    assert "object at" not in described({"a": [object(), xl.Relu(), Loader([1])]})
    recursive = Loader([])
    recursive.batches.append(recursive)
    assert described(recursive)  # comes to an end
    json.dumps(described(np.float64(3)))
