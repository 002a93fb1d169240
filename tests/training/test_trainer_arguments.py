"""First mistakes with a trainer: they are said before the first step, and nothing is written."""

import re

import numpy as np
import pytest

import xplayers as xl

X = np.random.default_rng(0).normal(size=(22, 4)).astype(np.float32)
T = np.arange(22) % 3


class Counting(xl.Layer):
    """Counts the passes of a training."""

    passes = 0

    def apply(self, arrays, x):
        self.passes += 1
        return x, ()

    def infer(self, arrays, x):
        return x

    def vjp(self, cache, dy):
        return dy, {}


def trainer(*arguments, **options):
    options = {"batch_size": 8, "epochs": 2, "progress": False, **options}
    three = (network(), xl.SoftmaxWithLoss(), xl.Adam())
    return xl.Trainer(*(arguments or three), **options)


def network():
    return xl.mlp([4, 5, 3], rng=0)


# The constructor


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((network(), "softmax", "adam"), r"loss is 'softmax'; expected a loss, as SoftmaxWithLoss"),
        ((network(), xl.SoftmaxWithLoss(), "adam"), r"optimizer is 'adam'; expected an optimizer"),
        (
            (network(), xl.SoftmaxWithLoss, xl.Adam()),
            r"the class .*Call the class: SoftmaxWithLoss",
        ),
        ((network(), xl.SoftmaxWithLoss(), xl.Adam), r"the class Adam; .*Call the class: Adam\(\)"),
        ((xl.Relu, xl.SoftmaxWithLoss(), xl.Adam()), r"net is the class Relu; .*: Relu\(\)"),
        ((None, xl.SoftmaxWithLoss(), xl.Adam()), "net is None; expected a network"),
        (([network()], xl.SoftmaxWithLoss(), xl.Adam()), "net is .*; expected a network"),
        ((network(), xl.Adam(), xl.SoftmaxWithLoss()), "loss is .*Adam.*; expected a loss"),
        ((network().params, xl.SoftmaxWithLoss(), xl.Adam()), "net is .*; expected a network"),
        ((network(), xl.functional.cross_entropy_error, xl.Adam()), "loss is the function cross_e"),
        ((network(), None, xl.Adam()), "loss is None"),
        ((network(), xl.SoftmaxWithLoss(), 0.1), "optimizer is 0.1"),
    ],
)
def test_net_loss_and_optimizer(arguments, words):
    with pytest.raises(TypeError, match=f"Trainer: .*{words}"):
        trainer(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"metrics": ["accuracy"]}, TypeError, r"metrics is \['accuracy'\]; .*\"accuracy\": xl"),
        ({"metrics": "accuracy"}, TypeError, "metrics is 'accuracy'"),
        ({"metrics": xl.accuracy}, TypeError, "metrics is the function accuracy"),
        ({"metrics": {"accuracy": "accuracy"}}, TypeError, "metric accuracy is 'accuracy'"),
        ({"metrics": {3: xl.accuracy}}, TypeError, "the name 3; expected a string"),
        ({"metrics": {"f": xl.SoftmaxWithLoss}}, TypeError, "metric f is the class"),
        *(
            ({"metrics": {name: xl.accuracy}}, ValueError, f"a metric is called '{name}'")
            for name in (
                "loss", "epoch", "step", "lr", "seconds", "samples_per_s", "val_loss", "val_x", "",
            )
        ),
        ({"callbacks": print}, TypeError, r"callbacks is .*print; expected functions in a list: "),
        ({"callbacks": "print"}, TypeError, "callbacks is 'print'"),
        ({"callbacks": ["print"]}, TypeError, r"callbacks\[0\] is 'print'; expected a function"),
        ({"callbacks": [print, None]}, TypeError, r"callbacks\[1\] is None"),
        ({"callbacks": [xl.Progress]}, TypeError, r"the class Progress; .*: Progress\(\)"),
        ({"callbacks": xl.Progress()}, TypeError, "callbacks is .*Progress"),
        ({"callbacks": None}, TypeError, "callbacks is None"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"batch_size": 8.0}, ValueError, "batch_size is 8.0"),
        ({"batch_size": "8"}, ValueError, "batch_size is '8'"),
        ({"batch_size": None}, ValueError, "batch_size is None"),
        ({"epochs": -1}, ValueError, "epochs is -1"),
        ({"epochs": True}, ValueError, "epochs is True"),
        ({"seed": None}, ValueError, "seed is None"),
        ({"seed": np.random.default_rng(0)}, ValueError, "seed is "),
        ({"patience": 0}, ValueError, "patience is 0"),
        ({"patience": 1.5}, ValueError, "patience is 1.5"),
        ({"patience": True}, ValueError, "patience is True"),
        ({"eval_batch_size": 0}, ValueError, "eval_batch_size is 0"),
        ({"accumulate": 0}, ValueError, "accumulate is 0"),
        ({"monitor": 3}, TypeError, "monitor is 3; expected the name of a column"),
        ({"mode": "maximum"}, ValueError, "mode is 'maximum'"),
        ({"mode": max}, ValueError, "mode is "),
        ({"on_nonfinite": "skip"}, ValueError, "on_nonfinite is 'skip'"),
        ({"train_metrics": "yes"}, TypeError, "train_metrics is 'yes'; expected True or False"),
        ({"restore_best": 1}, TypeError, "restore_best is 1"),
        ({"checkpoint": "run"}, TypeError, r"checkpoint is 'run'; expected Checkpoint\(folder"),
        ({"checkpoint": xl.Checkpoint}, TypeError, r"expected Checkpoint\(folder"),
        ({"clip_norm": -1}, ValueError, "is -1"),
        ({"clip_norm": float("nan")}, ValueError, "is nan"),
        ({"clip_norm": "1"}, TypeError, "is '1'"),
        ({"progress": "dots"}, ValueError, "style is 'dots'"),
        ({"progress": xl.Progress()}, TypeError, "progress is .*goes into callbacks="),
        ({"progress": 3}, TypeError, "progress is 3"),
        ({"learning_rate": 0.1}, TypeError, r"no option learning_rate. The optimizer has it"),
        ({"lr": 0.1}, TypeError, r"no option lr. The optimizer has it"),
        ({"max_epochs": 3}, TypeError, "no option max_epochs. It is called epochs"),
        ({"validation_data": (X, T)}, TypeError, "no option validation_data. It goes to fit"),
        ({"shuffle": True}, TypeError, "no option shuffle. seed determines"),
        ({"device": "cuda"}, TypeError, "no option device. The arrays decide"),
        ({"nonsense": 3}, TypeError, "there is no option nonsense."),
    ],
)  # fmt: skip
def test_options(options, error, words):
    with pytest.raises(error, match=words):
        trainer(**options)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("epochs", 2.5, ValueError), ("epochs", None, ValueError), ("batch_size", 0, ValueError),
        ("patience", 0, ValueError), ("mode", "maximum", ValueError), ("monitor", 3, TypeError),
        ("on_nonfinite", None, ValueError), ("restore_best", "no", TypeError),
        ("checkpoint", "run", TypeError), ("eval_batch_size", None, ValueError),
    ],
)  # fmt: skip
def test_options_are_checked_where_a_callback_sets_them(name, value, error):
    one = trainer(callbacks=[lambda event: setattr(event.trainer, name, value)])
    before = getattr(one, name)
    with pytest.raises(error, match=f"Trainer: {name} is {re.escape(repr(value))}; expected"):
        one.fit(X, T)
    assert getattr(one, name) == before
    one.patience, one.monitor, one.checkpoint = None, None, None  # these may be missing


def test_options_that_are_right():
    for options in (
        {"callbacks": ()}, {"callbacks": (print,)}, {"callbacks": iter([print])},
        {"progress": None},
        {"metrics": {}}, {"metrics": {"f1_loss": xl.accuracy, "Epoch": xl.accuracy}},
        {"batch_size": np.int64(3)}, {"epochs": 0}, {"compile": False}, {"clip_norm": 1},
        {"eval_batch_size": None}, {"restore_best": False}, {"train_metrics": np.True_},
    ):  # fmt: skip
        trainer(**options)


# The data


def labels(*changed):
    t = T.copy()
    t[list(changed)] = 3
    return t


WRONG = {
    "one": ((X,), TypeError, "validation is a tuple of 1 arrays; expected a tuple of two arrays"),
    "three": ((X, T, T), TypeError, "validation is a tuple of 3 arrays"),
    "alone": (X, TypeError, r"validation is an array of shape \(22, 4\)"),
    "a list": ([X, T], TypeError, "validation is a list of 2 arrays"),
    "lists": ((X.tolist(), T.tolist()), TypeError, "validation x is a list; expected an array"),
    "t a list": ((X, T.tolist()), TypeError, "validation t is a list"),
    "no t": ((X, None), TypeError, "validation t is a NoneType"),
    "a dict": ({"x": X, "t": T}, TypeError, "validation is a dict"),
    "a part": (1.2, ValueError, r"validation is 1.2; expected a number above 0.0 and below 1.0"),
    "True": (True, TypeError, "validation is a bool"),
    "a name": ("test", TypeError, "validation is a str"),
    "a function": (lambda: [(X, T)], TypeError, "validation is a function"),
    "a set": ({1, 2}, TypeError, "validation is a set with 1 in it"),
    "a range": (range(3), TypeError, "validation is a range with 0 in it"),
    "numbers": ([1, 2], TypeError, "validation is a list with 1 in it"),
    "a batch of one": ([(X,)], TypeError, "validation is a list with "),
    "nothing": ([], ValueError, "validation has no batches"),
    "no samples": (
        (X[:0], T[:0]),
        ValueError,
        r"validation x has shape \(0, 4\); there are no sam",
    ),
    "lengths": ((X, T[:5]), ValueError, r"validation t has shape \(5,\); expected as many"),
    "a number": ((np.float32(3), np.int64(3)), ValueError, r"validation x has shape \(\)"),
    "width": ((X[:, :3], T), ValueError, r"validation x has shape \(22, 3\).* does not fit: .*3"),
    "axes": (
        (X[..., None], T),
        ValueError,
        r"validation x has shape \(22, 4, 1\); expected as man",
    ),
    "dtype": ((X.astype("f8"), T), TypeError, "validation x is float64; expected float32 as x"),
    "columns": ((X, T[:, None]), ValueError, r"does not fit: .*\(22, 1\); expected \(22,\)"),
    "one-hot": ((X, np.eye(4, dtype="f4")[T]), ValueError, r"validation t has shape \(22, 4\)"),
    "floats": ((X, T + 0.5), TypeError, "which does not fit"),
    "labels": ((X, labels(21)), ValueError, "validation t has the label 3; expected 0 to 2"),
    "negative": ((X, labels(5) - 4), ValueError, "validation t has the label -4"),
    "names": ((X, np.asarray(list("abc"))[T]), TypeError, "validation t is <U1, names; .*unique"),
    "objects": ((X, T.astype(object)), TypeError, "validation t is object"),
}


@pytest.mark.parametrize("name", WRONG)
def test_validation_of_every_wrong_form(name, tmp_path):
    validation, error, words = WRONG[name]
    counting = Counting()
    net = xl.Sequential(counting, xl.Affine.init(4, 3, rng=0))
    training = trainer(
        net, xl.SoftmaxWithLoss(), xl.Adam(), checkpoint=xl.Checkpoint(tmp_path / "run")
    )
    with pytest.raises(error, match=words):
        training.fit(X, T, validation=validation)
    assert counting.passes == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "validation",
    [
        (X[:3], T[:3]), (X[:3], np.eye(3, dtype="f4")[T[:3]]), (X[:3], T[:3].astype("uint8")),
        [(X, T), (X[:3], T[:3])], ((X, T), (X[:3], T[:3])), [[X, T]], xl.Batches(X, T, 5), None,
    ],
)  # fmt: skip
def test_validation_of_every_right_form(validation):
    assert len(trainer().fit(X, T, validation=validation)) == 2


def test_lengths_of_sequences_may_differ():
    net = xl.Sequential(xl.Embedding.init(9, 5, rng=0), xl.Lstm.init(5, 4, rng=0))
    net = xl.Sequential(net, xl.Affine.init(4, 3, rng=0, flatten=False))
    x = np.arange(8 * 6).reshape(8, 6) % 9
    training = trainer(net, xl.SoftmaxWithLoss(), xl.Adam())
    history = training.fit(x, x % 3, validation=(x[:, :4], x[:, :4] % 3))
    assert len(history) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((X, labels(21)), ValueError, "t has the label 3; expected 0 to 2, as the network has 3"),
        ((X, labels(0, 1) - 1), ValueError, "t has the label -1"),
        ((X, T.tolist()), TypeError, "t is a list"),
        ((X, list("abc") * 7), TypeError, "t is a list"),
        ((X, np.asarray(list("abc"))[T]), TypeError, "t is <U1, names; expected numbers. .*unique"),
        ((X, T.astype("O")), TypeError, "t is object"),
        ((X.astype("U"), T), TypeError, "x is <U"),
        ((np.float32(3), np.int64(3)), ValueError, r"x has shape \(\)"),
        (([X, T],), TypeError, "batches is a list of 2 arrays"),
        (({"x": X},), TypeError, "batches is a dict"),
        (("digits",), TypeError, "batches is a str"),
        (([(X, T, T)],), TypeError, "batches is a list with"),
        (([(X, T), None],), TypeError, "batches is a list with"),
        ((X, T, (X, T), True), TypeError, "positional"),
    ],
)
def test_data_to_train_on(arguments, error, words, tmp_path):
    with pytest.raises(error, match=words):
        trainer(checkpoint=xl.Checkpoint(tmp_path / "run")).fit(*arguments)
    assert not list(tmp_path.iterdir())


def test_ignored_labels_are_none():
    t = T.copy()
    t[3] = -1
    net = network()
    trainer(net, xl.SoftmaxWithLoss(ignore_index=-1), xl.Adam()).fit(X, t, validation=(X, t))
    with pytest.raises(ValueError, match="t has the label -1"):
        trainer(net, xl.SoftmaxWithLoss(ignore_index=-2), xl.Adam()).fit(X, t)
    # Integers of the shape of the scores are no labels.
    trainer(net, xl.SoftmaxWithLoss(), xl.Adam()).fit(X, np.eye(3, dtype=int)[T])


def test_looking_first_changes_no_bit():
    net, other = network(), network()
    step = xl.TrainStep(other, xl.SoftmaxWithLoss(), xl.Adam())
    xl.Trainer(net, xl.SoftmaxWithLoss(), xl.Adam(), batch_size=8, epochs=1, progress=False).fit(
        X, T
    )
    for batch in xl.minibatches(X, T, 8, np.random.default_rng([0, 0])):
        step(*batch)
    for name in net.params:
        np.testing.assert_array_equal(net.params[name], other.params[name])


def test_monitor_is_a_column():
    with pytest.raises(
        ValueError, match=r"monitor is 'val_loss'; .*val_loss needs fit\(\.\.\., val"
    ):
        trainer(monitor="val_loss").fit(X, T)
    with pytest.raises(ValueError, match="monitor is 'accuracy'; expected one of loss"):
        trainer(monitor="accuracy").fit(X, T)
    with pytest.raises(TypeError, match="resume is 'yes'; expected True or False"):
        trainer().fit(X, T, resume="yes")


# The folder of checkpoints


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match=r"[Nn]ot a directory"):
            trainer(checkpoint=xl.Checkpoint(folder)).fit(X, T)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_leave(tmp_path, monkeypatch):
    monkeypatch.setattr("xplayers.saving.checkpoint.os.access", lambda *_: False)
    with pytest.raises(PermissionError):
        trainer(checkpoint=xl.Checkpoint(tmp_path / "run")).fit(X, T)
    assert not list(tmp_path.iterdir())


def test_names_too_long_for_the_file(tmp_path):
    names = {f"{'x' * 100_000}{i}": xl.Relu() for i in range(30)}
    net = xl.Sequential(xl.Affine.init(4, 3, rng=0), **names)
    with pytest.raises(ValueError, match="names and metadata would take"):
        trainer(
            net, xl.SoftmaxWithLoss(), xl.Adam(), checkpoint=xl.Checkpoint(tmp_path / "run")
        ).fit(X, T)
    assert not list(tmp_path.iterdir())


@pytest.mark.only("numpy", "torch")
def test_unsigned_labels_beside_one_that_is_ignored(xpv):
    """The last of them is no -1, which the loss ignores."""
    x = xpv.asarray(np.ones((4, 3)), "float32")
    t = xpv.asarray(np.asarray([0, 1, 255, 1], "uint8"))
    loss = xl.SoftmaxWithLoss(ignore_index=-1)
    trainer = xl.Trainer(xl.mlp([3, 2], rng=0), loss, xl.SGD(), batch_size=2, epochs=1)
    with pytest.raises(ValueError, match="Trainer.fit: t has the label 255; expected 0 to 1"):
        trainer.fit(x, t)
