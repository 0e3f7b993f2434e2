# Starts the built-in 360 camera and the tracker:
#   ros2 launch panosam2_ros demo.launch.py
# and then, to track what is at that pixel:
#   ros2 run panosam2_ros prompt --point 512,256
"""Launch file of the demo."""

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    SetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = (
    ("video", "", "Video file or folder of images; empty plays the synthetic world.", None),
    ("rate", "10.0", "Images per second; 0 sends the next image when the tracker is done.", None),
    ("loop", "true", "Begin again at the end.", ["true", "false"]),
)


def _share(*parts: str) -> PathJoinSubstitution:
    return PathJoinSubstitution([FindPackageShare("panosam2_ros"), *parts])


def _value(name: str, kind: type) -> ParameterValue:
    return ParameterValue(LaunchConfiguration(name), value_type=kind)


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=value, description=text, choices=choices)
        for name, value, text, choices in ARGUMENTS
    ]
    profile = _share("config", "fastdds_large_images.xml")
    camera = Node(
        package="panosam2_ros",
        executable="camera_360",
        name="camera_360",
        output="screen",
        remappings=[("stats", "/panosam2/stats")],
        parameters=[
            {
                "video": _value("video", str),
                "rate": _value("rate", float),
                "loop": _value("loop", bool),
            }
        ],
    )
    variables = [
        SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=profile))
        for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    ]
    tracker = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(_share("launch", "tracker.launch.py")),
        launch_arguments={"image_topic": "/image_raw"}.items(),
    )
    return LaunchDescription([*declared, GroupAction([*variables, camera]), tracker])
