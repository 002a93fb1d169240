import numpy as np


def numerical_gradient(f, x):
    gradient = np.zeros_like(x)
    flat, result = x.reshape(-1), gradient.reshape(-1)
    for i in range(flat.size):
        value = flat[i]
        flat[i] = value + 1e-4
        above = f(x)
        flat[i] = value - 1e-4
        result[i] = (above - f(x)) / 2e-4
        flat[i] = value
    return gradient
