"""Learned keypoints, descriptors, tracks and matches for ROS 2."""

import os
import sys

BLAS_SPINS = 'numpy' in sys.modules and 'OPENBLAS_THREAD_TIMEOUT' not in os.environ
"""Whether NumPy was there first, and the setting below comes too late: see `matching.blas_at_rest`."""

# OpenBLAS reads this once, when NumPy loads. Its threads otherwise wait for more work by spinning, for longer than a
# frame takes, on the cores that the network needs: measured on two cores, 105 instead of 50 ms for `superpoint`.
os.environ.setdefault('OPENBLAS_THREAD_TIMEOUT', '4')
