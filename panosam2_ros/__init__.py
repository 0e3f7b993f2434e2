"""The ROS 2 side: nodes, and the messages, which CMake generates into a folder elsewhere."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
