"""Learned keypoints, descriptors, tracks and matches for ROS 2."""

import os

# OpenBLAS reads this once, when NumPy loads. Its threads otherwise wait for more work by spinning, for longer than a
# frame takes, on the cores that the network needs. Matching does without these threads, see `matching.one_blas_thread`,
# where threadpoolctl is installed.
os.environ.setdefault('OPENBLAS_THREAD_TIMEOUT', '4')
