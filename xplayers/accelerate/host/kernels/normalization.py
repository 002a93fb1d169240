"""Normalizations of float32 values and their gradients: each value comes from memory once.

Sums, means and roots are float64. No square of a float32 value overflows there or underflows, and a
mean is exact to the last digit of a value, so one formula is right for all of them. Mean and
variance come from one pass over the differences from the first value: no value of n is further than
``sqrt(n)`` deviations from the mean, so the mean of their squares less the square of their mean
loses no digit that float32 has.
"""

from __future__ import annotations

import math

import numpy as np

from xplayers.accelerate.host.kernels.kernel import kernel

f32 = np.float32
# Of values that are all equal, without eps: that of the portable body, whose unit is 2**90.
LARGEST_ROOT = 2.0**153


def inverse_root(square):
    """Return ``1 / sqrt(square)``."""
    return 1.0 / math.sqrt(square) if square != 0.0 else LARGEST_ROOT


@kernel(
    "const float32[2], const float32[1], const float32[1], float64, boolean, float32[2], "
    "float64[1], float64[1], int64, int64"
)
def rows(x, gamma, beta, eps, centred, y, mean, r, start, stop):
    """Normalize rows; a mean square is about 0 where they are not centred."""
    n = x.shape[1]
    for i in range(start, stop):
        first = np.float64(x[i, 0]) if centred else 0.0
        m = q = 0.0
        for j in range(n):
            d = x[i, j] - first
            m += d
            q += d * d
        m = m / n if centred else 0.0
        k = inverse_root(q / n - m * m + eps)
        m += first
        mean[i], r[i] = m, k
        for j in range(n):
            y[i, j] = (x[i, j] - m) * k * gamma[j] + beta[j]


@kernel(
    "const float32[2], const float32[2], const float32[1], const float64[1], const float64[1], "
    "boolean, float32[2], float64[2], float64[2], int64, int64, int64"
)
def rows_gradient(dy, x, gamma, mean, r, centred, dx, dgamma, dbeta, step, start, stop):
    """Go back through `rows`; every `step` of them have a row of sums in `dgamma` and `dbeta`."""
    n = x.shape[1]
    for part in range(start, stop):
        for j in range(n):
            dgamma[part, j] = dbeta[part, j] = 0.0
        for i in range(part * step, min(part * step + step, x.shape[0])):
            m, k = mean[i], r[i]
            along = shift = 0.0
            for j in range(n):
                h = dy[i, j] * np.float64(gamma[j])
                shift += h
                along += h * (x[i, j] - m)
            along *= k * k / n
            shift = shift / n if centred else 0.0
            for j in range(n):
                dgamma[part, j] += dy[i, j] * ((x[i, j] - m) * k)
            for j in range(n):
                dbeta[part, j] += dy[i, j]
            for j in range(n):
                h = dy[i, j] * np.float64(gamma[j])
                dx[i, j] = (h - shift - (x[i, j] - m) * along) * k


@kernel(
    "const float32[4], const float32[2], const float32[2], float64, float32[4], float64[2], "
    "float64[2], int64, int64"
)
def groups(x, gamma, beta, eps, y, mean, r, start, stop):
    """Normalize the groups of samples `x` ``(n, groups, channels, positions)``."""
    many, channels, positions = x.shape[1:]
    size = channels * positions
    for i in range(start, stop):
        for g in range(many):
            first = np.float64(x[i, g, 0, 0])
            m = q = 0.0
            for c in range(channels):
                for j in range(positions):
                    d = x[i, g, c, j] - first
                    m += d
                    q += d * d
            m /= size
            k = inverse_root(q / size - m * m + eps)
            m += first
            mean[i, g], r[i, g] = m, k
            for c in range(channels):
                for j in range(positions):
                    y[i, g, c, j] = (x[i, g, c, j] - m) * k * gamma[g, c] + beta[g, c]


@kernel(
    "const float32[4], const float32[4], const float32[2], const float64[2], const float64[2], "
    "float32[4], float64[3], float64[3], int64, int64"
)
def groups_gradient(dy, x, gamma, mean, r, dx, dgamma, dbeta, start, stop):
    """Go back through `groups`; each sample has sums of its own in `dgamma` and `dbeta`."""
    many, channels, positions = x.shape[1:]
    size = channels * positions
    for i in range(start, stop):
        for g in range(many):
            m, k = mean[i, g], r[i, g]
            along = shift = 0.0
            for c in range(channels):
                total = product = 0.0
                for j in range(positions):
                    d = np.float64(dy[i, g, c, j])
                    total += d
                    product += d * (x[i, g, c, j] - m)
                product *= k
                dgamma[i, g, c], dbeta[i, g, c] = product, total
                along += product * gamma[g, c]
                shift += total * gamma[g, c]
            along *= k / size
            shift /= size
            for c in range(channels):
                for j in range(positions):
                    h = dy[i, g, c, j] * np.float64(gamma[g, c])
                    dx[i, g, c, j] = (h - shift - (x[i, g, c, j] - m) * along) * k


@kernel(
    "const float32[3], const float32[1], const float32[1], float64, float32[3], float64[1], "
    "float64[1], float64[1], int64, int64"
)
def channels(x, gamma, beta, eps, y, mean, var, r, start, stop):
    """Normalize the channels of `x` ``(n, channels, positions)``, which stay in the cache."""
    n, _, positions = x.shape
    size = n * positions
    for c in range(start, stop):
        first = np.float64(x[0, c, 0])
        m = q = 0.0
        for i in range(n):
            row = x[i, c]
            for j in range(positions):
                d = row[j] - first
                m += d
                q += d * d
        m /= size
        q = q / size - m * m
        k = inverse_root(q + eps)
        m += first
        mean[c], var[c], r[c] = m, q, k
        scale, shift = k * gamma[c], np.float64(beta[c])
        for i in range(n):
            row, out = x[i, c], y[i, c]
            for j in range(positions):
                out[j] = (row[j] - m) * scale + shift


@kernel(
    "const float32[3], const float32[3], const float32[1], const float64[1], const float64[1], "
    "float32[3], float64[1], float64[1], int64, int64"
)
def channels_gradient(dy, x, gamma, mean, r, dx, dgamma, dbeta, start, stop):
    """Go back through `channels`."""
    n, _, positions = x.shape
    size = n * positions
    for c in range(start, stop):
        m, k = mean[c], r[c]
        total = product = 0.0
        for i in range(n):
            grad, row = dy[i, c], x[i, c]
            for j in range(positions):
                d = np.float64(grad[j])
                total += d
                product += d * (row[j] - m)
        product *= k
        dgamma[c], dbeta[c] = product, total
        along, shift, scale = product * k / size, total / size, k * gamma[c]
        for i in range(n):
            grad, row, out = dy[i, c], x[i, c], dx[i, c]
            for j in range(positions):
                out[j] = (grad[j] - shift - (row[j] - m) * along) * scale


WIDTH = 512  # columns side by side, whose sums stay in the first cache


@kernel(
    "const float32[2], const float32[1], const float32[1], float64, float32[2], float64[1], "
    "float64[1], float64[1], int64, int64"
)
def columns(x, gamma, beta, eps, y, mean, var, r, start, stop):
    """Normalize columns, `WIDTH` of them from `start` to `stop` at once."""
    n = x.shape[0]
    for tile in range(start, stop):
        lo, hi = tile * WIDTH, min(tile * WIDTH + WIDTH, x.shape[1])
        m, q, scale = np.zeros(WIDTH), np.zeros(WIDTH), np.zeros(WIDTH)
        for i in range(n):
            for c in range(lo, hi):
                d = np.float64(x[i, c]) - x[0, c]
                m[c - lo] += d
                q[c - lo] += d * d
        for c in range(lo, hi):
            d = m[c - lo] / n
            m[c - lo] = mean[c] = x[0, c] + d
            var[c] = q[c - lo] / n - d * d
            r[c] = inverse_root(var[c] + eps)
            scale[c - lo] = r[c] * gamma[c]
        for i in range(n):
            for c in range(lo, hi):
                y[i, c] = (x[i, c] - m[c - lo]) * scale[c - lo] + beta[c]


@kernel(
    "const float32[2], const float32[2], const float32[1], const float64[1], const float64[1], "
    "float32[2], float64[1], float64[1], int64, int64"
)
def columns_gradient(dy, x, gamma, mean, r, dx, dgamma, dbeta, start, stop):
    """Go back through `columns`."""
    n = x.shape[0]
    for tile in range(start, stop):
        lo, hi = tile * WIDTH, min(tile * WIDTH + WIDTH, x.shape[1])
        total, product, m = np.zeros(WIDTH), np.zeros(WIDTH), np.zeros(WIDTH)
        m[: hi - lo] = mean[lo:hi]
        for i in range(n):
            grad, row = dy[i, lo:hi], x[i, lo:hi]
            for c in range(len(row)):
                total[c] += grad[c]
                product[c] += grad[c] * (row[c] - m[c])
        shift, along, scale = np.zeros(WIDTH), np.zeros(WIDTH), np.zeros(WIDTH)
        for c in range(lo, hi):
            dgamma[c], dbeta[c] = product[c - lo] * r[c], total[c - lo]
            shift[c - lo], along[c - lo] = total[c - lo] / n, dgamma[c] * r[c] / n
            scale[c - lo] = r[c] * gamma[c]
        for i in range(n):
            grad, row, out = dy[i, lo:hi], x[i, lo:hi], dx[i, lo:hi]
            for c in range(len(row)):
                out[c] = (grad[c] - shift[c] - (row[c] - m[c]) * along[c]) * scale[c]
