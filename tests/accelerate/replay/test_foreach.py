"""Which elementwise operations of a recording are done as one, and that they are done right."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same_bits, values
from replay_code import one_call

import xplayers as xl
from xplayers import elementwise
from xplayers.accelerate.replay.compiler import BufferPool, compiled
from xplayers.accelerate.replay.flat import flattened
from xplayers.accelerate.replay.foreach import ForeachGroups, StepProgram
from xplayers.accelerate.replay.recording import Recording, Tracer

SHAPES = ((4, 3), (3,), (2, 5))


@elementwise
def _rule(xp, p, g, rate, *, power=1):
    for _ in range(power - 1):
        g = g * g
    return p - rate * g


@elementwise
def _other(xp, p, g, rate):
    return p + rate * g


@elementwise
def _scaled(xp, g, by):
    return by * g


@elementwise
def _signed(xp, p, g, zero):
    """Return what shows the sign of a zero."""
    return (p * zero) * (g * g)


# Functions of a namespace, three parameters (side by side) and three gradients to be, which return
# a value and the next parameters; and the numbers of operations in each group, in order.


def alike(xp, p, g):
    return xp.sum(p[0]), [_rule(a, b + b, 0.1) for a, b in zip(p, g, strict=True)]


def of_two_kinds(xp, p, g):
    return xp.sum(p[0]), [_rule(p[0], g[0] + 1.0, 0.1), _rule(p[1], g[1] + 1.0, 0.1),
                          _other(p[2], g[2] + 1.0, 0.1)]  # fmt: skip


def of_other_numbers(xp, p, g):
    return xp.sum(p[0]), [_rule(p[0], g[0] + 1.0, 0.1), _rule(p[1], g[1] + 1.0, 0.1),
                          _rule(p[2], g[2] + 1.0, 0.2)]  # fmt: skip


def of_other_options(xp, p, g):
    return xp.sum(p[0]), [_rule(a, b + 1.0, 0.1, power=k)
                          for a, b, k in zip(p, g, (1, 2, 2), strict=True)]  # fmt: skip


def of_zeros_of_two_signs(xp, p, g):
    return xp.sum(p[0]), [_signed(a, b + 1.0, zero)
                          for a, b, zero in zip(p, g, (0.0, 0.0, -0.0), strict=True)]  # fmt: skip


def of_a_number_of_the_step(xp, p, g):
    rate = xp.sum(p[0]).item()
    return xp.sum(p[1]), [_rule(a, b + b, rate) for a, b in zip(p, g, strict=True)]


def scaled_before(xp, p, g):
    g = [_scaled(b + b, 0.5) for b in g]
    return xp.sum(p[0]), [_rule(a, b, 0.1) for a, b in zip(p, g, strict=True)]


def scaled_alike_and_used_otherwise(xp, p, g):
    g = [_scaled(b + b, 0.5) for b in g]
    return xp.sum(p[0]), [_rule(a, b, rate)
                          for a, b, rate in zip(p, g, (0.1, 0.1, 0.2), strict=True)]  # fmt: skip


def in_another_order(xp, p, g):
    new = {i: _rule(p[i], g[i] + g[i], 0.1) for i in (2, 0, 1)}
    return xp.sum(p[0]), [new[i] for i in range(3)]


def of_what_was_given(xp, p, g):
    return xp.sum(p[0]), [_rule(a, b, 0.1) for a, b in zip(p, g, strict=True)]


def of_views(xp, p, g):
    twice = [b + b for b in g]
    return xp.sum(p[0]), [_rule(a, xp.reshape(b, a.shape), 0.1)
                          for a, b in zip(p, twice, strict=True)]  # fmt: skip


def waiting_for_each_other(xp, p, g):
    first = _rule(p[1], g[1] + 1.0, 0.1)
    second = _rule(p[0], g[0] + xp.sum(first), 0.1)
    return xp.sum(p[2]), [second, first, p[2]]


def read_after(xp, p, g):
    new = [_rule(a, b + b, 0.1) for a, b in zip(p, g, strict=True)]
    return xp.sum(p[2] * g[2]), new


def returned_before(xp, p, g):
    new = [_rule(a, b + b, 0.1) for a, b in zip(p, g, strict=True)]
    return p[2], new


def written_in_between(xp, p, g):
    twice = [b + b for b in g]
    first = _rule(p[0], twice[0], 0.1)
    twice[0] *= 3.0
    return xp.sum(twice[0]), [first, _rule(p[1], twice[1], 0.1), p[2]]


def one_gradient_for_two(xp, p, g):
    same = g[0] + g[0]
    return xp.sum(p[1]), [_rule(p[0], same, 0.1), p[1], _other(p[0], same, 0.1)[:2, :1] + p[2]]


def of_no_rule(xp, p, g):
    scaled = [_scaled(b + b, 0.5) for b in g]
    return xp.sum(scaled[0]), [a - b for a, b in zip(p, scaled, strict=True)]


def not_element_by_element(xp, p, g):
    return xp.sum(p[0]), [a - 0.1 * b for a, b in zip(p, g, strict=True)]


def of_another_result(xp, p, g):
    """The new values of one are the home of another: no group may write them over it."""
    new = [_rule(a, b + b, 0.1) for a, b in zip(p, g, strict=True)]
    return xp.sum(new[0]), [new[0], p[1] + new[1], new[2]]


@one_call
def _in_columns(x):
    """Return memory of its own that is not in the order of rows."""
    made = x + x
    if made.ndim < 2:
        return made
    return made.T.copy().T if isinstance(x, np.ndarray) else made.mT.contiguous().mT


@elementwise
def _masked(xp, p, mask):
    return xp.where(mask > 0, p, 0.0)


@elementwise
def _signs(xp, p):
    return p > 0


@elementwise
def _with_moment(xp, p, g, m):
    m = 0.9 * m + g
    return p - m, m


def in_columns(xp, p, g):
    return xp.sum(p[0]), [_rule(a, _in_columns(b), 0.1) for a, b in zip(p, g, strict=True)]


def of_constants(xp, p, g):
    ones = [xp.asarray(np.ones(s, "float32")) for s in SHAPES]
    return xp.sum(p[0]), [_rule(a, b, 0.1) for a, b in zip(p, ones, strict=True)]


def of_two_dtypes(xp, p, g):
    masks = [xp.astype(g[0], xp.int32), xp.astype(g[1], xp.int32), g[2] + 0.0]  # no tensors
    return xp.sum(p[0]), [_masked(a, b) for a, b in zip(p, masks, strict=True)]


def of_doubles(xp, p, g):
    """Their parts do not begin at the same places as those of the parameters."""
    masks = [xp.astype(b, xp.float64) for b in g]
    return xp.sum(p[0]), [_masked(a, b) for a, b in zip(p, masks, strict=True)]


def of_truth_values(xp, p, g):
    return xp.sum(p[0]), [a + _signs(a) for a in p]


def of_two_results(xp, p, g):
    """Parameters and moments: `p` and what is made of it, each in its own flat buffer."""
    new = [_with_moment(a, b + b, b * b) for a, b in zip(p, g, strict=True)]
    return xp.sum(sum(xp.sum(m) for _, m in new)), [a for a, _ in new]


def of_new_memory(xp, p, g):
    """Results that are nobody's next values lie side by side, too."""
    new = [_rule(a, b + b, 0.1) for a, b in zip(p, g, strict=True)]
    return xp.sum(p[0]), [a * 1.0 for a in new]


def of_old_and_new_memory(xp, p, g):
    total = xp.sum(p[0])
    new = [_rule(a, b + b, 0.1) for a, b in zip(p, g, strict=True)]
    return total, [new[0], new[1], new[2] * 1.0]


def exchanged(xp, p, g):
    """As what one computes is the next value of another of its shape."""
    p = [p[0] + 0.0, p[1] + 0.0, p[2]]
    return xp.sum(p[0]), [_rule(p[0], g[0] + g[0], 0.1), p[1], _rule(p[2], g[2] + g[2], 0.1)]


def scaled_in_another_order(xp, p, g):
    """What makes operands of a rule is done in the order in which the rule has them."""
    scaled = {i: _scaled(g[i] + g[i], 0.5) for i in (2, 0, 1)}
    return xp.sum(p[0]), [_rule(a, scaled[i], 0.1) for i, a in enumerate(p)]


def of_two_pairs(xp, p, g):
    """Neighbours alone: a group of the others would have no memory of its own between them."""
    return xp.sum(p[0]), [_rule(p[0], g[0] + 1.0, 0.1), _other(p[1], g[1] + 1.0, 0.1),
                          _rule(p[2], g[2] + 1.0, 0.1)]  # fmt: skip


def read_between(xp, p, g):
    """The first of a group is read before the last: it cannot wait."""
    new = [_rule(p[0], g[0] + g[0], 0.1), _rule(p[1], g[1] + g[1], 0.1)]
    total = xp.sum(new[0])
    return total, [*new, _rule(p[2], g[2] + g[2], 0.1)]


def read_right_after(xp, p, g):
    new = [_rule(a, b + b, 0.1) for a, b in zip(p, g, strict=True)]
    return xp.sum(p[0]), new


def written_before(xp, p, g):
    """What is written before the first of a group is none of its business."""
    twice = [b + b for b in g]
    twice[0] *= 3.0
    return xp.sum(p[0]), [_rule(a, b, 0.1) for a, b in zip(p, twice, strict=True)]


def something_else_written_in_between(xp, p, g):
    twice = [b + b for b in g]
    other = g[0] * 1.0
    first = _rule(p[0], twice[0], 0.1)
    other *= 2.0
    new = [first, _rule(p[1], twice[1], 0.1), _rule(p[2], twice[2], 0.1)]
    return xp.sum(other), new


PROGRAMS = {
    alike: [3], of_two_kinds: [2], of_other_numbers: [2], of_other_options: [2],
    of_zeros_of_two_signs: [2], of_a_number_of_the_step: [3], scaled_before: [3, 3],
    scaled_alike_and_used_otherwise: [2], in_another_order: [], of_what_was_given: [],
    of_views: [], waiting_for_each_other: [], read_after: [], returned_before: [],
    written_in_between: [], one_gradient_for_two: [], of_no_rule: [], not_element_by_element: [],
    of_another_result: [], in_columns: [], of_constants: [], of_doubles: [],
    of_two_dtypes: {"numpy": [2], "torch": []},
    of_truth_values: [], of_two_results: [3], of_new_memory: [3], of_old_and_new_memory: [2],
    exchanged: [], scaled_in_another_order: [3, 3], of_two_pairs: [], read_between: [],
    read_right_after: [], written_before: [3], something_else_written_in_between: [3],
}  # fmt: skip


def task(program, params, gradients):
    recording = Recording()
    g = [recording.input(a) for a in gradients]
    p = [recording.input(a) for a in params]
    xp = xl.namespace(p[0])
    value, new = program(xp, p, g)
    recording.finish()
    homes = {s.register: a for s, a in zip(p, params, strict=True)}
    updates = {s.register: n.register for s, n in zip(p, new, strict=True)}
    assert isinstance(value, Tracer)
    return StepProgram(recording, [s.register for s in g], homes, updates, value.register)


def arrays(xpv, seed):
    return [xpv.asarray(values(s, seed + i), "float32") for i, s in enumerate(SHAPES)]


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_groups(program, xpv):
    xp = xl.namespace(xpv.asarray([1.0]))
    params = flattened(arrays(xpv, 0))
    kept = [xp.asarray(a, copy=True) for a in params]
    made = task(program, params, arrays(xpv, 5))
    groups = {id(g): g for g in ForeachGroups(made).at.values()}
    expected = PROGRAMS[program]
    expected = expected[xpv.backend] if isinstance(expected, dict) else expected
    assert sorted(len(g.members) for g in groups.values()) == sorted(expected)
    for group in groups.values():
        assert {at for at, g in ForeachGroups(made).at.items()} >= set(group.members)
        assert all(out is not None for out in group.outs)
    for a, b in zip(params, kept, strict=True):
        assert_same_bits(a, b)
    replay = compiled(made, BufferPool())
    for seed in (5, 8, 11):
        gradients = arrays(xpv, seed)
        value, kept = program(xp, kept, gradients)
        got = replay(*gradients)
        assert_same_bits(got, value)
        for a, b in zip(params, kept, strict=True):
            assert_same_bits(a, b)


def test_a_group_is_done_over_flat_memory():
    params = flattened([values(s, i) for i, s in enumerate(SHAPES)])
    (group,) = set(map(id, ForeachGroups(task(alike, params, list(params))).at.values()))
    made = ForeachGroups(task(alike, params, list(params)))
    (group,) = {id(g): g for g in made.at.values()}.values()
    p, g, rate = group.operands
    assert rate == 0.1
    assert group.outs[0] is p
    assert p.shape == g.shape
    assert p.size >= sum(a.size for a in params)
    assert all(np.shares_memory(p, a) for a in params)
    assert not np.shares_memory(p, g)
    assert group.members == sorted(group.members)
