"""Squares that fit.

Squares of large values overflow, those of small ones are 0. So values are multiplied by a power of
two, which changes no digit, where the largest is below the first of these or above the third:
(low, times, high, times), by dtype of the squares.
"""

UNITS = {
    "float32": (2.0**-40, 2.0**90, 2.0**40, 2.0**-80),
    "float64": (2.0**-400, 2.0**650, 2.0**400, 2.0**-700),
}
