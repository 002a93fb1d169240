"""Where an error in a network was raised: what is noted on it, and what a notebook shows."""

from __future__ import annotations

import contextlib
import copy
import pickle
import sys
import types

import numpy as np
import pytest

import xplayers as xl
from xplayers.layers import places

X = np.ones((2, 4), "float32")


class Own(xl.Layer):
    """A layer whose functions are those that it is given."""

    s, ds = xl.Parameter(), xl.Gradient()

    def __init__(self, apply=lambda arrays, x: (x, ()), vjp=lambda cache, dy: (dy, {})):
        self.s = np.ones(4, "float32")
        self.functions = apply, vjp

    def apply(self, arrays, x):
        return self.functions[0](arrays, x)

    def vjp(self, cache, dy):
        return self.functions[1](cache, dy)


def broken(*_):
    raise ZeroDivisionError


WRONG = Own(broken, broken)
BACKWARD = Own(vjp=broken)
NETS = {
    "Sequential": lambda part: xl.Sequential(xl.Relu(), a=xl.Sequential(b=part)),
    "Residual": lambda part: xl.Residual(xl.Relu(), a=xl.Residual(b=part)),
    "Recompute": lambda part: xl.Recompute(xl.Relu(), a=xl.Recompute(b=part)),
    "Parallel": lambda part: xl.Parallel(xl.Relu(), a=xl.Parallel(xl.Tanh(), b=part)),
}


def run(net, verb):
    """Do what `verb` says, after what has to be done before."""
    if verb == "step":
        xl.TrainStep(net, xl.MeanSquaredError(), xl.SGD())(X, X)
    elif verb == "predict":
        net.predict(X)
    else:
        y = net.forward(X)
        net.backward(y, input_grad=verb == "backward")


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("verb", ["forward", "predict", "backward", "parameters", "step"])
def test_an_error_of_any_kind_names_the_parts_from_the_inside_to_the_outside(kind, verb):
    net = NETS[kind](BACKWARD if verb in ("backward", "parameters", "step") else WRONG)
    with pytest.raises(ZeroDivisionError) as caught:
        run(net, verb)
    assert caught.value.__notes__ == [f"In part 'b' of {kind}.", f"In part 'a' of {kind}."]


@pytest.mark.parametrize("part", ["gate", "up", "down", "activation"])
def test_parts_of_a_gated_network(part):
    parts = {name: Own() for name in ("gate", "up", "down", "activation")}
    for verb, layer in (("forward", WRONG), ("predict", WRONG), ("backward", BACKWARD)):
        net = xl.GatedMlp(**{**parts, part: layer})
        with pytest.raises(ZeroDivisionError) as caught:
            run(net, verb)
        assert caught.value.__notes__ == [f"In part {part!r} of GatedMlp."]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("returned", [X, None, X.tolist()[:1]], ids=type)
def test_what_a_layer_of_ones_own_returns_has_to_be_a_pair(returned, alone):
    """Of a batch of two samples an array could be taken for a pair."""
    of_apply, of_vjp = Own(apply=lambda *_: returned), Own(vjp=lambda *_: returned)
    if not alone:
        of_apply, of_vjp = xl.Sequential(of_apply), xl.Sequential(of_vjp)
    for verb in (of_apply.forward, of_apply.predict):
        with pytest.raises(TypeError, match=r"^Own.apply returned .*the output and a tuple of"):
            verb(X)
    y = of_vjp.forward(X)
    with pytest.raises(TypeError, match=r"^Own.vjp returned .*those of the parameters, as in"):
        of_vjp.backward(y)
    assert Own(apply=lambda arrays, x: [x, ()]).forward(X) is X


@pytest.mark.parametrize("alone", [True, False])
def test_gradients_are_by_the_names_of_parameters(alone):
    layer = Own(vjp=lambda cache, dy: (dy, dy))
    net = layer if alone else xl.Sequential(layer)
    y = net.forward(X)
    with pytest.raises(TypeError, match=r"Own.vjp returned an array .*a dict by their names"):
        net.backward(y)
    net = xl.Sequential(Own(vjp=lambda cache, dy: (dy, {"S": dy})))
    y = net.forward(X)
    with pytest.raises(KeyError, match="S") as caught:
        net.backward(y)
    returned, place = caught.value.__notes__
    assert returned.startswith("Own.vjp returned a gradient of 'S'; its parameters: s. Declare it")
    assert place == "In part '0' of Sequential."


def test_a_gradient_of_the_wrong_shape_is_traced_to_who_has_returned_it():
    wrong = Own(vjp=lambda cache, dy: (dy.sum(0), {}))
    for verb in ("backward", "parameters"):
        net = xl.Sequential(xl.Affine.init(4, 4, rng=0), wrong=wrong)
        with pytest.raises(ValueError, match="matmul|axis|aligned") as caught:
            run(net, verb)
        assert caught.value.__notes__ == [
            "It got a gradient of shape (4,) from part 'wrong', Own.", "In part '0' of Sequential.",
        ]  # fmt: skip


def test_apply_without_arrays():
    class Function(xl.Layer):
        def apply(self, x):
            return x, ()

    for net in (Function(), xl.Sequential(Function())):
        with pytest.raises(TypeError, match=r"defines apply\(self, x\); expected apply\(self, arr"):
            net.forward(X)


class Misdefined(xl.Layer):
    def apply(self, arrays, x):
        return x, ()

    def vjp(self, cache, dy):
        return dy, {}


def test_functions_of_ones_own_that_do_not_take_what_they_are_given():
    class Backward(Misdefined):
        def vjp(self, dy):
            return dy, {}

    class Parameters(Misdefined):
        def param_grads(self, dy):
            return {}

    class Inference(Misdefined):
        def infer(self, x):
            return x

    for kind, verb, note in (
        (Backward, "backward", "Backward defines vjp(self, dy); expected vjp(self, cache, dy)."),
        (
            Parameters,
            "parameters",
            "Parameters defines param_grads(self, dy); expected param_grads(self, cache, dy).",
        ),
        (
            Inference,
            "predict",
            "Inference defines infer(self, x); expected infer(self, arrays, x).",
        ),
    ):
        for net in (kind(), xl.Sequential(kind(), xl.Relu())):
            if verb == "parameters" and isinstance(net, xl.Sequential):
                continue  # of a layer without parameters it is not asked
            with pytest.raises(
                TypeError, match="takes 2 positional arguments but 3 were"
            ) as caught:
                net.predict(X) if verb == "predict" else run(net, verb)
            assert caught.value.__notes__[0] == note


def test_a_type_error_in_a_layer_says_nothing_of_its_functions():
    class Wrong(Misdefined):
        def vjp(self, cache, dy):
            return dy + object(), {}

    with pytest.raises(TypeError) as caught:
        run(Wrong(), "backward")
    assert not getattr(caught.value, "__notes__", None)


@pytest.mark.parametrize("verb", ["forward", "predict"])
def test_arrays_that_are_not_there(verb):
    class Without(xl.Layer):
        W = xl.Parameter()

        def apply(self, arrays, x):
            return x @ arrays["W"], ()

    for layer, name, note in (
        (Without(), "W", "Without: W has no value. Set it in __init__: self.W = a."),
        (
            Own(lambda arrays, x: (arrays["q"], ())),
            "q",
            "Own: there is no array 'q'; its arrays: s.",
        ),
    ):
        for net in (layer, xl.Sequential(xl.Sequential(layer))):
            with pytest.raises(KeyError, match=name) as caught:
                getattr(net, verb)(X)
            assert caught.value.__notes__[0] == note
            assert len(caught.value.__notes__) == (1 if net is layer else 3)


@pytest.fixture
def notebook(monkeypatch):
    """Let there be a kernel of a notebook; return what it has displayed."""
    displayed = []
    shell = types.SimpleNamespace(
        InteractiveTB=types.SimpleNamespace(structured_traceback=lambda *of: [repr(of[1])])
    )
    display = types.SimpleNamespace(display=displayed.append, HTML=str)
    ipython = types.SimpleNamespace(display=display, get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    return displayed


def test_a_notebook_draws_the_network_with_the_part_marked(notebook):
    net = NETS["Sequential"](WRONG)
    with pytest.raises(ZeroDivisionError) as caught:
        net.forward(X)
    assert notebook == []  # nothing, where somebody catches it
    for _ in range(2):  # kernels ask twice, and show the drawing once
        assert caught.value._render_traceback_() == ["ZeroDivisionError()"]
    (html,) = notebook
    before, _, after = html.partition("ZeroDivisionError here")
    assert "b: Own" in before
    assert "<text" not in after  # the part is the last one of the drawing
    assert html.count('stroke-width="2"') == 1


def test_an_error_goes_to_another_process_without_the_network(notebook):
    with pytest.raises(ZeroDivisionError) as caught:
        NETS["Sequential"](WRONG).forward(X)  # whose lambdas no pickle takes
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.__notes__ == caught.value.__notes__
    assert copy.copy(caught.value._render_traceback_).container is None
    with contextlib.suppress(ZeroDivisionError):
        try:
            raise again
        finally:  # as IPython calls it
            shown = again._render_traceback_()
    assert shown == ["ZeroDivisionError()"]
    assert notebook == []


def test_a_drawing_that_fails_does_not_hide_the_error(notebook, monkeypatch):
    monkeypatch.setattr(places, "drawing", broken)
    with pytest.raises(ZeroDivisionError) as caught:
        NETS["Sequential"](WRONG).forward(X)
    assert caught.value._render_traceback_() == ["ZeroDivisionError()"]
