"""Versions of what makes the figures."""

from __future__ import annotations

import platform
from importlib import metadata

import cv2
import numpy as np


def installed() -> dict[str, str | None]:
    """By name; None where it is not installed."""
    own = {'python': platform.python_version(), 'numpy': np.__version__, 'opencv': cv2.__version__}
    return {name: _version(name) for name in ('superpoint_ros', 'torch', 'openvino')} | own


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
