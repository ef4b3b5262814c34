"""Makes the ROS tests run wherever rclpy does, apart from each other and from robots nearby."""

import os
import sys

# The wheels of rclpy have no setup script. Where a ROS distribution is sourced, its own setting stays.
os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)
# Domains above 101 use ports that Linux gives out to others.
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 101)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
