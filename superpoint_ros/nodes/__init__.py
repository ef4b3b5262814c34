"""The ROS 2 nodes: thin shells around what the rest of the package does without ROS."""
