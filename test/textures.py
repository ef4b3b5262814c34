"""Pictures made of noise."""

import numpy as np


def photograph(height, width, seed=0):
    """Blurred noise: structure at several scales, as a picture has."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width))
    for scale in (2, 4, 8, 16):
        coarse = rng.random((height // scale + 1, width // scale + 1))
        image += np.kron(coarse, np.ones((scale, scale)))[:height, :width]
    return (image * (255 / image.max())).astype(np.uint8)
