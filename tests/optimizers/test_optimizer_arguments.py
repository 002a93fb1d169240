"""Wrong arguments, refused where they are given: owner, argument, what was expected, what came."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import values

import xplayers as xl
from xplayers.arrays.transfer import to_numpy

NAN, INF = float("nan"), float("inf")
NET = xl.mlp([4, 3], rng=0)


def refuses(call, *words):
    """Check that `call` raises an error that has all the `words`, and none of the insides."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    said = str(caught.value)
    for word in words:
        assert word in said, f"{word!r} is not in {said!r}"
    assert len(said) < 400, said


# Optimizers and schedules

NUMBERS = {  # class or function -> argument -> numbers that it is not
    xl.SGD: {"lr": [-1, NAN, INF], "weight_decay": [-1e-9, NAN, INF]},
    xl.Momentum: {"lr": [-1], "momentum": [-0.1, 1, 1.5, NAN], "weight_decay": [-1]},
    xl.Nesterov: {"lr": [-1], "momentum": [-0.1, 1, 1.5, NAN], "weight_decay": [-1]},
    xl.AdaGrad: {"lr": [-1], "eps": [-1, NAN, INF], "weight_decay": [-1]},
    xl.RMSprop: {"lr": [-1], "decay_rate": [-0.1, 1, NAN], "eps": [-1], "weight_decay": [-1]},
    xl.Adam: {"lr": [-1, NAN], "beta1": [-0.1, 1, NAN], "beta2": [1, 2], "eps": [-1],
              "weight_decay": [-1]},
    xl.AdamW: {"lr": [-1, NAN], "beta1": [-0.1, 1, NAN], "beta2": [1, 2], "eps": [-1],
               "weight_decay": [-1]},
}  # fmt: skip
NO_NUMBERS = ["0.1", None, True, [], [0.1], np.ones(2), 1j, int]
ROWS = [
    (make, name, value)
    for make, arguments in NUMBERS.items()
    for name, wrong in arguments.items()
    for value in [*wrong, *map(np.float64, wrong), *NO_NUMBERS]
]


@pytest.mark.parametrize(("make", "name", "value"), ROWS)
def test_numbers_out_of_range(make, name, value):
    refuses(lambda: make(**{name: value}), f"{make.__name__}: {name} is ", "; expected ")


def test_numbers_are_checked_when_they_are_set_later():
    optimizer = xl.Adam()
    for name, value in (("lr", -1), ("beta1", 1.0), ("eps", "1e-8"), ("weight_decay", NAN)):
        before = getattr(optimizer, name)
        refuses(lambda: setattr(optimizer, name, value), f"Adam: {name} is ")  # noqa: B023
        assert getattr(optimizer, name) == before
    optimizer.lr = np.float64(0.5)
    assert type(optimizer.lr) is float
    optimizer.lr = xl.schedules.Constant(0.1)
    assert repr(optimizer) == "Adam(lr=Constant(lr=0.1))"


@pytest.mark.parametrize(
    ("lr", "message"),
    [
        (-1, "SGD: lr is -1; expected a number of 0 or more. Or pass a schedule of "
         "xplayers.schedules."),
        (NET.params, "Parameters go to update: SGD().update(net.params, net.grads)."),
        (NET, "Parameters go to update: SGD().update(net.params, net.grads)."),
        (NET.params.values(), "expected a number of 0 or more"),
        (iter(NET.params.values()), "Parameters go to update"),
        ([NET], "Parameters go to update"),
        (xl.schedules.Cosine, "SGD: lr is the class Cosine; expected a number of 0 or more. Call "
         "the class: Cosine(lr, steps)."),
    ],
)  # fmt: skip
def test_learning_rates(lr, message):
    refuses(lambda: xl.SGD(lr), message)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.Constant(-1), lambda s: s.Constant("0.1"), lambda s: s.Constant(NAN),
        lambda s: s.Step(0.1, every=0), lambda s: s.Step(0.1, 10, factor=-1),
        lambda s: s.Step(0.1, None), lambda s: s.Exponential(-0.1, 10),
        lambda s: s.Exponential(0.1, 10, factor=0), lambda s: s.Cosine(0.1, steps=-5),
        lambda s: s.Cosine(0.1, steps="5"), lambda s: s.Cosine(0.1, 5, final=-1),
        lambda s: s.OneCycle(0.1, 10, rise=1), lambda s: s.OneCycle(0.1, 10, start_factor=0),
        lambda s: s.OneCycle(0.1, NAN), lambda s: s.WarmUp(0, s.Constant(0.1)),
        lambda s: s.WarmUp(5, 0.1), lambda s: s.WarmUp(5, s.Cosine), lambda s: s.WarmUp(5, print),
        lambda s: s.Constant(0.1)("a"), lambda s: s.Constant(0.1)(None),
    ],
)  # fmt: skip
def test_schedules(call):
    with pytest.raises((TypeError, ValueError), match=r"^[A-Z]\w+: \w+ is .*; expected "):
        call(xl.schedules)


class TestUpdate:
    def both(self, like):
        params = {"a": like(np.ones((2, 3)), "float32"), "z": like(np.ones(2), "float32")}
        return params, {name: like(values(p.shape), "float32") for name, p in params.items()}

    @pytest.mark.parametrize("optimizer", [xl.SGD, xl.Adam])
    @pytest.mark.parametrize("again", [False, True])
    def test_all_gradients_are_checked_before_a_parameter_is_written(self, xpv, optimizer, again):
        params, grads = self.both(xpv.asarray)
        before = {name: to_numpy(p).copy() for name, p in params.items()}
        one = optimizer()
        if again:
            one.state = one.init(params)
        name = optimizer.__name__
        wrong = [
            ([1.0, 2.0], f"{name}: the gradient of z is a list"),
            (None, f"{name}: the gradient of z is a NoneType"),
            (xpv.asarray(np.ones(3), "float32"), f"{name}: the gradient of z has shape (3,); exp"),
            (xpv.asarray(np.ones(2), "int32"), f"{name}: the gradient of z is "),
        ]
        if "float64" in xpv.floats:
            wrong.append((xpv.asarray(np.ones(2), "float64"), "float64, z is "))
        if xpv.xp is not np:
            wrong.append((np.ones(2, "float32"), "the gradient of z is a numpy array on the CPU"))
        for gradient, message in wrong:
            refuses(lambda: one.update(params, {**grads, "z": gradient}), message)  # noqa: B023
            refuses(lambda: one.step(params, {**grads, "z": gradient}, one.init(params)), message)  # noqa: B023
            assert (one.state is None) is not again
            for key, p in params.items():
                np.testing.assert_array_equal(to_numpy(p), before[key])

    def test_things_that_are_no_parameters(self):
        params, grads = self.both(np.asarray)
        optimizer = xl.SGD()
        refuses(lambda: optimizer.update(NET, grads), "SGD.update: params is ", "Pass net.params.")
        refuses(lambda: optimizer.update(params, NET), "SGD.update: grads is ", "Pass net.grads.")
        refuses(lambda: optimizer.update(params, grads, lr="0.1"), "SGD: lr is '0.1'; expected")
        refuses(lambda: optimizer.update(params, grads, lr=-0.1), "SGD: lr is -0.1; expected")
        refuses(lambda: optimizer.step(params, grads, None), "SGD.step: state is None; expected")
        refuses(lambda: optimizer.update({"W": [1.0]}, {"W": [1.0]}), "SGD: W is a list; expected")
        one = np.ones(2, int)
        refuses(lambda: optimizer.update({"W": one}, {"W": one}), "SGD: W is int64; expected float")
        refuses(lambda: optimizer.init({}), "SGD: there are no parameters")

    def test_clip_by_norm(self, xpv):
        _, grads = self.both(xpv.asarray)
        for limit in (0, -1, NAN, "1", None, True, [1.0]):
            refuses(lambda: xl.clip_by_norm(grads, limit), "clip_by_norm: limit is ", "; expected ")  # noqa: B023
        refuses(lambda: xl.clip_by_norm(NET, 1.0), "clip_by_norm: grads is ", "Pass net.grads.")
        refuses(lambda: xl.clip_by_norm({"W": [1.0]}, 1.0), "clip_by_norm: W is a list; expected")
        clipped = xl.clip_by_norm(grads, np.float64(1e-3))
        assert {g.dtype for g in clipped.values()} == {grads["a"].dtype}


@pytest.mark.parametrize("kind", [xl.SGD, xl.Adam])
def test_a_dict_of_the_arrays_of_layers_updates_the_layers(xpv, kind):
    """As in the book; also where arrays cannot be written and are replaced."""
    W, b, x = (xpv.asarray(np.ones(s), "float32") for s in ((3, 2), (2,), (4, 3)))
    params, layer, other = {"W": W, "b": b}, xl.Affine(W, b), xl.Affine(W)
    optimizer = kind(0.1)
    for _ in range(2):
        y = layer.forward(x)
        layer.backward(y)
        optimizer.update(params, {"W": layer.dW, "b": layer.db})
        assert layer.W is params["W"]
        assert layer.b is params["b"]
        assert other.W is params["W"]
    assert float(layer(x)[0, 0]) < 3.9
