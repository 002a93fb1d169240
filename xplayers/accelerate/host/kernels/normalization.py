"""Normalizations of float32 values and their gradients: each value comes from memory once.

Sums, means and roots are float64. No square of a float32 value overflows there or underflows, and a
mean is exact to the last digit of a value, so one formula is right for all of them.
"""

from __future__ import annotations

import math

import numpy as np

from xplayers.accelerate.host.kernels.kernel import kernel

f32 = np.float32
# Of values that are all equal, without eps: that of the portable body, whose unit is 2**90.
LARGEST_ROOT = 2.0**153


@kernel(
    "const float32[2], const float32[1], const float32[1], float64, boolean, float32[2], "
    "float64[1], float64[1], int64, int64"
)
def rows(x, gamma, beta, eps, centred, y, mean, r, start, stop):
    """Normalize rows; a mean square is about 0 where they are not centred."""
    n = x.shape[1]
    for i in range(start, stop):
        m = 0.0
        if centred:
            for j in range(n):
                m += x[i, j]
            m /= n
        q = 0.0
        for j in range(n):
            d = x[i, j] - m
            q += d * d
        q = q / n + eps
        k = 1.0 / math.sqrt(q) if q != 0.0 else LARGEST_ROOT
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
                along += h * ((x[i, j] - m) * k)
            along /= n
            shift = shift / n if centred else 0.0
            for j in range(n):
                dgamma[part, j] += dy[i, j] * ((x[i, j] - m) * k)
            for j in range(n):
                dbeta[part, j] += dy[i, j]
            for j in range(n):
                h = dy[i, j] * np.float64(gamma[j])
                dx[i, j] = (h - shift - (x[i, j] - m) * k * along) * k


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
            m = 0.0
            for c in range(channels):
                for j in range(positions):
                    m += x[i, g, c, j]
            m /= size
            q = 0.0
            for c in range(channels):
                for j in range(positions):
                    d = x[i, g, c, j] - m
                    q += d * d
            q = q / size + eps
            k = 1.0 / math.sqrt(q) if q != 0.0 else LARGEST_ROOT
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
                    product += d * ((x[i, g, c, j] - m) * k)
                dgamma[i, g, c], dbeta[i, g, c] = product, total
                along += product * gamma[g, c]
                shift += total * gamma[g, c]
            along /= size
            shift /= size
            for c in range(channels):
                for j in range(positions):
                    h = dy[i, g, c, j] * np.float64(gamma[g, c])
                    dx[i, g, c, j] = (h - shift - (x[i, g, c, j] - m) * k * along) * k


@kernel(
    "const float32[3], const float32[1], const float32[1], float64, float32[3], float64[1], "
    "float64[1], float64[1], int64, int64"
)
def channels(x, gamma, beta, eps, y, mean, var, r, start, stop):
    """Normalize the channels of `x` ``(n, channels, positions)``, which stay in the cache."""
    n, _, positions = x.shape
    size = n * positions
    for c in range(start, stop):
        m = 0.0
        for i in range(n):
            for j in range(positions):
                m += x[i, c, j]
        m /= size
        q = 0.0
        for i in range(n):
            for j in range(positions):
                d = x[i, c, j] - m
                q += d * d
        q /= size
        k = 1.0 / math.sqrt(q + eps) if q + eps != 0.0 else LARGEST_ROOT
        mean[c], var[c], r[c] = m, q, k
        for i in range(n):
            for j in range(positions):
                y[i, c, j] = (x[i, c, j] - m) * k * gamma[c] + beta[c]


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
            for j in range(positions):
                d = np.float64(dy[i, c, j])
                total += d
                product += d * ((x[i, c, j] - m) * k)
        dgamma[c], dbeta[c] = product, total
        along, shift, scale = product / size, total / size, k * gamma[c]
        for i in range(n):
            for j in range(positions):
                xh = (x[i, c, j] - m) * k
                dx[i, c, j] = (dy[i, c, j] - shift - xh * along) * scale


WIDTH = 64  # columns side by side, which are a few lines of the cache


@kernel(
    "const float32[2], const float32[1], const float32[1], float64, float32[2], float64[1], "
    "float64[1], float64[1], int64, int64"
)
def columns(x, gamma, beta, eps, y, mean, var, r, start, stop):
    """Normalize columns, `WIDTH` of them from `start` to `stop` at once."""
    n = x.shape[0]
    for tile in range(start, stop):
        lo, hi = tile * WIDTH, min(tile * WIDTH + WIDTH, x.shape[1])
        m, q = np.zeros(WIDTH), np.zeros(WIDTH)
        for i in range(n):
            for c in range(lo, hi):
                m[c - lo] += x[i, c]
        for c in range(lo, hi):
            m[c - lo] /= n
        for i in range(n):
            for c in range(lo, hi):
                d = x[i, c] - m[c - lo]
                q[c - lo] += d * d
        k = np.zeros(WIDTH)
        for c in range(lo, hi):
            q[c - lo] /= n
            v = q[c - lo] + eps
            k[c - lo] = 1.0 / math.sqrt(v) if v != 0.0 else LARGEST_ROOT
            mean[c], var[c], r[c] = m[c - lo], q[c - lo], k[c - lo]
        for i in range(n):
            for c in range(lo, hi):
                y[i, c] = (x[i, c] - m[c - lo]) * k[c - lo] * gamma[c] + beta[c]


@kernel(
    "const float32[2], const float32[2], const float32[1], const float64[1], const float64[1], "
    "float32[2], float64[1], float64[1], int64, int64"
)
def columns_gradient(dy, x, gamma, mean, r, dx, dgamma, dbeta, start, stop):
    """Go back through `columns`."""
    n = x.shape[0]
    for tile in range(start, stop):
        lo, hi = tile * WIDTH, min(tile * WIDTH + WIDTH, x.shape[1])
        total, product, m, k = np.zeros(WIDTH), np.zeros(WIDTH), np.zeros(WIDTH), np.zeros(WIDTH)
        for c in range(lo, hi):
            m[c - lo], k[c - lo] = mean[c], r[c]
        for i in range(n):
            for c in range(lo, hi):
                total[c - lo] += dy[i, c]
            for c in range(lo, hi):
                product[c - lo] += dy[i, c] * ((x[i, c] - m[c - lo]) * k[c - lo])
        shift, along, scale = np.zeros(WIDTH), np.zeros(WIDTH), np.zeros(WIDTH)
        for c in range(lo, hi):
            dgamma[c], dbeta[c], scale[c - lo] = product[c - lo], total[c - lo], r[c] * gamma[c]
            shift[c - lo], along[c - lo] = total[c - lo] / n, r[c] * product[c - lo] / n
        for i in range(n):
            for c in range(lo, hi):
                back = (x[i, c] - m[c - lo]) * along[c - lo] + shift[c - lo]
                dx[i, c] = (dy[i, c] - back) * scale[c - lo]
