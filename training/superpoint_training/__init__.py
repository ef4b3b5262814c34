"""Training and evaluation of the networks in `superpoint_ros`, without labels."""
