"""Where the package's configuration and launch files are, however it was installed."""

from pathlib import Path


def share_directory() -> Path:
    """Return the folder that holds `config/`, `launch/` and `package.xml`.

    That is the source tree for an editable install and `colcon build --symlink-install`, and
    `share/superpoint_ros` below the installation's prefix otherwise; neither needs ROS or its environment.

    Raises:
        FileNotFoundError: the package was copied somewhere without its share files.
    """
    source = Path(__file__).resolve().parents[1]
    installed = (prefix / 'share' / 'superpoint_ros' for prefix in source.parents)
    for candidate in (source, *installed):
        if (candidate / 'package.xml').is_file():
            return candidate
    raise FileNotFoundError(f'No share/superpoint_ros above {source}: install this with pip or colcon.')
