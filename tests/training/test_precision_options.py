"""Mixed precision: its options, and what they are where none are given."""

from __future__ import annotations

import numpy as np
import pytest

from xplayers import MixedPrecision


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float32"}, "dtype is 'float32'; expected 'bfloat16' or 'float16'"),
        ({"loss_scale": 0.0}, "loss_scale is 0.0; expected a positive number, 'dynamic' or None"),
        ({"loss_scale": "auto"}, "loss_scale is 'auto'; expected a positive number"),
        ({"loss_scale": float("nan")}, "loss_scale is nan; expected a positive number"),
        ({"init_scale": -1.0}, "init_scale is -1.0; expected a positive number"),
        ({"init_scale": float("inf")}, "init_scale is inf; expected a positive number"),
        ({"growth_factor": 1.0}, "growth_factor is 1.0; expected more than 1"),
        ({"backoff_factor": 1.0}, "backoff_factor is 1.0; expected between 0 and 1"),
        ({"growth_interval": 0}, "growth_interval is 0; expected 1 or more"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match="MixedPrecision: ") as caught:
        MixedPrecision(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("policy", "scale", "dynamic"),
    [
        (MixedPrecision(), 1.0, False),
        (MixedPrecision("bfloat16", "dynamic"), 2.0**16, True),
        (MixedPrecision("float16"), 2.0**16, True),
        (MixedPrecision("float16", init_scale=8), 8.0, True),
        (MixedPrecision("float16", 1), 1.0, False),
        (MixedPrecision("float16", 128.0), 128.0, False),
    ],
)
def test_the_default_scale(policy, scale, dynamic):
    state = policy.init(np.ones(1, "float32"))
    assert float(state["scale"]) == scale
    state = policy.updated(state, np.asarray(False))
    assert float(state["scale"]) == (scale / 2 if dynamic else scale)
    assert int(state["skipped_steps"]) == 1
    assert eval(repr(policy)) == policy


@pytest.mark.parametrize(
    ("policy", "array"),
    [
        (MixedPrecision(), False),
        (MixedPrecision("float16", 1.0), False),
        (MixedPrecision("float16"), True),
        (MixedPrecision("bfloat16", 2.0), True),
        (MixedPrecision("bfloat16", "dynamic"), True),
    ],
)
def test_a_scale_of_1_is_a_number(policy, array):
    """So that nothing is multiplied by it."""
    state = policy.init(np.ones(1, "float32"))
    scale = policy.scale(state)
    assert isinstance(scale, np.ndarray) is array
    assert float(scale) == float(state["scale"])
    grads = {"W": np.asarray([3.0, np.inf], "float16")}
    after = policy.unscaled(grads, {"W": np.ones(2, "float32")}, scale)["W"]
    assert after.dtype == np.float32
    np.testing.assert_array_equal(after, [3.0 / float(scale), np.nan])


def test_the_defaults_are_those_of_grad_scaler():
    torch = pytest.importorskip("torch")
    scaler, ours = torch.amp.GradScaler("cpu"), MixedPrecision()
    assert ours.init_scale == scaler.get_scale()
    assert ours.growth_factor == scaler.get_growth_factor()
    assert ours.backoff_factor == scaler.get_backoff_factor()
    assert ours.growth_interval == scaler.get_growth_interval()
