"""SuperPoint front-end for ROS 2: keypoints, descriptors, tracks and matches from camera images."""
