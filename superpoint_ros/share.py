"""Where the package's configuration and launch files are, however it was installed."""

from pathlib import Path


def share_directory() -> Path:
    """Return the folder that holds `config/`, `launch/` and `package.xml`.

    That is the source tree for an editable install and `colcon build --symlink-install`, and
    `share/superpoint_ros` below the
    installation's prefix otherwise; neither needs ROS or its environment variables.

    Raises:
        FileNotFoundError: the package was copied somewhere without its share files.
    """
    package = Path(__file__).resolve().parent
    for parent in package.parents:
        for candidate in (parent, parent / 'share' / 'superpoint_ros'):
            if (candidate / 'package.xml').is_file() and (candidate / 'config').is_dir():
                return candidate
    raise FileNotFoundError(f'No share/superpoint_ros above {package}: install the package with pip or colcon.')
