"""Shorter descriptors of longer ones: the values that say most, for a network to train on with these alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch.nn.functional import normalize

from superpoint_ros.keypoints import TINY
from superpoint_ros.networks import STRIDE, SuperPoint
from superpoint_training.labels import NamedFrames
from superpoint_training.sources import usable

PICTURES = 400
PLACES = 100
"""Cells of a picture, by lot, whose descriptors are looked at."""


def narrow(network: SuperPoint, values: int, frames: NamedFrames) -> SuperPoint:
    """The network with only so many of its descriptors' values; all else is the same.

    Args:
        network: not folded, in eval mode, on the CPU.
        values: to keep, fewer than there are; those that `telling_values` chooses, in its order.
        frames: pictures of what is to be told apart; the first `PICTURES` of the usable ones are looked at.

    Raises:
        ValueError: see `usable`.
    """
    kept = torch.from_numpy(telling_values(_descriptors(network, frames), values))
    state = network.state_dict()
    for name in ('descriptor.1.weight', 'descriptor.1.bias'):
        state[name] = state[name][kept]
    narrowed = SuperPoint(replace(network.config, descriptor_dim=values))
    narrowed.load_state_dict(state)
    return narrowed


def telling_values(descriptors: np.ndarray, count: int) -> np.ndarray:
    """Which values of descriptors `[N, D]` to keep, `[count]` int64: those that say most of the others, the best first.

    Each is the one that varies most once all that those before it predict, linearly, is taken away: QR decomposition
    with pivoting.
    """
    left = descriptors - descriptors.mean(axis=0)
    kept: list[int] = []
    for _ in range(count):
        varies = np.einsum('nd,nd->d', left, left)
        varies[kept] = -1
        kept.append(int(varies.argmax()))
        direction = left[:, kept[-1]] / max(float(np.linalg.norm(left[:, kept[-1]])), TINY)
        left = left - np.outer(direction, direction @ left)
    return np.array(kept)


@torch.no_grad()
def _descriptors(network: SuperPoint, frames: NamedFrames) -> np.ndarray:
    """`[N, D]` float32, unit length, of cells all over the pictures."""
    rng = np.random.default_rng(0)
    every = []
    for _, picture in islice(usable(frames), PICTURES):
        height, width = (side // STRIDE * STRIDE for side in picture.shape)
        image = torch.from_numpy(picture[:height, :width].copy())[None, None].float() / 255
        cells = normalize(network(image)[1], dim=1)[0].flatten(1).T.numpy()
        every.append(cells[rng.permutation(len(cells))[:PLACES]])
    return np.concatenate(every)
