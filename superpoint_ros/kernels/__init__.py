"""Steps between a picture and its features' neighbours as kernels of their own, for GPUs.

Each is one launch where torch takes up to forty, and a launch costs more than what it computes; and it touches memory
once. What they compute, and what their arguments are, is said where torch does the same. They know shapes and numbers
alone. Maps are channels last. They need Triton: see `triton_runtime`.
"""

from superpoint_ros.kernels.features import describe, locate, nearest_neighbours, peaks
from superpoint_ros.kernels.maps import AT_ONCE, add_strided, first_strided, halve, score_map, strongest

__all__ = [
    'AT_ONCE',
    'add_strided',
    'describe',
    'first_strided',
    'halve',
    'locate',
    'nearest_neighbours',
    'peaks',
    'score_map',
    'strongest',
]
