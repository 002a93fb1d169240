"""What takes exponentials of float32 values: softmax, its loss, sigmoid, cells of an LSTM.

The exponential here is rounded as well as one in float32 can be, to less than one unit in the last
place (NumPy's to 2.6), and computed for several values at once.
"""

from __future__ import annotations

import math

import numpy as np

from xplayers.accelerate.host.kernels.kernel import float_of_bits, kernel

f32, i32 = np.float32, np.int32
ONE, LOWEST, HIGHEST = f32(1.0), f32(-104.0), f32(89.0)  # below is 0, above infinity
PER_LOG2, ROUNDED = f32(1.4426950408889634), f32(12582912.0)  # 1.5 * 2**23 leaves integers
LOG2_HIGH, LOG2_LOW = f32(0.693359375), f32(-2.12194440e-4)
# The polynomial of Cephes, by S. Moshier.
P0, P1, P2 = f32(1.9875691500e-4), f32(1.3981999507e-3), f32(8.3334519073e-3)
P3, P4, P5 = f32(4.1665795894e-2), f32(1.6666665459e-1), f32(5.0000001201e-1)
BIAS, MANTISSA, HALF = i32(127), i32(23), i32(1)


def exp(x):
    """Return e**x: 2**k times the exponential of what is left, which is at most log(2) / 2."""
    bounded = min(max(x, LOWEST), HIGHEST)
    k = (bounded * PER_LOG2 + ROUNDED) - ROUNDED
    r = (bounded - k * LOG2_HIGH) - k * LOG2_LOW
    p = ((((P0 * r + P1) * r + P2) * r + P3) * r + P4) * r + P5
    y = p * (r * r) + r + ONE
    n = i32(k)
    half = n >> HALF  # 2**k may be none of the numbers that y is not too small or too large for
    y *= float_of_bits(i32((half + BIAS) << MANTISSA))
    y *= float_of_bits(i32((n - half + BIAS) << MANTISSA))
    return y if x == x else x


def logistic(x):
    """Return ``e / (1 + e)`` with ``e = exp(min(x, 88))``, as the portable sigmoid."""
    e = exp(min(x, f32(88.0)))
    return e / (ONE + e) if x == x else x


# Also of Cephes.
T0, T1, T2 = f32(-5.70498872745e-3), f32(2.06390887954e-2), f32(-5.37397155531e-2)
T3, T4, SMALL = f32(1.33314422036e-1), f32(-3.33332819422e-1), f32(0.625)


def tanh(x):
    """Return the hyperbolic tangent, by a polynomial where ``1 - tanh`` would cancel."""
    z = x * x
    small = ((((T0 * z + T1) * z + T2) * z + T3) * z + T4) * z * x + x
    large = ONE - f32(2.0) / (exp(f32(2.0) * abs(x)) + ONE)
    large = large if x > f32(0.0) else -large
    return (small if abs(x) < SMALL else large) if x == x else x


@kernel("const float32[1], float32[1], int64, int64")
def sigmoid(x, y, start, stop):
    """Return the sigmoid of each value."""
    x, y = x[start:stop], y[start:stop]  # of which no index is counted from the end
    for i in range(len(x)):
        y[i] = logistic(x[i])


@kernel("const float32[2], const int64[1], float32[1], float32[2], int64, int64")
def cross_entropy_of_labels(x, labels, loss, dx, start, stop):
    """Return the loss of each row and its gradient; see the portable body for `rest`."""
    n = x.shape[1]
    for i in range(start, stop):
        own = labels[i]
        largest = x[i, 0]
        for j in range(n):
            largest = x[i, j] if x[i, j] > largest else largest
        for j in range(n):
            dx[i, j] = exp(x[i, j] - largest)
        dx[i, own] = f32(0.0)
        rest = 0.0
        for j in range(n):
            rest += dx[i, j]
        score = np.float64(x[i, own] - largest)
        total = rest + math.expm1(score)
        factor = f32(1.0 / (1.0 + total))
        for j in range(n):
            dx[i, j] *= factor
        dx[i, own] = f32(-rest / (1.0 + total))
        loss[i] = f32(math.log1p(total) - score)


@kernel("const float32[2], float32[2], int64, int64")
def softmax(x, y, start, stop):
    """Return the softmax of each row."""
    n = x.shape[1]
    for i in range(start, stop):
        largest = x[i, 0]
        for j in range(n):
            largest = x[i, j] if x[i, j] > largest else largest
        if largest == np.inf:  # such values share the probability
            for j in range(n):
                y[i, j] = ONE if x[i, j] == largest else x[i, j] - x[i, j]
                y[i, j] = f32(0.0) if x[i, j] < largest else y[i, j]
        else:
            for j in range(n):
                y[i, j] = exp(x[i, j] - largest)
        total = 0.0
        for j in range(n):
            total += y[i, j]
        factor = f32(1.0 / total)
        for j in range(n):
            y[i, j] *= factor


@kernel("const float32[2], const boolean[2], boolean, int64, float32[2], int64, int64")
def attention_weights(x, mask, causal, time, y, start, stop):
    """Return the softmax of each row over the keys that it attends to; 0 where there are none.

    Rows are those of samples, heads and times; `mask` has a row for each sample, or none.
    """
    keys = x.shape[1]
    per_sample = x.shape[0] // max(mask.shape[0], 1)
    for i in range(start, stop):
        end = min(i % time + 1, keys) if causal else keys
        sample = i // per_sample
        largest = f32(-np.inf)
        if mask.shape[0]:
            for j in range(end):
                value = x[i, j] if mask[sample, j] else f32(-np.inf)
                largest = value if value > largest else largest
            for j in range(end):
                y[i, j] = exp(x[i, j] - largest) if mask[sample, j] else f32(0.0)
        else:
            for j in range(end):
                largest = x[i, j] if x[i, j] > largest else largest
            for j in range(end):
                y[i, j] = exp(x[i, j] - largest)
        total = 0.0
        for j in range(end):
            total += y[i, j]
        if largest == -np.inf and (causal or mask.shape[0]):  # nothing to attend to
            y[i, :end] = f32(0.0)
            total = 1.0
        factor = f32(1.0 / total)
        for j in range(end):
            y[i, j] *= factor
        for j in range(end, keys):
            y[i, j] = f32(0.0)


@kernel("const float32[2], const float32[2], float32[2], int64, int64")
def softmax_gradient(y, dy, dx, start, stop):
    """Return ``y * (dy - sum(dy * y))`` of each row."""
    n = y.shape[1]
    for i in range(start, stop):
        inner = 0.0
        for j in range(n):
            inner += np.float64(dy[i, j]) * y[i, j]
        for j in range(n):
            dx[i, j] = y[i, j] * f32(dy[i, j] - inner)


# The loops of a cell are so many because each may write to one array only, to be of vectors.
@kernel("const float32[2], const float32[2], float32[2], float32[2], float32[2], int64, int64")
def lstm_cell(a, c, h, after, gates, start, stop):
    """Return the state after a step, and its gates, in the blocks i, f, g, o of columns."""
    n = c.shape[1]
    for r in range(start, stop):
        for j in range(2 * n):
            gates[r, j] = logistic(a[r, j])
        for j in range(2 * n, 3 * n):
            gates[r, j] = tanh(a[r, j])
        for j in range(3 * n, 4 * n):
            gates[r, j] = logistic(a[r, j])
        for j in range(n):
            after[r, j] = gates[r, n + j] * c[r, j] + gates[r, j] * gates[r, 2 * n + j]
        for j in range(n):
            h[r, j] = gates[r, 3 * n + j] * tanh(after[r, j])


@kernel(
    "const float32[2], const float32[2], const float32[2], const float32[2], const float32[2], "
    "const float32[2], float32[2], float32[2], int64, int64"
)
def lstm_cell_gradient(dy, dh, dc, gates, c, after, da, before, start, stop):
    """Go back through `lstm_cell`: to `da`, and `before`, the gradient of `c`."""
    n = c.shape[1]
    for r in range(start, stop):
        for j in range(n):
            da[r, 3 * n + j] = tanh(after[r, j])
        for j in range(n):
            t = da[r, 3 * n + j]
            through = (dy[r, j] + dh[r, j]) * gates[r, 3 * n + j] * (ONE - t * t)
            before[r, j] = dc[r, j] + through
        for j in range(n):
            o = gates[r, 3 * n + j]
            da[r, 3 * n + j] *= (dy[r, j] + dh[r, j]) * (o * (ONE - o))
        for j in range(n):
            i = gates[r, j]
            da[r, j] = before[r, j] * gates[r, 2 * n + j] * (i * (ONE - i))
        for j in range(n):
            f = gates[r, n + j]
            da[r, n + j] = before[r, j] * c[r, j] * (f * (ONE - f))
        for j in range(n):
            g = gates[r, 2 * n + j]
            da[r, 2 * n + j] = before[r, j] * gates[r, j] * (ONE - g * g)
        for j in range(n):
            before[r, j] *= gates[r, n + j]
