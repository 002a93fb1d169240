"""Further inputs of a layer: by place, by name, and through containers to the layer they are of."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_close, assert_same_bits, values

import xplayers as xl
from xplayers.arrays.transfer import to_numpy


def attention(seed=0):
    return xl.MultiHeadAttention.init(4, 2, rng=seed)


def arrays(xpv):
    x, context = (xpv.asarray(values(shape, seed), "float32")
                  for seed, shape in enumerate([(2, 3, 4), (2, 5, 4)]))  # fmt: skip
    mask = xpv.asarray(np.array([[1, 1, 0], [1, 0, 0]]))
    return x, context, mask


def test_by_name_is_by_place(xpv):
    x, _, mask = arrays(xpv)
    layer = attention()
    assert_same_bits(layer.forward(x, key_mask=mask), layer.forward(x, None, mask))
    assert_same_bits(layer.predict(x, key_mask=mask), layer.predict(x, None, mask))
    assert_same_bits(layer(x, key_mask=mask), layer(x, None, mask))
    assert_same_bits(layer.forward(x, train=False, key_mask=mask), layer(x, None, mask))


def test_the_first_layer_of_a_network_gets_them(xpv):
    x, context, mask = arrays(xpv)
    net, alone = xl.Sequential(attention(), xl.Relu()), xl.Sequential(attention())
    for given in ({"key_mask": mask}, {"context": context}, {"0": {"key_mask": mask}}):
        plain = given.get("0", given)
        y = net.forward(x, **given)
        assert_same_bits(y, xl.functional.relu(attention().forward(x, **plain)))
        assert_same_bits(y, net.predict(x, **given))
    assert_same_bits(alone.forward(x, context), attention().forward(x, context))
    dy = xpv.asarray(values((2, 3, 4), 7), "float32")
    layer = attention()
    layer.forward(x, context)
    dx, dcontext = alone.backward(dy)
    for a, b in zip((dx, dcontext), layer.backward(dy), strict=True):
        assert_same_bits(a, b)


def test_a_layer_by_its_name_gets_its_own(xpv):
    """As a decoder does: self-attention with a mask, then attention to what an encoder has made."""
    x, context, mask = arrays(xpv)
    net = xl.Sequential(own=attention(0), norm=xl.LayerNormalization.init(4), cross=attention(1))
    dy = xpv.asarray(values((2, 3, 4), 7), "float32")
    y = net.forward(x, own={"key_mask": mask}, cross={"context": context})
    dx, others = net.backward(dy)
    own, norm, cross = attention(0), xl.LayerNormalization.init(4), attention(1)
    assert_same_bits(y, cross.forward(norm.forward(own.forward(x, None, mask)), context))
    d, dcontext = cross.backward(dy)
    assert_same_bits(dx, own.backward(norm.backward(d)))
    assert others.keys() == {"cross"}
    assert_same_bits(others["cross"][0], dcontext)
    assert_same_bits(net.grads["own.Wk"], own.dWk)
    net.forward(x, key_mask=mask, cross={"context": context})
    assert net.backward(dy, input_grad=False) is None
    assert_close(to_numpy(net.grads["own.Wk"]), to_numpy(own.dWk), 1e-6)


def test_a_block_hands_them_on(xpv):
    x, context, mask = arrays(xpv)
    block = xl.Residual(norm=xl.LayerNormalization.init(4), attention=attention())
    net = xl.Sequential(xl.Tanh(), block=block)
    y = net.forward(x, block={"attention": {"context": context}})
    h = xl.functional.tanh(x)
    inner = block.forward(h, attention={"context": context})
    assert_same_bits(y, inner)
    dy = xpv.asarray(values((2, 3, 4), 7), "float32")
    dh, others = block.backward(dy)
    dx, through = net.backward(dy)
    assert_same_bits(through["block"][0]["attention"][0], others["attention"][0])
    assert tuple(dx.shape) == tuple(dh.shape) == (2, 3, 4)
    first = xl.Residual(attention())
    first.forward(x, key_mask=mask)
    alone = attention()
    alone.forward(x, key_mask=mask)
    assert_same_bits(first.backward(dy), alone.backward(dy) + dy)
    first.forward(x, context)
    assert_same_bits(first.backward(dy)[1], (alone.forward(x, context), alone.backward(dy))[1][1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: xl.Relu().forward(x, True), r"Relu: too many .* expected forward\(x\)."),
        (lambda x: xl.Relu().predict(x, mask=x), r"Relu: got an unexpected .* 'mask'; expected fo"),
        (lambda x: attention().forward(x, mask=x), r"'mask'; expected forward\(x, context=None, k"),
        (lambda x: xl.Sequential(attention(), xl.Relu()).forward(x, mask=x), r"forward\(x, contex"),
        (lambda x: xl.Sequential(xl.Relu()).forward(x, True), r"Relu: too many .*forward\(x\)."),
        (lambda x: xl.Sequential(a=xl.Relu(), b=xl.Tanh())(x, b=x), "Sequential: b is an array of"),
        (lambda x: xl.Sequential(a=xl.Relu(), b=xl.Tanh())(x, b={"m": x}), "Tanh: got an unexpect"),
        (lambda x: xl.Sequential()(x, x), "Sequential: there is no layer for a further input."),
        (lambda x: xl.Recompute(xl.Relu()).forward(x, x), r"Recompute: too many .*forward\(x\)."),
    ],
)
def test_what_a_layer_does_not_take_is_said(call, words):
    with pytest.raises(TypeError, match=words):
        call(np.ones((2, 3, 4), "float32"))
