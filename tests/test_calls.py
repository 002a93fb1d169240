"""Calls with arguments that are missing, too many or unknown say what is expected."""

import copy
import inspect
import pickle

import numpy as np
import pytest

import xplayers as xl
from xplayers._calls import explained

X = np.ones((6, 4), np.float32)
T = np.asarray([0, 1, 2, 0, 1, 2])
OPTIMIZERS = (xl.SGD, xl.Momentum, xl.Nesterov, xl.AdaGrad, xl.RMSprop, xl.Adam, xl.AdamW)
LOSSES = (
    xl.SoftmaxWithLoss, xl.SigmoidWithLoss, xl.MeanSquaredError, xl.MeanAbsoluteError, xl.Huber,
)  # fmt: skip


def net():
    return xl.mlp([4, 3], rng=0)


def step():
    return xl.TrainStep(net(), xl.SoftmaxWithLoss(), xl.SGD())


def trainer():
    return xl.Trainer(net(), xl.SoftmaxWithLoss(), xl.SGD(), progress=False)


def said(call, kind=TypeError):
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizers(kind):
    name = kind.__name__
    for got in (net(), net().params, None):
        assert said(lambda got=got: kind().update(got)) == (
            f"{name}.update: grads is missing; expected {name}.update(params, grads, *, lr=None). "
            "Write update(net.params, net.grads)."
        )
    assert said(lambda: kind().update()).startswith(f"{name}.update: params and grads are missing;")
    assert said(lambda: kind().update({}, {}, 0.1)).startswith(f"{name}.update: too many position")
    assert "It is grads." in said(lambda: kind().update({}, gradients={}))
    assert said(lambda: kind().init()) == (
        f"{name}.init: params is missing; expected {name}.init(params). Write init(net.params)."
    )
    assert said(lambda: kind().step({}, {})).startswith(f"{name}.step: state is missing; expected")


def test_an_optimizer_says_which_mapping_is_none():
    n, adam = net(), xl.Adam()
    state = adam.init(n.params)
    for got in (n, None, [X], X, "W"):
        assert "Adam.init: params is " in said(lambda got=got: adam.init(got))
        words = said(lambda got=got: adam.step(got, n.params, state))
        assert words.startswith("Adam.step: params is ")
        assert words.endswith("expected arrays by name. Pass net.params.")
        words = said(lambda got=got: adam.step(n.params, got, state))
        assert words.startswith("Adam.step: grads is ")
    words = said(lambda: adam.step({"a": X}, {0: X}, state), ValueError)
    assert words == (
        "Adam: no gradient for a. Call backward before update. And no parameter for the gradient 0."
    )
    assert said(lambda: adam.step({}, {"b": X}, state), ValueError) == (
        "Adam: no parameter for the gradient b."
    )


@pytest.mark.parametrize("kind", LOSSES)
def test_losses(kind):
    name = kind.__name__
    words = said(lambda: kind().forward(X))
    assert words.startswith(f"{name}.forward: target is missing; expected {name}.forward(scores, ")
    assert words.endswith("Write forward(net.forward(x), t).")
    assert said(lambda: kind()(X)).startswith(f"{name}: target is missing; expected {name}(scores,")
    assert said(lambda: kind().forward()).startswith(f"{name}.forward: scores and target are miss")
    assert "unexpected keyword argument 'labels'" in said(lambda: kind().forward(X, labels=T))
    assert said(lambda: kind().backward(X, T)).startswith(f"{name}.backward: too many positional")


def test_layers():
    n, relu = net(), xl.Relu()
    assert said(lambda: n.forward()) == (
        "Sequential: x is missing; expected forward(x) or predict(x)."
    )
    assert said(lambda: n.predict()) == said(lambda: n()) == said(lambda: n.forward())
    assert said(lambda: relu.backward()) == (
        "Relu.backward: dy is missing; expected the gradient of the output. "
        "Write backward(loss.backward())."
    )
    for method in ("forward", "predict"):
        words = said(lambda method=method: getattr(xl.Relu, method)(X))
        assert words == "forward(x) is called on a class; expected a layer, as Relu().forward(x)."
    assert "Relu().backward(dy)" in said(lambda: xl.Relu.backward(X))
    assert said(lambda: xl.Affine()) == (
        "Affine: W is missing; expected Affine(W, b=None, flatten=True). "
        "With initial values it is Affine.init(n_in, n_out)."
    )
    words = said(lambda: xl.Affine.init(4))
    assert words.startswith("Affine.init: n_out is missing; expected Affine.init(n_in, n_out, *, ")
    assert "initializer=he_normal," in words  # and not where it is in memory
    assert said(lambda: xl.Standardize.fit()) == (
        "Standardize.fit: x is missing; expected Standardize.fit(x, axis=0)."
    )


def test_backward_with_what_is_not_by_name():
    n = net()
    y = n.forward(X)
    assert said(lambda: n.backward(y, False)) == (
        "Sequential.backward: False is positional; expected backward(dy, *, input_grad=True). "
        "Write backward(dy, input_grad=False)."
    )
    assert said(lambda: xl.Relu().backward(X, 1, None)) == (
        "Relu.backward: 1, None is positional; expected backward(dy, *, input_grad=True)."
    )
    n.backward(y, input_grad=False)  # the pass is still there
    assert [*inspect.signature(n.backward).parameters] == ["dy", "input_grad"]


@pytest.mark.parametrize("name", xl.initializers.__all__)
def test_initializers(name):
    make = getattr(xl.initializers, name)
    assert said(lambda: make()).startswith(f"{name}: shape is missing; expected {name}(shape, rng")
    assert said(lambda: make((2, 3), 0, 1.0)).startswith(f"{name}: too many positional arguments;")
    words = said(lambda: make((2, 3), seed=1))
    assert words.startswith(f"{name}: got an unexpected keyword argument 'seed'; expected {name}(")
    assert pickle.loads(pickle.dumps(make)) is make


@pytest.mark.parametrize("name", xl.functional.__all__)
@pytest.mark.parametrize("x", [X, X.astype(np.float64), np.float32(2.0), np.ones((600, 600))])
def test_functions(name, x):
    function = getattr(xl.functional, name)
    given = (x, x) if name == "cross_entropy_error" else (x,)
    first = "y" if name == "cross_entropy_error" else "x"
    expected = f"expected {name}({first}, " if len(given) > 1 else f"expected {name}(x"
    words = said(lambda: function())
    assert words.startswith((f"{name}: x is missing; {expected}", f"{name}: y and t are missing; "))
    words = said(lambda: function(*given, 3))
    assert words.startswith(f"{name}: too many positional arguments; {expected}")
    words = said(lambda: function(*given, inplace=True))
    assert words.startswith(f"{name}: got an unexpected keyword argument 'inplace'; {expected}")


def test_functions_that_take_arrays_by_position():
    assert said(lambda: xl.functional.elu(X, 1.0)) == (
        "elu: too many positional arguments; expected elu(x, *, alpha=1.0)."
    )
    assert said(lambda: xl.functional.relu(x=X)).startswith("relu: 'x' parameter is positional on")
    assert said(lambda: xl.functional.softmax(X, dim=1)).endswith("It is axis.")


def test_errors_in_an_elementwise_function_stay():
    @xl.elementwise
    def wrong(xp, x, *, alpha=1.0):
        return alpha * x + object()

    with pytest.raises(TypeError, match="unsupported operand") as caught:
        wrong(X, alpha=2.0)
    assert any(entry.name == "wrong" for entry in caught.traceback)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: xl.TrainStep(net()), "TrainStep: loss and optimizer are missing; expected TrainS"),
        (lambda: xl.TrainStep(net(), xl.Huber(), xl.SGD(), batch_size=3), "Trainer(net, loss, op"),
        (lambda: step()(X), "TrainStep: t is missing; expected step(x, t, sample_weight=None, *, "),
        (lambda: step()(X, T, epochs=2), "TrainStep: got an unexpected keyword argument 'epochs'"),
        (lambda: step().many(X, T), "TrainStep.many: index is missing; expected TrainStep.many(x"),
        (lambda: xl.Trainer(net()), "Trainer: loss and optimizer are missing; expected Trainer(n"),
        (lambda: trainer().fit(), "Trainer.fit: x is missing; expected Trainer.fit(x, t=None, va"),
        (lambda: trainer().fit(X, T, epochs=3), "Trainer(net, loss, optimizer, batch_size=32, epo"),
        (lambda: trainer().fit(X, T, validation_data=1), "It is validation."),
        (lambda: trainer().evaluate(), "Trainer.evaluate: x is missing; expected Trainer.evaluat"),
        (lambda: xl.Batches(X, T), "Batches: batch_size is missing; expected Batches(x, t, batch"),
        (lambda: xl.Batches(X, T, 2, shuffle=True), "rng=0 shuffles, with 0 as the seed."),
        (lambda: xl.minibatches(X, 4), "minibatches: batch_size is missing; expected minibatches("),
        (lambda: xl.accuracy(X), "accuracy: t is missing; expected accuracy(y, t, sample_weight=N"),
        (lambda: xl.confusion_matrix(X), "Write confusion_matrix(net.predict(x), t)."),
        (lambda: xl.evaluate(net()), "evaluate: loss and x are missing; expected evaluate(net, "),
        (lambda: xl.save(net()), "save: net is missing; expected save(path, net, metadata=None)."),
        (lambda: xl.clip_by_norm({}), "clip_by_norm: limit is missing; expected clip_by_norm(gra"),
        (lambda: xl.check_gradients(xl.Huber(), X), "check_gradients: the target is missing; exp"),
        (lambda: xl.Checkpoint(), "Checkpoint: folder is missing; expected Checkpoint(folder, ev"),
        (lambda: xl.Checkpoint("a").restore(), "Checkpoint.restore: net is missing; expected Che"),
        (lambda: xl.History.from_jsonl(), "History.from_jsonl: path is missing; expected History"),
        (lambda: xl.AccumulatedStep(net(), xl.Huber(), xl.SGD()), "AccumulatedStep: parts is miss"),
        (lambda: xl.MixedPrecision(scale=3), "MixedPrecision: got an unexpected keyword argument"),
        (lambda: xl.schedules.Step(0.1), "Step: every is missing; expected Step(lr, every, "),
        (lambda: setattr(step(), "state", None), "TrainStep: state is None; expected a dict, as "),
    ],
)  # fmt: skip
def test_what_else_is_called(call, words):
    assert words in said(call)


def test_what_is_to_be_called_is_said():
    n, loss = net(), xl.SoftmaxWithLoss()
    end = "another Array API library: pass what it returns when it is called."
    loss.forward(n.forward(X), T)
    words = said(lambda: n.backward(loss.backward))
    assert words.startswith("Sequential.backward: dy is a method; expected an array of numpy, ")
    assert words.endswith(end)
    words = said(lambda: loss.forward(n, T))
    assert words.startswith("SoftmaxWithLoss: scores is a Sequential; expected an array of numpy, ")
    assert words.endswith(end)
    assert said(lambda: n.forward([1.0])).endswith("for example np.asarray(x, dtype='float32').")


def test_names_of_others_on_a_step_and_a_trainer():
    assert said(lambda: step().fit, AttributeError).endswith("optimizer).fit(x, t) trains.")
    assert said(lambda: step().update, AttributeError).endswith("step(x, t) is all of it.")
    assert said(lambda: trainer().predict, AttributeError).endswith("net.predict(x).")
    assert said(lambda: trainer().nothing, AttributeError) == "Trainer has no attribute 'nothing'."
    for thing in (step(), trainer()):
        copy.copy(thing), copy.deepcopy(thing), pickle.loads(pickle.dumps(thing))
    assert "net.predict" not in said(lambda: net().transform, AttributeError)


def test_errors_of_what_is_called_stay():
    @explained("Never said.")
    def doubled(x, times=2):
        return x * [times]

    message = r"^can't multiply sequence by non-int of type 'list'$"
    with pytest.raises(TypeError, match=message) as error:
        doubled([3])
    assert error.traceback[-1].name == "doubled"
    assert said(lambda: doubled()) == "doubled: x is missing; expected doubled(x, times=2). " + (
        "Never said."
    )


def test_signatures_stay():
    assert [*inspect.signature(xl.Relu().forward).parameters] == ["x", "inputs", "train", "named"]
    assert str(inspect.signature(xl.Relu().backward).parameters["dy"]).startswith("dy: ")
    assert inspect.signature(xl.Relu().backward).parameters["dy"].default is inspect.Parameter.empty
    assert [*inspect.signature(xl.SGD().update).parameters] == ["params", "grads", "lr"]
    assert [*inspect.signature(xl.schedules.Constant).parameters] == ["lr"]
