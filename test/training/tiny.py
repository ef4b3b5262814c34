"""A network and configurations small enough to train in seconds."""

from pathlib import Path

import yaml

from superpoint_ros.networks import SuperPointConfig

TINY = SuperPointConfig((4, 4, 4, 4, 8, 8, 8, 8), 8, 8, 'skip', 'batch')


def write_config(path: Path, **extra) -> str:
    """Write a configuration of the tiny network to a file, and more sections with it; returns the file's name."""
    network = {'widths': list(TINY.widths), 'head_width': 8, 'descriptor_dim': 8, 'detector_head': 'skip'}
    path.write_text(yaml.safe_dump({'network': network} | extra))
    return str(path)
