"""What is left of a step when it is replayed: state, rules, numbers, and what is returned."""

import numpy as np
import pytest
from replay_code import case, check, one_call, programs

from xplayers import elementwise
from xplayers.arrays.values import examine


@elementwise
def rule(xp, p, g, rate):
    return p - rate * g


@elementwise
def twice(xp, x):
    return x + x


@elementwise
def both(xp, x, *, by=2.0):
    return x * by, x + by


@elementwise
def scaled(xp, x, by):
    return x * by


@one_call
def with_place(x, out=None):
    return np.add(x, 1.0, out=out) if isinstance(x, np.ndarray) else x + 1.0


def looked_at(x):
    assert x.shape == (4, 3)


@case("v3 = sum(a0, axis=0); matmul(p, p, m0); rule(0.1); return v3", 9)
def home_by_a_rule(xp, p, n, x):
    return xp.sum(x, axis=0), rule(p, p @ p, 0.1), n


@case("v3 = sum(a0, axis=0); multiply(p, 2.0, p); return v3")
def home_by_an_operation(xp, p, n, x):
    return xp.sum(x, axis=0), p * 2.0, n


@case("v3 = sum(a0, axis=0); matmul(p, p, m0); p[...] = m0; return v3", 9)
def home_by_a_product(xp, p, n, x):
    return xp.sum(x, axis=0), p @ p, n


@case("v3 = sum(a0, axis=0); multiply(a0, 2.0, m0); matmul(m0, a0, p); return v3", 12)
def home_by_a_product_of_others(xp, p, n, x):
    return xp.sum(x, axis=0), (x * 2.0).T @ x, n


@case(
    "v3 = sum(a0, axis=0); add(p, p, m0); p[...] = m0; return v3",
    9,
    torch=("v3 = sum(a0, axis=0); v5 = p + p; p[...] = v5; return v3",),
)
def home_of_a_product_with_its_view(xp, p, n, x):
    return xp.sum(x, axis=0), p.T + p, n


@case(
    "v3 = a0[(slice(None, 3, None), slice(None, None, None))]; multiply(v3, 2.0, m0); "
    "del v3; multiply(p, 3.0, m1); v6 = sum(m1, axis=0); p[...] = m0; return v6",
    9,
    9,
)
def home_read_later(xp, p, n, x):
    new = x[:3, :] * 2.0
    return xp.sum(p * 3.0, axis=0), new, n


@case("v3 = sum(a0, axis=0); v4 = copied_array(p); p[...] = v4; return v3")
def home_is_a_view(xp, p, n, x):
    return xp.sum(x, axis=0), p.T, n


@case("v3 = sum(a0, axis=0); multiply(a0, 2.0, m0); p[...] = m0; return v3", 12)
def home_by_a_view(xp, p, n, x):
    return xp.sum(x, axis=0), (x * 2.0)[:3, :], n


@case(
    "v3 = sum(a0, axis=0); v4 = a0[(slice(None, 3, None), slice(None, None, None))]; "
    "p[...] = v4; return v3"
)
def home_by_the_input(xp, p, n, x):
    return xp.sum(x, axis=0), x[:3, :], n


@case("twice(a0, m0); v4 = sum(m0, axis=0); return v4", 12)
def elementwise_of_the_input(xp, p, n, x):
    return xp.sum(twice(x), axis=0), p, n


@case("matmul(a0, p, m0); twice(); v5 = sum(m0, axis=0); return v5", 12)
def elementwise_of_places(xp, p, n, x):
    return xp.sum(twice(x @ p), axis=0), p, n


@case("matmul(a0, p, m0); both(); subtract(m0, m1, m0); v7 = sum(m0, axis=0); return v7", 12, 12)
def elementwise_of_two(xp, p, n, x):
    a, b = both(x @ p, by=3.0)
    return xp.sum(a - b, axis=0), p, n


@case("both(a0, (m0, m1,), by=3.0); subtract(m0, m1, m0); v6 = sum(m0, axis=0); return v6", 12, 12)
def elementwise_of_two_of_the_input(xp, p, n, x):
    a, b = both(x, by=3.0)
    return xp.sum(a - b, axis=0), p, n


@case(
    "v3 = sum(a0, axis=None); v4 = v3.item(); v5 = sum(a0, axis=0); multiply(p, 2.0, m0); "
    "rule(v4); return v5",
    9,
    torch=(
        "v3 = sum(a0, axis=None); v4 = v3.item(); del v3; v5 = sum(a0, axis=0); "
        "multiply(p, 2.0, m0); rule(v4); return v5",
        9,
    ),
)
def elementwise_of_a_number(xp, p, n, x):
    rate = xp.sum(x, axis=None).item()
    return xp.sum(x, axis=0), rule(p, p * 2.0, rate), n


@case(
    "v3 = sum(a0, axis=None); v4 = v3.item(); scaled(a0, v4, m0); v6 = sum(m0, axis=0); return v6",
    12,
    torch=(
        "v3 = sum(a0, axis=None); v4 = v3.item(); del v3; scaled(a0, v4, m0); "
        "v6 = sum(m0, axis=0); return v6",
        12,
    ),
)
def elementwise_of_a_number_and_the_input(xp, p, n, x):
    rate = xp.sum(x, axis=None).item()
    return xp.sum(scaled(x, rate), axis=0), p, n


@case("v3 = twice(a0); return v3")
def elementwise_that_is_the_value(xp, p, n, x):
    return twice(x), p, n


@case(
    "with_place(a0, m0); v4 = sum(m0, axis=0); return v4",
    12,
    torch=("v3 = with_place(a0); v4 = sum(v3, axis=0); del v3; return v4",),
)
def whole(xp, p, n, x):
    return xp.sum(with_place(x), axis=0), p, n


@case(
    "v3 = reduce(a0, None); v4 = v3 * v3; v5 = v4 + 1.0; v6 = sqrt(v5); return asarray(v6)",
    torch=(
        "v3 = sum(a0); multiply(v3, v3, m0); del v3; add(m0, 1.0, m0); v6 = sqrt(m0); return v6",
        1,
    ),
)
def numbers(xp, p, n, x):
    total = xp.sum(x)
    return xp.sqrt(total * total + 1.0), p, n


@case(
    "v3 = reduce(a0, None); v4 = reduce(a0, None); v5 = v3 - v4; v6 = a0 * v5; return v6",
    torch=(
        "v3 = max(a0); v4 = min(a0); subtract(v3, v4, m0); del v3, v4; v6 = a0 * m0; return v6",
        1,
    ),
)
def numbers_of_arrays(xp, p, n, x):
    total = xp.max(x) - xp.min(x)
    return x * total, p, n


@case(
    "maximum.reduce of short rows(a0, m0); minimum.reduce(a0, m1); v6 = m0 * m1; return v6",
    4,
    3,
    torch=(
        "amax(a0, 1, False, m0); amin(a0, 0, True, m1); v6 = m0 * m1; return v6",
        4,
        3,
    ),
)
def largest(xp, p, n, x):
    return xp.max(x, axis=1)[:3] * xp.min(x, axis=0, keepdims=True), p, n


@case(
    "v3 = n[()] + 1; v4 = float32(v3); multiply(a0, v4, m0); v6 = sum(m0, axis=0); "
    "n[...] = v3; return v6",
    12,
    torch=(
        "add(n, 1, n); _cast(n, m0); multiply(a0, m0, m1); v6 = sum(m1, axis=0); return v6",
        1,
        12,
    ),
)
def counter(xp, p, n, x):
    new = n + 1
    return xp.sum(x * xp.astype(new, xp.float32), axis=0), p, new


@case(
    "v3 = sum(a0, axis=0); v4 = n + 2; n[...] = v4; return v3",
    torch=("v3 = sum(a0, axis=0); add(n, 2, n); return v3",),
)
def counter_by_two(xp, p, n, x):
    return xp.sum(x, axis=0), p, n + 2


@case(
    "v3 = sum(a0, axis=0); v4 = n * 1; n[...] = v4; return v3",
    torch=("v3 = sum(a0, axis=0); multiply(n, 1, n); return v3",),
)
def counter_doubled(xp, p, n, x):
    return xp.sum(x, axis=0), p, n * 1


@case(
    "v3 = n[()] + 1; v4 = float32(v3); v5 = 0.9 ** v4; v6 = 1.0 - v5; v7 = a0 * v6; "
    "v8 = n[()] + 1; n[...] = v8; return v7",
    torch=(
        "add(n, 1, m0); _cast(m0, m1); v5 = 0.9 ** m1; v6 = 1.0 - v5; del v5; v7 = a0 * v6; "
        "del v6; add(n, 1, n); return v7",
        1,
        1,
    ),
)
def counter_in_a_power(xp, p, n, x):
    c = xp.astype(n + 1, xp.float32)
    return x * (1.0 - 0.9**c), p, n + 1


@case(
    "_cast(n, m0); v4 = 0.9 ** m0; v5 = a0 * v4; return v5",
    1,
    torch=("_cast(n, m0); v4 = 0.9 ** m0; v5 = a0 * v4; del v4; return v5", 1),
)
def number_in_a_power(xp, p, n, x):
    c = xp.astype(n, xp.float32)
    return x * (0.9**c), p, n


@case(
    "_cast(n, m0); v4 = 1.0 - m0[()]; v5 = a0 * v4; return v5",
    1,
    torch=("_cast(n, m0); v4 = 1.0 - m0; v5 = a0 * v4; del v4; return v5", 1),
)
def number_minus_one(xp, p, n, x):
    c = xp.astype(n, xp.float32)
    return x * (1.0 - c), p, n


@case(
    "v3 = sum(a0, axis=0); matmul(p, p, m0); rule(0.5); return v3",
    9,
    torch=("v3 = sum(a0, axis=0); matmul(p, p, m0); rule(p, m0, 0.5, p); return v3", 9),
)
def rule_with_a_constant(xp, p, n, x):
    rate = xp.asarray(np.asarray(0.5, "float32"), copy=True)
    return xp.sum(x, axis=0), rule(p, p @ p, rate), n


@case(
    "v3 = a0 * 2.0; _cast(n, m0); v5 = m0[()] + 1; v6 = astype(v5, int32); n[...] = v6; return v3",
    1,
    torch=(
        "v3 = a0 * 2.0; _cast(n, m0); add(m0, 1, m0); _cast(m0, n); return v3",
        1,
    ),
)
def counter_as_an_integer(xp, p, n, x):
    return x * 2.0, p, xp.astype(xp.astype(n, xp.int64) + 1, xp.int32)


@case(
    "add.reduce(a0, m0); value = copied_array(m0); return value",
    3,
    torch=(
        "sum(a0, 0, True, m0); value = copied_array(m0); return value",
        3,
    ),
)
def value_is_a_view(xp, p, n, x):
    return xp.reshape(xp.sum(x, axis=0, keepdims=True), (3,)), p, n


@case("multiply(p, 2.0, m0); value = copied_array(p); p[...] = m0; return value", 9)
def value_is_the_state(xp, p, n, x):
    return p, p * 2.0, n


@case("v3 = a0[(0, slice(None, None, None))]; value = copied_array(v3); return value")
def value_is_the_input(xp, p, n, x):
    return x[0, :], p, n


@case(
    "v3, v4, v5, v6, = unstack(a0, axis=0); multiply(v4, v5, m0); multiply(m0, v6, m0); "
    "v9 = v3 + m0; del v3, v4, v5, v6; return v9",
    3,
)
def several_results(xp, p, n, x):
    a, b, c, d = xp.unstack(x, axis=0)
    return a + b * c * d, p, n


@case(
    "v3, v4, v5, v6, = unstack(a0, axis=0); v7 = v3 + v4; v8 = stack([v4, v5, v6], axis=0); "
    "del v3, v4, v5, v6; p[...] = v8; return v7"
)
def one_of_several_is_the_state(xp, p, n, x):
    a, b, c, d = xp.unstack(x, axis=0)
    return a + b, xp.stack([b, c, d], axis=0), n


@case("multiply(a0, 2.0, m0); v4 = concatenate([a0, m0], axis=0); return v4", 12)
def joined(xp, p, n, x):
    return xp.concat([x, x * 2.0], axis=0), p, n


@case("greater(a0, 0.0, m0); v4 = where(m0, a0, -inf); v5 = sum(v4, axis=0); del v4; return v5", 12)
def not_finite(xp, p, n, x):
    return xp.sum(xp.where(x > 0.0, x, -xp.inf), axis=0), p, n


@case(
    "v3 = a0[(Ellipsis, None)]; v4 = v3 * 2.0; del v3; return v4",
    torch=("v3 = a0.unsqueeze(-1); v4 = v3 * 2.0; del v3; return v4",),
)
def with_another_axis(xp, p, n, x):
    return x[..., None] * 2.0, p, n


@case("multiply(a0, m0, m1); v5 = sum(m1, axis=0); return v5", 12)
def with_a_constant(xp, p, n, x):
    return xp.sum(x * xp.asarray(np.ones(3, "float32"), copy=True), axis=0), p, n


@case(
    "v3 = argmax(a0, axis=-1, keepdims=True); v4 = a0[m0, v3]; del v3; return v4",
    torch=(
        "v3 = argmax(a0, axis=-1, keepdims=True); v4 = take_along_axis(a0, v3, axis=-1); del v3; "
        "return v4",
    ),
)
def taken(xp, p, n, x):
    at = xp.argmax(x, axis=-1, keepdims=True)
    return xp.take_along_axis(x, at, axis=-1), p, n


@case(
    "v3 = argmax(a0, axis=0, keepdims=True); v4 = take_along_axis(a0, v3, axis=0); del v3; "
    "return v4"
)
def taken_of_columns(xp, p, n, x):
    at = xp.argmax(x, axis=0, keepdims=True)
    return xp.take_along_axis(x, at, axis=0), p, n


@case(
    "v3 = a0[(slice(None, 1, None), slice(None, None, None))]; "
    "v4 = argmax(v3, axis=-1, keepdims=True); v5 = take_along_axis(a0, v4, axis=-1); "
    "del v3, v4; return v5"
)
def taken_by_broadcasting(xp, p, n, x):
    at = xp.argmax(x[:1, :], axis=-1, keepdims=True)
    return xp.take_along_axis(x, at, axis=-1), p, n


@case("_cast(a0, m0); v4 = sum(m0, axis=0); return v4", 12)
def casts(xp, p, n, x):
    y = xp.astype(x, xp.float64)
    return xp.sum(y, axis=0), p, n


@case("looked_at(a0); v3 = sum(a0, axis=0); return v3")
def checked(xp, p, n, x):
    examine(x, looked_at)
    return xp.sum(x, axis=0), p, n


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("program", programs(globals()), ids=lambda f: f.__name__)
def test_code(program, xpv):
    check(program, xpv)
