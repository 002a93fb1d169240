import numpy as np


def load_images(n=60, size=8, flatten=True):
    """Draw a bar across or down each image, in noise; labels, and images in float32."""
    x, t = np.random.rand(n, size, size) * 0.5, np.random.randint(0, 2, n)
    for i in range(n):
        place = np.random.randint(size)
        if t[i]:
            x[i, place, :] = 1
        else:
            x[i, :, place] = 1
    x = x.astype(np.float32)
    return x.reshape(n, -1) if flatten else x.reshape(n, 1, size, size), t
