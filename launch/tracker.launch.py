# Starts the tracker on a camera's topic:
#   ros2 launch panosam2_ros tracker.launch.py image_topic:=/image_raw
"""Launch file of the tracker."""

from ament_index_python.packages import PackageNotFoundError
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackagePrefix, FindPackageShare

ARGUMENTS = (
    ("image_topic", "/image_raw", "Topic of the camera's images (sensor_msgs/Image).", None),
    (
        "camera_info_topic",
        "/camera_info",
        "Topic of what the camera says of them; optional.",
        None,
    ),
    ("namespace", "", "Namespace of the node; one per camera.", None),
    ("device", "", "auto, cpu, cuda or cuda:N; empty: as in params_file.", None),
    ("variant", "", "Which network; empty: as in params_file.", None),
    (
        "checkpoint",
        "",
        "Weight file; empty: as in params_file, else as $PANOSAM2_CHECKPOINT says.",
        None,
    ),
    (
        "projection",
        "",
        "Whether the images are full panoramas; empty: as in params_file.",
        ["", "equirectangular", "perspective"],
    ),
    (
        "image_transport",
        "",
        "compressed listens to image_topic/compressed; empty: as in params_file.",
        ["", "raw", "compressed"],
    ),
    ("autostart", "true", "Configure and activate the node.", ["true", "false"]),
    ("use_sim_time", "false", "Take the time from /clock.", ["true", "false"]),
    ("use_respawn", "false", "Start the node again when it ends.", ["true", "false"]),
    (
        "rviz",
        "false",
        "Start rviz2 with config/panosam2.rviz, which shows a tracker without a namespace.",
        ["true", "false"],
    ),
    (
        "foxglove",
        "false",
        "Start foxglove_bridge, to open config/foxglove_layout.json in Foxglove.",
        ["true", "false"],
    ),
    ("log_level", "info", "debug, info, warn, error or fatal.", None),
    (
        "large_images",
        "true",
        "Give Fast DDS the shared memory that panoramas need (the camera needs it, too).",
        ["true", "false"],
    ),
)


# Parameters that only an argument that is given sets; else params_file and the node decide.
OVERRIDES = (
    ("model.variant", LaunchConfiguration("variant")),
    ("model.checkpoint", LaunchConfiguration("checkpoint")),
    ("device", LaunchConfiguration("device")),
    ("projection", LaunchConfiguration("projection")),
    ("image_transport", LaunchConfiguration("image_transport")),
)


def _share(*parts: str) -> PathJoinSubstitution:
    return PathJoinSubstitution([FindPackageShare("panosam2_ros"), *parts])


def _node(context: LaunchContext) -> list[LifecycleNode]:
    given = {
        # A path or a name may look like a number; it stays text.
        name: ParameterValue(value, value_type=str)
        for name, value in OVERRIDES
        if value.perform(context)
    }
    node = LifecycleNode(
        package="panosam2_ros",
        executable="tracker_node",
        name="panosam2",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        emulate_tty=True,
        respawn=LaunchConfiguration("use_respawn"),
        remappings=[
            ("image", LaunchConfiguration("image_topic")),
            ("camera_info", LaunchConfiguration("camera_info_topic")),
        ],
        parameters=[
            LaunchConfiguration("params_file"),
            {
                **given,
                "autostart": _flag("autostart"),
                "use_sim_time": _flag("use_sim_time"),
            },
        ],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
    )
    return [node]


def _viewers(context: LaunchContext) -> list[Node]:
    """The programs to look with, if they are wanted.

    Raises:
        RuntimeError: If one of them is not installed; launch shows its text and ends.
    """
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        name="rviz2",
        output="screen",
        arguments=["-d", _share("config", "panosam2.rviz")],
        parameters=[{"use_sim_time": _flag("use_sim_time")}],
    )
    bridge = Node(
        package="foxglove_bridge",
        executable="foxglove_bridge",
        name="foxglove_bridge",
        output="screen",
        parameters=[{"use_sim_time": _flag("use_sim_time")}],
    )
    wanted = [
        (argument, package, node)
        for argument, value, package, node in (
            ("rviz", LaunchConfiguration("rviz"), "rviz2", rviz),
            ("foxglove", LaunchConfiguration("foxglove"), "foxglove_bridge", bridge),
        )
        if value.perform(context) == "true"
    ]
    for argument, package, _ in wanted:
        try:
            FindPackagePrefix(package).perform(context)
        except PackageNotFoundError:
            apt = package.replace("_", "-")
            raise RuntimeError(
                f"{argument}:=true needs the package {package}, which is not installed; "
                f"sudo apt install ros-$ROS_DISTRO-{apt}, or leave {argument}:=false"
            ) from None
    return [node for _, _, node in wanted]


def _flag(name: str) -> ParameterValue:
    return ParameterValue(LaunchConfiguration(name), value_type=bool)


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=value, description=text, choices=choices)
        if choices
        else DeclareLaunchArgument(name, default_value=value, description=text)
        for name, value, text, choices in ARGUMENTS
    ]
    declared.append(
        DeclareLaunchArgument(
            "params_file",
            default_value=_share("config", "tracker.yaml"),
            description="Parameters of the node; the arguments here go before it.",
        )
    )
    profile = _share("config", "fastdds_large_images.xml")
    large = IfCondition(LaunchConfiguration("large_images"))
    variables = [
        # Whoever has set a profile of their own keeps it.
        SetEnvironmentVariable(
            name, EnvironmentVariable(name, default_value=profile), condition=large
        )
        for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    ]
    return LaunchDescription(
        [
            *declared,
            # First, so that nothing is started when one of them is missing.
            OpaqueFunction(function=_viewers),
            GroupAction([*variables, OpaqueFunction(function=_node)]),
        ]
    )
