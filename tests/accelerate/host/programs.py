"""The table of elementwise functions: the ufuncs that each is for NumPy, and the loop for Numba."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

X, D, H, M, N = (np.ones(1, dtype) for dtype in ("float32", "float64", "float16", "bool", "int32"))


@dataclasses.dataclass(frozen=True)
class Row:
    """A function, samples of its operands, and what its results are written over."""

    id: str
    function: Callable[..., Any]
    samples: tuple[Any, ...]
    over: tuple[int | None, ...] = ()
    ufuncs: str = ""  # at once: the calls, and before them memory and views
    loop: str | None = None  # what is done with an element; None: not all of it is exactly rounded
    as_torch: bool = True  # whether PyTorch computes the same bits
    of_ties: bool = False  # whether it matters which of two equal values is taken


ROWS = [
    Row("descent", lambda xp, p, g, lr: p - lr * g, (X, X, 1.0),
        ufuncs="multiply(s2, x1, y0); subtract(x0, y0, y0)",
        loop="v3 = c2 * v1; v4 = v0 - v3; y0[i] = v4"),
    Row("descent_in_place", lambda xp, p, g, lr: p - lr * g, (X, X, 1.0), over=(0,),
        ufuncs="w0 = empty(y0.shape, float32); multiply(s2, x1, w0); subtract(x0, w0, y0)",
        loop="v3 = c2 * v1; v4 = v0 - v3; x0[i] = v4"),
    Row("over_what_is_read_later", lambda xp, p, g: (p + g, p * g), (X, X), over=(0, None),
        ufuncs="w0 = empty(y0.shape, float32); add(x0, x1, w0); multiply(x0, x1, y1); Cast(w0, y0)",
        loop="v2 = v0 + v1; v3 = v0 * v1; x0[i] = v2; y1[i] = v3"),
    Row("over_what_is_read_before", lambda xp, p, g: (p + g, p * g), (X, X), over=(None, 0),
        ufuncs="add(x0, x1, y0); multiply(x0, x1, y1)",
        loop="v2 = v0 + v1; v3 = v0 * v1; y0[i] = v2; x0[i] = v3"),
    Row("over_what_a_selection_reads", lambda xp, p, g: xp.where(p > g, p, g), (X, X), over=(0,),
        ufuncs="w0 = empty(y0.shape, bool); w1 = empty(y0.shape, float32); greater(x0, x1, w0); "
               "where_into(w0, x0, x1, w1); Cast(w1, y0)",
        loop="v2 = v0 > v1; v3 = v0 if v2 else v1; x0[i] = v3"),
    Row("over_what_a_selection_does_not_read",
        lambda xp, p, g: xp.where(p > 0.0, g, 1.0),
        (X, X), over=(0,),
        ufuncs="w0 = empty(y0.shape, bool); greater(x0, s2, w0); where_into(w0, x1, s4, y0)",
        loop="v3 = v0 > c2; v5 = v1 if v3 else c4; x0[i] = v5"),
    Row("over_both", lambda xp, p, g: (p + g, g * 2.0), (X, X), over=(1, 0),
        ufuncs="w0 = empty(y0.shape, float32); add(x0, x1, w0); multiply(x1, s3, y1); Cast(w0, y0)",
        loop="v2 = v0 + v1; v4 = v1 * c3; x1[i] = v2; x0[i] = v4"),
    Row("over_what_a_cast_reads", lambda xp, p, g: xp.astype(p * g, p.dtype), (X, D), over=(0,),
        ufuncs="w0 = empty(y0.shape, float64); multiply(x0, x1, w0); Cast(w0, y0)"),
    Row("two_results", lambda xp, p, g: (p + g, p * g), (X, X),
        ufuncs="add(x0, x1, y0); multiply(x0, x1, y1)",
        loop="v2 = v0 + v1; v3 = v0 * v1; y0[i] = v2; y1[i] = v3"),
    Row("one_result_twice", lambda xp, p: (lambda y: (y, y))(p + 1.0), (X,),
        ufuncs="add(x0, s1, y0); Cast(y0, y1)",
        loop="v2 = v0 + c1; y0[i] = v2; y1[i] = v2"),
    Row("results_of_results",
        lambda xp, p: (lambda y: (y, y * 2.0, xp.exp(y * 2.0)))(p + 1.0),
        (X,),
        ufuncs="add(x0, s1, y0); multiply(y0, s3, y1); multiply(y0, s5, y2); exp(y2, y2)"),
    Row("results_of_two_dtypes", lambda xp, p: (p * 2.0 > 1.0, xp.exp(p * 2.0)), (X,),
        ufuncs="multiply(x0, s1, y1); greater(y1, s3, y0); multiply(x0, s5, y1); exp(y1, y1)"),
    Row("chain", lambda xp, p: xp.exp(xp.tanh(p) + 1.0) * p, (X,),
        ufuncs="tanh(x0, y0); add(y0, s2, y0); exp(y0, y0); multiply(y0, x0, y0)"),
    Row("two_branches", lambda xp, p: (xp.exp(p) + xp.tanh(p)) * (xp.sin(p) - xp.cos(p)), (X,),
        ufuncs="w0 = empty(y0.shape, float32); w1 = empty(y0.shape, float32); exp(x0, y0); "
               "tanh(x0, w0); add(y0, w0, y0); sin(x0, w0); cos(x0, w1); subtract(w0, w1, w0); "
               "multiply(y0, w0, y0)"),
    Row("scratch_serves_again",
        lambda xp, p: xp.exp(xp.sin(p) * 2.0) + xp.exp(xp.cos(p) * 2.0) * p,
        (X,), over=(0,),
        ufuncs="w0 = empty(y0.shape, float32); w1 = empty(y0.shape, float32); sin(x0, w0); "
               "multiply(w0, s2, w0); exp(w0, w0); cos(x0, w1); multiply(w1, s6, w1); exp(w1, "
               "w1); multiply(w1, x0, y0); add(w0, y0, y0)"),
    Row("a_moment_is_made_over_the_last_one", lambda xp, m, g: m * 0.5 + g * 2.0, (X, X), over=(0,),
        ufuncs="w0 = empty(y0.shape, float32); multiply(x0, s2, y0); multiply(x1, s4, w0); "
               "add(y0, w0, y0)",
        loop="v3 = v0 * c2; v5 = v1 * c4; v6 = v3 + v5; x0[i] = v6"),
    Row("not_before_that_is_read", lambda xp, m, g: g * 2.0 + m * m, (X, X), over=(0,),
        ufuncs="w0 = empty(y0.shape, float32); multiply(x1, s2, w0); multiply(x0, x0, y0); "
               "add(w0, y0, y0)",
        loop="v3 = v1 * c2; v4 = v0 * v0; v5 = v3 + v4; x0[i] = v5"),
    Row("scratch_of_two_dtypes",
        lambda xp, p: xp.where(p > 0.0, xp.exp(p), xp.sin(p)) * p,
        (X,), over=(0,),
        ufuncs="w0 = empty(y0.shape, bool); w1 = empty(y0.shape, float32); w2 = empty(y0.shape, "
               "float32); w3 = empty(y0.shape, float32); greater(x0, s1, w0); exp(x0, w1); "
               "sin(x0, w2); where_into(w0, w1, w2, w3); multiply(w3, x0, y0)"),
    Row("scratch_of_selections",
        lambda xp, p, m: xp.where(m, xp.where(m, p, 1.0), 2.0) + p,
        (X, M), over=(0,),
        ufuncs="w0 = empty(y0.shape, float32); w1 = empty(y0.shape, float32); where_into(x1, x0, "
               "s2, w0); where_into(x1, w0, s4, w1); add(w1, x0, y0)",
        loop="v3 = v0 if v1 else c2; v5 = v3 if v1 else c4; v6 = v5 + v0; x0[i] = v6"),
    Row("relu", lambda xp, p: xp.maximum(p, 0.0), (X,),
        ufuncs="row0 = row[0.0, float32](y0.shape); maximum(x0, row0, out=y0)",
        loop="v2 = v0 if v0 > c1 or v0 != v0 else c1; y0[i] = v2", of_ties=True),
    Row("relu_the_other_way_round", lambda xp, p: xp.minimum(-0.0, p), (X,),
        ufuncs="row0 = row[-0.0, float32](y0.shape); minimum(row0, x0, out=y0)",
        loop="v2 = c1 if c1 < v0 or c1 != c1 else v0; y0[i] = v2", of_ties=True),
    Row("clipped", lambda xp, p, k: xp.maximum(p, 0.0) * k + xp.minimum(p, k), (X, 1.0),
        ufuncs="row0 = row[0.0, float32](y0.shape); w0 = empty(y0.shape, float32); row1 = "
               "full(y0.shape, s1, float32); maximum(x0, row0, out=y0); multiply(y0, s1, y0); "
               "minimum(x0, row1, out=w0); add(y0, w0, y0)",
        loop="v3 = v0 if v0 > c2 or v0 != v0 else c2; v4 = v3 * c1; v5 = v0 if v0 < c1 or v0 != "
             "v0 else c1; v6 = v4 + v5; y0[i] = v6", of_ties=True),
    Row("largest_of_two", lambda xp, p, g: xp.maximum(p, g), (X, X),
        ufuncs="maximum(x0, x1, out=y0)",
        loop="v2 = v0 if v0 > v1 or v0 != v0 else v1; y0[i] = v2", of_ties=True),
    Row("truth_as_number", lambda xp, p: xp.astype(p > 0.0, p.dtype) * p, (X,),
        ufuncs="greater[unsafe](x0, s1, y0); multiply(y0, x0, y0)",
        loop="v2 = v0 > c1; v3 = D(v2); v4 = v3 * v0; y0[i] = v4"),
    Row("truth_as_number_twice",
        lambda xp, p: (lambda m: xp.astype(m, p.dtype) * xp.where(m, p, 1.0))(p >= 0.0),
        (X,),
        ufuncs="w0 = empty(y0.shape, bool); w1 = empty(y0.shape, float32); greater_equal(x0, s1, "
               "w0); Cast(w0, y0); where_into(w0, x0, s4, w1); multiply(y0, w1, y0)",
        loop="v2 = v0 >= c1; v3 = D(v2); v5 = v0 if v2 else c4; v6 = v3 * v5; y0[i] = v6"),
    Row("truth_as_another_number", lambda xp, p: xp.astype(p > 0.0, xp.float64) * p, (X,),
        ufuncs="greater[unsafe](x0, s1, y0); multiply(y0, x0, y0)"),
    Row("product_with_truth", lambda xp, p, m: p * xp.astype(m, p.dtype), (X, M),
        ufuncs="multiply[float32](x0, x1, y0)",
        loop="v2 = D(v1); v3 = v0 * v2; y0[i] = v3"),
    Row("product_with_truth_as_double", lambda xp, p, m: xp.astype(m, xp.float64) * p, (X, M),
        ufuncs="multiply[float64](x1, x0, y0)"),
    Row("product_with_truth_read_again",
        lambda xp, p, m: (lambda c: p * c + c)(xp.astype(m, p.dtype)),
        (X, M),
        ufuncs="w0 = empty(y0.shape, float32); Cast(x1, y0); multiply(x0, y0, w0); add(w0, y0, y0)",
        loop="v2 = D(v1); v3 = v0 * v2; v4 = v3 + v2; y0[i] = v4"),
    Row("product_with_integers", lambda xp, p, i: p * xp.astype(i, p.dtype), (X, N),
        ufuncs="Cast(x1, y0); multiply(x0, y0, y0)"),
    Row("sum_with_truth", lambda xp, p, m: p + xp.astype(m, p.dtype), (X, M),
        ufuncs="Cast(x1, y0); add(x0, y0, y0)",
        loop="v2 = D(v1); v3 = v0 + v2; y0[i] = v3"),
    Row("number_as_truth", lambda xp, p: xp.astype(p * 2.0, xp.bool), (X,),
        ufuncs="w0 = empty(y0.shape, float32); multiply(x0, s1, w0); Cast(w0, y0)"),
    Row("kept", lambda xp, p, m: xp.where(m, p, 0.0), (X, M),
        ufuncs="x0_bits = x0.view(int32); y0_bits = y0.view(int32); multiply(x0_bits, x1, y0_bits)",
        loop="v3 = v0 if v1 else c2; y0[i] = v3"),
    Row("kept_over_itself", lambda xp, p, m: xp.where(m, p, 0.0), (X, M), over=(0,),
        ufuncs="x0_bits = x0.view(int32); y0_bits = y0.view(int32); multiply(x0_bits, x1, y0_bits)",
        loop="v3 = v0 if v1 else c2; x0[i] = v3"),
    Row("kept_or_minus_zero", lambda xp, p, m: xp.where(m, p, -0.0), (X, M),
        ufuncs="where_into(x1, x0, s2, y0)",
        loop="v3 = v0 if v1 else c2; y0[i] = v3"),
    Row("kept_or_one", lambda xp, p, m: xp.where(m, p, 1.0), (X, M),
        ufuncs="where_into(x1, x0, s2, y0)",
        loop="v3 = v0 if v1 else c2; y0[i] = v3"),
    Row("kept_or_integer", lambda xp, p, m: xp.where(m, p, 0), (X, M),
        ufuncs="where_into(x1, x0, s2, y0)",
        loop="v3 = v0 if v1 else c2; y0[i] = v3"),
    Row("kept_or_array", lambda xp, p, m, g: xp.where(m, p, g), (X, M, X),
        ufuncs="where_into(x1, x0, x2, y0)",
        loop="v3 = v0 if v1 else v2; y0[i] = v3"),
    Row("kept_in_another_dtype",
        lambda xp, p, m: xp.where(m, xp.astype(p, xp.float64), 0.0),
        (X, M),
        ufuncs="y0_bits = y0.view(int64); Cast(x0, y0); multiply(y0_bits, x1, y0_bits)"),
    Row("kept_by_a_number", lambda xp, p, g, m: xp.where(m, p, g), (X, X, True),
        ufuncs="s3 = truth(s2); where_into(s3, x0, x1, y0)",
        loop="v4 = v0 if (c3 != 0) else v1; y0[i] = v4"),
    Row("kept_by_numbers", lambda xp, p: xp.where(p, p, 0.0), (X,),
        ufuncs="x0_bits = x0.view(int32); y0_bits = y0.view(int32); w0 = empty(y0.shape, bool); "
               "Cast(x0, w0); multiply(x0_bits, w0, y0_bits)"),
    Row("scalars_and_numbers", lambda xp, p, a, b: p * (a * b - 1.0) + (1.0 - a), (X, 1.0, 2.0),
        ufuncs="s3 = mul(s1, s2); s5 = sub(s3, s4); s8 = sub(s7, s1); multiply(x0, s5, y0); "
               "add(y0, s8, y0)",
        loop="v6 = v0 * c5; v9 = v6 + c8; y0[i] = v9"),
    Row("scalars_of_numpy", lambda xp, p, b: p * xp.sqrt(b), (X, 2.0),
        ufuncs="s2 = sqrt(s1); multiply(x0, s2, y0)"),
    Row("scalar_cast", lambda xp, p, b: p * xp.astype(xp.sqrt(b), xp.float32), (X, 2.0),
        ufuncs="s2 = sqrt(s1); s3 = methodcaller(s2); multiply(x0, s3, y0)",
        loop="v4 = v0 * c3; y0[i] = v4", as_torch=False),
    Row("power", lambda xp, p: p ** 3.0 + p ** 2, (X,),
        ufuncs="w0 = empty(y0.shape, float32); power_into(x0, s1, y0); square(x0, w0); add(y0, "
               "w0, y0)"),
    Row("power_of_integers", lambda xp, p: p ** 2, (N,),
        ufuncs="power_into(x0, s1, y0)"),
    Row("operators", lambda xp, p: (-p + +p) // (abs(p) % 3.0), (X,),
        ufuncs="w0 = empty(y0.shape, float32); negative(x0, y0); positive(x0, w0); add(y0, w0, "
               "y0); absolute(x0, w0); remainder(w0, s5, w0); floor_divide(y0, w0, y0)"),
    Row("operators_from_the_right",
        lambda xp, p: (2.0 - p) / (1.0 / p) + 3.0 // p - 5.0 % p + 2.0 ** p,
        (X,),
        ufuncs="w0 = empty(y0.shape, float32); subtract(s1, x0, y0); divide(s3, x0, w0); "
               "divide(y0, w0, y0); floor_divide(s6, x0, w0); add(y0, w0, y0); remainder(s9, x0, "
               "w0); subtract(y0, w0, y0); power_into(s12, x0, w0); add(y0, w0, y0)"),
    Row("comparisons", lambda xp, p, g: ((p < g) ^ (p <= g)) & ~((p == g) | (p != g)), (X, X),
        ufuncs="w0 = empty(y0.shape, bool); w1 = empty(y0.shape, bool); less(x0, x1, y0); "
               "less_equal(x0, x1, w0); bitwise_xor(y0, w0, y0); equal(x0, x1, w0); not_equal(x0, "
               "x1, w1); bitwise_or(w0, w1, w0); invert(w0, w1); bitwise_and(y0, w1, y0)"),
    Row("bits", lambda xp, i: (i << 3 | 1) ^ 1 << i & i >> 2 & 7 >> i, (N,),
        ufuncs="w0 = empty(y0.shape, int32); w1 = empty(y0.shape, int32); left_shift(x0, s1, y0); "
               "bitwise_or(y0, s3, y0); left_shift(s5, x0, w0); right_shift(x0, s7, w1); "
               "bitwise_and(w0, w1, w1); right_shift(s10, x0, w0); bitwise_and(w1, w0, w1); "
               "bitwise_xor(y0, w1, y0)"),
    Row("in_double", lambda xp, p, g: p + g, (D, D),
        ufuncs="add(x0, x1, y0)",
        loop="v2 = v0 + v1; y0[i] = v2"),
    Row("two_results_and_one_in_place",
        lambda xp, p, g: (p / g, xp.sqrt(xp.abs(p))),
        (X, X), over=(None, 0),
        ufuncs="divide(x0, x1, y0); absolute(x0, y1); sqrt(y1, y1)",
        loop="v2 = v0 / v1; v3 = abs(v0); v4 = sqrt(v3); y0[i] = v2; x0[i] = v4"),
    Row("a_pole", lambda xp, p: xp.where(p > 0.0, p, math.inf), (X,),
        ufuncs="w0 = empty(y0.shape, bool); greater(x0, s1, w0); where_into(w0, x0, s3, y0)",
        loop="v2 = v0 > c1; v4 = v0 if v2 else c3; y0[i] = v4"),
    Row("constants", lambda xp, p: 2.0 * p - 1, (X,),
        ufuncs="multiply(s1, x0, y0); subtract(y0, s3, y0)",
        loop="v2 = c1 * v0; v4 = v2 - c3; y0[i] = v4"),
    Row("negated", lambda xp, p, g: -p + xp.square(g), (X, X),
        ufuncs="w0 = empty(y0.shape, float32); negative(x0, y0); square(x1, w0); add(y0, w0, y0)",
        loop="v2 = -v0; v3 = v1 * v1; v4 = v2 + v3; y0[i] = v4"),
    Row("power_of_two", lambda xp, p: p ** 2, (X,),
        ufuncs="square(x0, y0)",
        loop="v1 = v0 * v0; y0[i] = v1"),
    Row("compared", lambda xp, p, g: xp.where((p < g) == (p <= 1.0), p, g), (X, X),
        ufuncs="w0 = empty(y0.shape, bool); w1 = empty(y0.shape, bool); less(x0, x1, w0); "
               "less_equal(x0, s3, w1); equal(w0, w1, w0); where_into(w0, x0, x1, y0)",
        loop="v2 = v0 < v1; v4 = v0 <= c3; v5 = v2 == v4; v6 = v0 if v5 else v1; y0[i] = v6"),
    Row("compared_with_numbers", lambda xp, p: xp.where(p != 2, p, 0.0), (X,),
        ufuncs="x0_bits = x0.view(int32); y0_bits = y0.view(int32); w0 = empty(y0.shape, bool); "
               "not_equal(x0, s1, w0); multiply(x0_bits, w0, y0_bits)",
        loop="v2 = v0 != c1; v4 = v0 if v2 else c3; y0[i] = v4"),
    Row("as_it_is", lambda xp, p, g: xp.astype(p, g.dtype) * g, (X, X),
        ufuncs="Cast(x0, y0); multiply(y0, x1, y0)",
        loop="v2 = v0; v3 = v2 * v1; y0[i] = v3"),
    Row("truth", lambda xp, p, m: xp.where(m, p, xp.where(p >= 0.0, p, 1.0)), (X, M),
        ufuncs="w0 = empty(y0.shape, bool); w1 = empty(y0.shape, float32); greater_equal(x0, s2, "
               "w0); where_into(w0, x0, s4, w1); where_into(x1, x0, w1, y0)",
        loop="v3 = v0 >= c2; v5 = v0 if v3 else c4; v6 = v0 if v1 else v5; y0[i] = v6"),
    Row("truths", lambda xp, p, m: xp.where(m != (p > 0.0), p, 1.0), (X, M),
        ufuncs="w0 = empty(y0.shape, bool); greater(x0, s2, w0); not_equal(x1, w0, w0); "
               "where_into(w0, x0, s5, y0)",
        loop="v3 = v0 > c2; v4 = v1 != v3; v6 = v0 if v4 else c5; y0[i] = v6"),
    Row("selected_truths", lambda xp, p, m: xp.where(m, m, p > 0.0), (X, M),
        ufuncs="w0 = empty(y0.shape, bool); greater(x0, s2, w0); where_into(x1, x1, w0, y0)",
        loop="v3 = v0 > c2; v4 = v1 if v1 else v3; y0[i] = v4"),
    Row("truth_is_returned", lambda xp, p: p > 0.0, (X,),
        ufuncs="greater(x0, s1, y0)",
        loop="v2 = v0 > c1; y0[i] = v2"),
    Row("largest", lambda xp, p, g: xp.maximum(p, g) + xp.minimum(p, 0.0), (X, X),
        ufuncs="row0 = row[0.0, float32](y0.shape); w0 = empty(y0.shape, float32); maximum(x0, "
               "x1, out=y0); minimum(x0, row0, out=w0); add(y0, w0, y0)",
        loop="v2 = v0 if v0 > v1 or v0 != v0 else v1; v4 = v0 if v0 < c3 or v0 != v0 else c3; v5 "
             "= v2 + v4; y0[i] = v5", of_ties=True),
    Row("scalars", lambda xp, p, a, b: p * (a * b) + (1.0 - a), (X, 1.0, 2.0),
        ufuncs="s3 = mul(s1, s2); s6 = sub(s5, s1); multiply(x0, s3, y0); add(y0, s6, y0)",
        loop="v4 = v0 * c3; v7 = v4 + c6; y0[i] = v7"),
    Row("scalars_once", lambda xp, p, a: p * a + p / a, (X, 1.0),
        ufuncs="w0 = empty(y0.shape, float32); multiply(x0, s1, y0); divide(x0, s1, w0); add(y0, "
               "w0, y0)",
        loop="v2 = v0 * c1; v3 = v0 / c1; v4 = v2 + v3; y0[i] = v4"),
    Row("integer_operand", lambda xp, p, k: p * k, (X, 3),
        ufuncs="multiply(x0, s1, y0)",
        loop="v2 = v0 * c1; y0[i] = v2"),
    Row("reciprocal", lambda xp, p: 1.0 / p, (X,),
        ufuncs="divide(s1, x0, y0)",
        loop="v2 = c1 / v0; y0[i] = v2"),
    Row("negative_reciprocal", lambda xp, p: -1 / p, (X,),
        ufuncs="divide(s1, x0, y0)",
        loop="v2 = c1 / v0; y0[i] = v2"),
    Row("quotient", lambda xp, p: p / 2.0, (X,),
        ufuncs="divide(x0, s1, y0)",
        loop="v2 = v0 / c1; y0[i] = v2"),
    Row("other_quotient", lambda xp, p: 2.0 / p, (X,),
        ufuncs="divide(s1, x0, y0)",
        loop="v2 = c1 / v0; y0[i] = v2", as_torch=False),
    Row("quotient_of_an_operand", lambda xp, p, a: a / p, (X, 1.0),
        ufuncs="divide(s1, x0, y0)",
        loop="v2 = c1 / v0; y0[i] = v2", as_torch=False),
    Row("exponential", lambda xp, p: xp.exp(p), (X,),
        ufuncs="exp(x0, y0)"),
    Row("mixed", lambda xp, p, d: p + d, (X, D),
        ufuncs="add(x0, x1, y0)"),
    Row("cast_to_double", lambda xp, p: xp.astype(p, xp.float64), (X,),
        ufuncs="Cast(x0, y0)"),
    Row("integers", lambda xp, n: n + 1, (N,),
        ufuncs="add(x0, s1, y0)"),
    Row("halves", lambda xp, p: p + 1.0, (H,),
        ufuncs="add(x0, s1, y0)"),
    Row("large_integer", lambda xp, p: p + 9007199254740993, (X,),
        ufuncs="add(x0, s1, y0)"),
    Row("largest_integer", lambda xp, p: p + 9007199254740992, (X,),
        ufuncs="add(x0, s1, y0)",
        loop="v2 = v0 + c1; y0[i] = v2"),
    Row("truth_values_alone", lambda xp, m: ~m, (M,),
        ufuncs="invert(x0, y0)"),
    Row("truth_in_a_sum", lambda xp, p, m: p + m, (X, M),
        ufuncs="add(x0, x1, y0)",
        loop="v2 = v0 + D(v1); y0[i] = v2"),
    Row("selection_of_numbers", lambda xp, p: xp.where(p > 0.0, 1.0, 2.0) * p, (X,),
        ufuncs="w0 = empty(y0.shape, bool); greater(x0, s1, w0); where_into(w0, s3, s4, y0); "
               "multiply(y0, x0, y0)"),
    Row("number_as_condition", lambda xp, p, g: xp.where(p, g, 1.0), (X, X),
        ufuncs="w0 = empty(y0.shape, bool); Cast(x0, w0); where_into(w0, x1, s3, y0)"),
    Row("truth_of_numbers", lambda xp, p: xp.astype(p, xp.bool), (X,),
        ufuncs="Cast(x0, y0)"),
    Row("largest_of_truths", lambda xp, p, m: xp.maximum(m, p > 0.0), (X, M),
        ufuncs="greater(x0, s2, y0); maximum(x1, y0, out=y0)"),
]  # fmt: skip
BY_ID = {row.id: row for row in ROWS}
