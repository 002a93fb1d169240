"""Wrong arguments of convolutions and poolings, and inputs that do not fit."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import ones

import xplayers as xl


def convolution(shape=(16, 3, 3, 3), b=None, **options):
    return xl.Convolution(ones(*shape), b, **options)


def transposed(shape=(3, 16, 3, 3), b=None, **options):
    return xl.ConvolutionTranspose(ones(*shape), b, **options)


MISTAKES = [
    # what is given to the constructor
    (lambda: convolution((16, 3)), "Convolution: W has shape (16, 3); expected (n_out, n_in / gr"),
    (lambda: convolution((0, 3, 3)), "Convolution: W has shape (0, 3, 3); expected (n_out"),
    (lambda: convolution(b=ones(3)), "Convolution: b has shape (3,); expected (16,) for W."),
    (lambda: convolution(stride=0), "stride is 0; expected an int of 1 or more, or 2 of them."),
    (lambda: convolution(stride=(1, 2, 3)), "stride is (1, 2, 3); expected an int of 1 or more, o"),
    (lambda: convolution(stride=1.5), "stride is 1.5; expected an int of 1 or more, or 2 of them."),
    (lambda: convolution((1, 1, 3), dilation=0), "dilation is 0; expected an int of 1 or more."),
    (lambda: convolution(padding=-1), "padding is -1; expected an int of 0 or more, or 2 of them."),
    (lambda: convolution(padding="valid"), "padding is 'valid'; expected numbers or 'same'."),
    (lambda: convolution(padding="same", stride=2), "padding is 'same', which needs stride 1; str"),
    (lambda: convolution(groups=3), "groups is 3, W has 16 filters; the number of filters must be"),
    (lambda: convolution(groups=0), "groups is 0; expected an int of 1 or more."),
    (lambda: xl.Convolution.init(3, 4, 3, groups=2), "groups is 2, n_in is 3; the number of chan"),
    (lambda: xl.Convolution.init(3, 4, 0), "Convolution: size is 0; expected an int of 1 or more"),
    (lambda: transposed((16, 3)), "W has shape (16, 3); expected (n_in, n_out, height, width)"),
    (lambda: transposed(b=ones(3)), "ConvolutionTranspose: b has shape (3,); expected (16,) for"),
    (lambda: transposed(padding="same"), "ConvolutionTranspose: padding is 'same'; expected numb"),
    (lambda: transposed(output_padding=1), "output_padding is 1, stride is 1; output_padding must"),
    (lambda: transposed(output_padding=-1), "output_padding is -1; expected an int of 0 or more"),
    (lambda: xl.MaxPooling(0), "MaxPooling: size is 0; expected an int of 1 or more."),
    (lambda: xl.MaxPooling((2, 2), 0), "MaxPooling: stride is 0; expected an int of 1 or more, or"),
    (
        lambda: xl.MaxPooling((2, 2), (1, 1, 1)),
        "size is (2, 2); expected an int of 1 or more, or 3",
    ),
    (lambda: xl.AveragePooling(2, padding=2), "AveragePooling: padding is 2, size is 2; padding m"),
    # the input
    (
        lambda: convolution()(ones(2, 4, 8, 8)),
        "Convolution(3 -> 16, 3x3): x has shape (2, 4, 8, 8); expected (n, 3, h, w).",
    ),
    (
        lambda: convolution()(ones(3, 8, 8)),
        "x has shape (3, 8, 8); expected (n, 3, h, w). A single sample is x[None, ...].",
    ),
    (
        lambda: convolution((16, 3, 5))(ones(2, 3)),
        "Convolution(3 -> 16, 5): x has shape (2, 3); expected (n, 3, l). A single sample",
    ),
    (
        lambda: convolution((4, 2, 3, 3), groups=2)(ones(2, 2, 8, 8)),
        "Convolution(4 -> 4, 3x3): x has shape (2, 2, 8, 8); expected (n, 4, h, w).",
    ),
    (
        lambda: convolution(padding=(1, 0), dilation=2)(ones(2, 3, 3, 4)),
        "x has shape (2, 3, 3, 4), which is 5x4 with padding; the window covers 5x5. Use larger",
    ),
    (
        lambda: transposed()(ones(2, 4, 8, 8)),
        "ConvolutionTranspose(3 -> 16, 3x3): x has shape (2, 4, 8, 8); expected (n, 3, h, w).",
    ),
    (
        lambda: transposed(padding=2)(ones(2, 3, 2, 1)),
        "x has shape (2, 3, 2, 1), so the output would be 0x-1. Use larger inputs or less padd",
    ),
    (
        lambda: xl.MaxPooling((2, 2))(ones(3, 8, 8)),
        "MaxPooling(2x2): x has shape (3, 8, 8); expected (n, c, h, w). A single sample is x[No",
    ),
    (
        lambda: xl.AveragePooling(3)(ones(8, 8)),
        "AveragePooling(3): x has shape (8, 8); expected (n, c, ...). A single sample is x[None",
    ),
    (
        lambda: xl.MaxPooling(4, padding=1)(ones(2, 3, 8, 1)),
        "MaxPooling(4): x has shape (2, 3, 8, 1), which is 10x3 with padding; the window covers",
    ),
    (
        lambda: xl.GlobalAveragePooling()(ones(3, 8)),
        "GlobalAveragePooling: x has shape (3, 8); expected (n, c, ...). A single sample is x[No",
    ),
    (
        lambda: xl.GlobalAveragePooling()(ones(3, 8, 0)),
        "GlobalAveragePooling: x has shape (3, 8, 0); expected (n, c, ...).",
    ),
]


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=[m for _, m in MISTAKES])
def test_mistakes_are_named(mistake, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        mistake()


def test_a_bias_of_another_kind():
    with pytest.raises(TypeError, match=r"Convolution: b is float64, W is float32; they must ag"):
        convolution(b=np.ones(16))
    with pytest.raises(TypeError, match=r"Convolution\(3 -> 16, 3x3\): x is float64, W is float32"):
        convolution()(np.ones((1, 3, 4, 4)))
