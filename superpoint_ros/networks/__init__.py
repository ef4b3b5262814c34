"""The networks, one file per paper, and their weights on disk."""

from superpoint_ros.networks.family import CellNetwork, KeypointNetwork, cell_centres, score_map
from superpoint_ros.networks.fused import fuse, takes_bytes
from superpoint_ros.networks.goodpoint import GoodPoint, GoodPointConfig
from superpoint_ros.networks.kp2d import KP2D, KP2DConfig
from superpoint_ros.networks.layers import STRIDE, fold_batch_norm, sample_at
from superpoint_ros.networks.superpoint import SuperPoint, SuperPointConfig
from superpoint_ros.networks.unsuperpoint import UnsuperPoint, UnsuperPointConfig
from superpoint_ros.networks.weights import (
    WEIGHTS_DIRECTORY,
    WeightsError,
    encode_network,
    load_network,
    resolve_weights,
    save_network,
    shipped_weights,
)

__all__ = [
    'KP2D',
    'STRIDE',
    'WEIGHTS_DIRECTORY',
    'CellNetwork',
    'GoodPoint',
    'GoodPointConfig',
    'KP2DConfig',
    'KeypointNetwork',
    'SuperPoint',
    'SuperPointConfig',
    'UnsuperPoint',
    'UnsuperPointConfig',
    'WeightsError',
    'cell_centres',
    'encode_network',
    'fold_batch_norm',
    'fuse',
    'load_network',
    'resolve_weights',
    'sample_at',
    'save_network',
    'score_map',
    'shipped_weights',
    'takes_bytes',
]
