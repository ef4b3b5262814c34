"""Fast DDS set up for messages of 1 MB."""

from __future__ import annotations

import os

from superpoint_ros.share import share_directory

_PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')


def fast_dds_environment() -> dict[str, str]:
    """Environment that makes a process use `config/fastdds.xml`.

    Empty where the user chose a profile, another middleware than Fast DDS, which is the default, or this machine alone
    by ROS_LOCALHOST_ONLY: Humble only adds a transport for that, and the profile's own would still reach the network.
    """
    is_fast_dds = os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp').startswith('rmw_fastrtps')
    local_only = os.environ.get('ROS_LOCALHOST_ONLY') == '1'
    if not is_fast_dds or local_only or any(os.environ.get(variable) for variable in _PROFILE_VARIABLES):
        return {}
    # Up to Jazzy the first is read; Kilted calls it deprecated, and reads the second.
    return dict.fromkeys(_PROFILE_VARIABLES, str(share_directory() / 'config' / 'fastdds.xml'))
