"""Pictures in and out, without ROS and without torch: videos, folders, bags, overlays."""
