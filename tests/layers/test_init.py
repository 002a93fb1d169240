"""What `init` makes: places, dtypes, seeds and initializers of every layer."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
from helpers import assert_at_home, assert_same_bits

import xplayers as xl

INITS = {
    "Affine": lambda **o: xl.Affine.init(4, 3, **o),
    "Convolution": lambda **o: xl.Convolution.init(4, 6, 3, **o),
    "ConvolutionTranspose": lambda **o: xl.ConvolutionTranspose.init(4, 6, 3, **o),
    "BatchNormalization": lambda **o: xl.BatchNormalization.init(3, **o),
    "LayerNormalization": lambda **o: xl.LayerNormalization.init(2, 3, **o),
    "GroupNormalization": lambda **o: xl.GroupNormalization.init(4, 2, **o),
    "RmsNormalization": lambda **o: xl.RmsNormalization.init(2, 3, **o),
    "Standardize": lambda **o: xl.Standardize.init(2, 3, **o),
    "Rnn": lambda **o: xl.Rnn.init(4, 3, **o),
    "Lstm": lambda **o: xl.Lstm.init(4, 3, bidirectional=True, **o),
    "Gru": lambda **o: xl.Gru.init(4, 3, **o),
    "MultiHeadAttention": lambda **o: xl.MultiHeadAttention.init(4, 2, **o),
    "MultiHeadAttention-groups": lambda **o: xl.MultiHeadAttention.init(4, 2, n_kv_heads=1, **o),
    "GatedMlp": lambda **o: xl.GatedMlp.init(4, 6, **o),
    "Embedding": lambda **o: xl.Embedding.init(5, 3, **o),
    "PositionalEmbedding": lambda **o: xl.PositionalEmbedding.init(5, 3, **o),
    "mlp": lambda **o: xl.mlp([4, 3, 2], **o),
}


DRAWN = sorted(INITS.keys() - {n for n in INITS if "Normalization" in n} - {"Standardize"})


class TestInit:
    def test_the_table_has_every_init(self):
        layers = {n for n, v in vars(xl).items() if inspect.isclass(v) and issubclass(v, xl.Layer)}
        assert {n for n in layers if "init" in dir(getattr(xl, n))} <= INITS.keys()

    @pytest.mark.parametrize("name", INITS)
    def test_like_places_at_once(self, name, xpv):
        like = xpv.asarray([0.0], xpv.floats[-1])
        for a in INITS[name](like=like).params.values():
            assert_at_home(a, like)

    @pytest.mark.parametrize("name", INITS)
    def test_the_dtype_is_that_of_the_parameters(self, name):
        for options in ({}, {"dtype": "float16"}, {"dtype": "float64"}):
            for a in INITS[name](**options).params.values():
                assert a.dtype == options.get("dtype", "float32")

    @pytest.mark.parametrize("name", DRAWN)
    def test_a_seed_or_a_generator_draws_the_values(self, name):
        one, same, other = (
            INITS[name](rng=r) for r in (7, np.random.default_rng(7), np.random.default_rng(8))
        )
        for key, a in one.params.items():
            assert_same_bits(a, same.params[key], key)
            if a.any() and not np.isin(a, (0, 1)).all():
                assert not np.array_equal(a, other.params[key]), key

    @pytest.mark.parametrize("name", sorted(set(DRAWN) - {"mlp"}))
    def test_the_initializer_makes_the_weights(self, name):
        shapes = []

        def sevens(shape, rng):
            assert isinstance(rng, int | np.random.Generator)
            shapes.append(shape)
            return np.full(shape, 7.0)

        layer = INITS[name](rng=3, initializer=sevens)
        made = [a for k, a in layer.params.items() if re.search(r"\bW(?!h)", k)]
        assert all((a == 7.0).all() for a in made)
        assert sum(map(np.prod, shapes)) == sum(a.size for a in made)
        for key, a in layer.params.items():
            if key[0] == "b" and name != "Lstm":
                assert not a.any(), key
