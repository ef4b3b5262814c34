"""The networks, one file per paper, and their weights on disk."""

from superpoint_ros.networks.layers import fold_batch_norm, sample_at
from superpoint_ros.networks.superpoint import STRIDE, SuperPoint, SuperPointConfig, score_map
from superpoint_ros.networks.weights import (
    WEIGHTS_DIRECTORY,
    WeightsError,
    load_network,
    resolve_weights,
    save_network,
    shipped_weights,
)

__all__ = [
    'STRIDE',
    'WEIGHTS_DIRECTORY',
    'SuperPoint',
    'SuperPointConfig',
    'WeightsError',
    'fold_batch_norm',
    'load_network',
    'resolve_weights',
    'sample_at',
    'save_network',
    'score_map',
    'shipped_weights',
]
