"""The tracker node's parameters: names, defaults, ranges and what they mean."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)

from panosam2_core import TrackerConfig
from panosam2_core.build import PRESETS
from panosam2_core.config import PROMPT_VIEWS, VIEWS
from panosam2_core.errors import ConfigError
from panosam2_ros import overrides
from panosam2_ros.axes import Axes
from panosam2_ros.camera_info import Crop
from panosam2_ros.stream import Rules

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.parameter import Parameter

Value = bool | int | float | str


@dataclass(frozen=True)
class Setting:
    """One parameter.

    Attributes:
        name: Its name.
        default: Its default, which also fixes its type.
        description: What it does, with its unit.
        limits: Smallest and largest number.
        choices: The texts that are allowed; empty allows all.
        live: Whether it can be changed while the node is configured.
    """

    name: str
    default: Value
    description: str
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    live: bool = False


CHECKPOINT_VARIABLE = "PANOSAM2_CHECKPOINT"

_TRACKER = TrackerConfig()
SETTINGS = (
    Setting("autostart", True, "Configure and activate without being asked to."),
    Setting("model.variant", "nano", "Which network. nano brings its weights along."),
    Setting(
        "model.checkpoint",
        "",
        f"Weight file; empty: that of ${CHECKPOINT_VARIABLE}, or else the one that comes along.",
    ),
    Setting(
        "model.input_size",
        "",
        "Pixels that the network sees, HEIGHTxWIDTH in multiples of 32, or a name: "
        f"{', '.join(PRESETS)}. Empty: the variant's own.",
    ),
    Setting(
        "model.precision",
        "auto",
        "Arithmetic. auto: bfloat16 on a GPU that has it, float32 elsewhere.",
        None,
        ("auto", "float32", "bfloat16"),
    ),
    Setting(
        "model.yaw_true",
        False,
        "Run a network that does not know the absolute yaw, for closed panoramas. false: as its "
        "weight file says; nano is one.",
    ),
    Setting("device", "auto", "auto, cpu, cuda or cuda:N."),
    Setting(
        "memory_reserve_mb",
        256,
        "MiB taken at activate and kept for working on images, if the model runs on a CPU; with "
        "less the process grows for some thousand images. 0: none.",
        (0, 65536),
    ),
    Setting("warmup_frames", 2, "Frames to run before the node is ready.", (0, 50)),
    Setting("max_objects", 8, "Most objects at a time.", (1, 64)),
    Setting(
        "memory.short_frames",
        6,
        "Recent frames that are looked back on, besides the prompted ones. At most 6: the "
        "networks were trained with time codes for so many.",
        (1, 6),
    ),
    Setting(
        "memory.long_frames",
        _TRACKER.long_frames,
        "Long-term frames that are looked back on; 0 switches the long-term memory off.",
        (0, 8),
    ),
    Setting(
        "mask_threshold",
        _TRACKER.mask_threshold,
        "Logit of a mask's edge; higher makes masks smaller.",
        (-10.0, 10.0),
        live=True,
    ),
    Setting(
        "motion_gate_deg",
        _TRACKER.motion_gate_deg,
        "Degrees that an object can move from image to image, the camera's turning included; "
        "0 switches the gate off.",
        (0.0, 180.0),
        live=True,
    ),
    Setting(
        "view",
        _TRACKER.view,
        "What the network is shown. sphere: always the whole panorama. centred: likewise, turned "
        "so that the objects are away from its edges. local: small objects in a "
        "crop that follows them. auto: likewise, and lost ones are searched for everywhere.",
        None,
        VIEWS,
        live=True,
    ),
    Setting(
        "max_local_views",
        _TRACKER.max_local_views,
        "Objects that are followed in crops at a time; each costs an encoding per image.",
        (1, 64),
        live=True,
    ),
    Setting(
        "search_looks",
        _TRACKER.search_looks,
        "Encodings per image for all lost objects together, which are searched for (view: auto); "
        "more find them sooner and slow images down meanwhile.",
        (1, 16),
        live=True,
    ),
    Setting(
        "least_likeness",
        _TRACKER.least_likeness,
        "Likeness to the colours that an object is known to have, under which what is seen is "
        "taken for something else and the object for hidden; 0: colours are not compared.",
        (0.0, 1.0),
        live=True,
    ),
    Setting(
        "visibility.occluded_below",
        _TRACKER.occluded_below,
        "Visibility under which an object counts as hidden.",
        (0.0, 1.0),
        live=True,
    ),
    Setting(
        "visibility.lost_after_s",
        2.0,
        "Seconds out of sight after which an object counts as lost.",
        (0.0, 3600.0),
        live=True,
    ),
    Setting(
        "image_transport",
        "raw",
        "raw: sensor_msgs/Image. compressed: sensor_msgs/CompressedImage, on the image topic with "
        "/compressed at its end.",
        None,
        ("raw", "compressed"),
    ),
    Setting(
        "max_image_megapixels",
        64.0,
        "Larger images are refused, in millions of pixels.",
        (0.01, 1000.0),
        live=True,
    ),
    Setting(
        "max_frame_age_ms",
        0,
        "Images that are older than this when they arrive are skipped, in milliseconds; 0: none.",
        (0, 5000),
        live=True,
    ),
    Setting("every_nth_frame", 1, "Work on every n-th image only.", (1, 30), live=True),
    Setting(
        "ignore_mask",
        "",
        "Picture file, as the camera sees it, in which all that is not black is never part of an "
        "object: the robot's own body, a tripod. Empty: none.",
    ),
    Setting(
        "qos.reliability",
        "auto",
        "auto: as the camera.",
        None,
        ("auto", "reliable", "best_effort"),
    ),
    Setting(
        "qos.depth",
        4,
        "Images the middleware keeps while one is taken in; the newest is worked on.",
        (1, 10),
    ),
    Setting(
        "prompt.max_ahead_ms",
        1000,
        "How far a prompt's stamp may be ahead of the newest image, in milliseconds.",
        (0, 60000),
        live=True,
    ),
    Setting(
        "prompt.max_age_ms",
        1000,
        "How far a prompt's stamp may be behind the newest image, in milliseconds.",
        (0, 60000),
        live=True,
    ),
    Setting(
        "prompt.ring_frames",
        8,
        "Images that are kept for prompts that name one of them.",
        (1, 64),
    ),
    Setting("prompt.max_waiting", 64, "Most prompts that may wait.", (1, 1024), live=True),
    Setting(
        "prompt.max_wait_ms",
        3000,
        "How long a prompt waits for the image with its stamp before it is refused, in "
        "milliseconds.",
        (0, 60000),
        live=True,
    ),
    Setting("prompt.max_points", 256, "Most points in a prompt.", (1, 10000), live=True),
    Setting(
        "prompt.view",
        _TRACKER.prompt_view,
        "Where clicks and boxes are resolved. auto: a close view about small objects.",
        None,
        PROMPT_VIEWS,
        live=True,
    ),
    Setting(
        "projection",
        "equirectangular",
        "equirectangular: a panorama. perspective: any other camera.",
        None,
        ("equirectangular", "perspective"),
    ),
    Setting(
        "hfov_deg",
        360.0,
        "Degrees that the columns of a panorama span; under 360 its edges do not meet.",
        (1.0, 360.0),
    ),
    Setting(
        "vfov_deg",
        180.0,
        "Degrees that the rows of a panorama span, the horizon in the middle; under 180 it does "
        "not reach the poles. 180 with hfov_deg under 360: a row as much as a column.",
        (1.0, 180.0),
    ),
    Setting(
        "yaw_offset_deg",
        0.0,
        "Direction of the image centre, or where camera_info has a roi, of the whole panorama's, "
        "in degrees to the left of the bearing frame's x axis.",
        (-180.0, 180.0),
        live=True,
    ),
    Setting(
        "frame_convention",
        "body",
        "Axes of bearings. body: x forward, y left, z up. optical: x right, y down, z forward.",
        None,
        ("body", "optical"),
        live=True,
    ),
    Setting(
        "bearing_frame",
        "",
        "Frame that bearings are said to be in; empty: that of the images.",
        live=True,
    ),
    Setting(
        "publish.label_encoding",
        "mono8",
        "Encoding of ~/label_image; mono16 allows ids above 254.",
        None,
        ("mono8", "mono16"),
    ),
    Setting(
        "publish.label_resolution",
        "input",
        "Size of ~/label_image. input: as the images. model: as the network's masks.",
        None,
        ("input", "model"),
        live=True,
    ),
    Setting("publish.markers", True, "Publish ~/markers while somebody listens.", live=True),
    Setting("publish.object_masks", False, "Give every object in ~/objects its mask.", live=True),
    Setting("publish.stats", True, "Publish ~/stats.", live=True),
    Setting("overlay.max_width", 1280, "Widest ~/overlay, in pixels.", (64, 7680), live=True),
    Setting("overlay.alpha", 0.5, "Opacity of the masks in ~/overlay.", (0.0, 1.0), live=True),
    Setting(
        "overlay.jpeg_quality", 80, "Of ~/overlay/compressed, in percent.", (1, 100), live=True
    ),
    Setting(
        "follow.object_id",
        0,
        "Object that ~/follow looks at; 0: the one that is tracked longest.",
        (0, 65535),
        live=True,
    ),
    Setting(
        "follow.hfov_deg", 60.0, "Width of ~/follow's view, in degrees.", (5.0, 150.0), live=True
    ),
    Setting("follow.width", 640, "Width of ~/follow's image, in pixels.", (64, 4096), live=True),
    Setting("follow.height", 480, "Height of ~/follow's image, in pixels.", (64, 4096), live=True),
    Setting(
        "release_gpu_on_deactivate",
        False,
        "Free the model when the node is deactivated; activating then loads it again.",
        live=True,
    ),
    Setting(
        "diagnostics.min_rate_hz",
        1.0,
        "Warn below this many results per second.",
        (0.0, 240.0),
        live=True,
    ),
    Setting(
        "diagnostics.max_latency_ms",
        1000.0,
        "Warn when results come later than this after the image, in milliseconds.",
        (0.0, 60000.0),
        live=True,
    ),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}


def declare(node: Node) -> None:
    """Declares all parameters on a node, and warns of values for others.

    Args:
        node: The node.

    Raises:
        ConfigError: If a value that it was started with has the wrong type or is out of range.
    """
    for setting in SETTINGS:
        overrides.check(node, setting.name, setting.default, setting.limits)
        node.declare_parameter(setting.name, setting.default, _descriptor(setting))
    overrides.warn_of_unknown(node)


def values(node: Node) -> dict[str, Any]:
    """Reads all parameters.

    Args:
        node: The node that declared them.

    Returns:
        The values by name.
    """
    return {setting.name: node.get_parameter(setting.name).value for setting in SETTINGS}


def check_change(changed: Iterable[Parameter], *, configured: bool) -> SetParametersResult:
    """Decides whether parameters may be set now.

    Args:
        changed: The new values.
        configured: Whether the node has been configured with the old ones.

    Returns:
        The decision, with a reason if it is no.
    """
    for parameter in changed:
        setting = _BY_NAME.get(parameter.name)
        if setting is None:
            continue  # use_sim_time and the like are not ours
        reason = _fault(setting, parameter.value)
        if configured and not setting.live:
            reason = "is fixed while the node is configured; deactivate and clean it up first"
        if reason:
            return SetParametersResult(successful=False, reason=f"{parameter.name}: {reason}")
    return SetParametersResult(successful=True)


def check(current: Mapping[str, Any]) -> None:
    """Checks the values that the node was started with.

    Args:
        current: By name.

    Raises:
        ConfigError: Naming the first that cannot be.
    """
    for setting in SETTINGS:
        reason = _fault(setting, current[setting.name])
        if reason:
            raise ConfigError(f"parameter {setting.name}: {reason}")


def checkpoint(current: Mapping[str, Any]) -> str:
    """The weight file that is asked for: by the parameter, or else by the environment.

    The variable counts for nano, too: whoever set it would be surprised if it did not.

    Args:
        current: Values by name.

    Returns:
        The path; empty for the weights that come along.
    """
    return current["model.checkpoint"] or os.environ.get(CHECKPOINT_VARIABLE, "")


def in_crop(current: Mapping[str, Any], crop: Crop | None) -> dict[str, Any]:
    """The values for images that the camera says to be a part of a panorama.

    Args:
        current: Values by name.
        crop: The part; None if the camera does not say so.

    Returns:
        The values, with the part under the name "crop"; of an ordinary camera's images, that there
        is none.
    """
    return {**current, "crop": crop if current["projection"] == "equirectangular" else None}


def tracker_config(current: Mapping[str, Any]) -> TrackerConfig:
    """The tracker's settings.

    Args:
        current: Values by name.

    Returns:
        The settings.
    """
    crop, hfov, vfov = current.get("crop"), current["hfov_deg"], current["vfov_deg"]
    if crop is not None:  # the camera knows better, and says all of it
        hfov, vfov = crop.hfov_deg, crop.vfov_deg
    elif vfov == 180:
        vfov = None
    return TrackerConfig(
        pano=current["projection"] == "equirectangular",
        hfov_deg=hfov,
        vfov_deg=vfov,
        middle_lat_deg=crop.middle_lat_deg if crop else 0.0,
        mask_threshold=current["mask_threshold"],
        motion_gate_deg=current["motion_gate_deg"],
        occluded_below=current["visibility.occluded_below"],
        max_objects=current["max_objects"],
        short_frames=current["memory.short_frames"],
        long_frames=current["memory.long_frames"],
        view=current["view"],
        max_local_views=current["max_local_views"],
        search_looks=current["search_looks"],
        least_likeness=current["least_likeness"],
        prompt_view=current["prompt.view"],
    )


def rules(current: Mapping[str, Any]) -> Rules:
    """What the stream needs to know.

    Args:
        current: Values by name.

    Returns:
        The rules.
    """
    return Rules(
        max_id=65535 if current["publish.label_encoding"] == "mono16" else 254,
        lost_after_s=current["visibility.lost_after_s"],
        prompt_max_ahead_s=current["prompt.max_ahead_ms"] * 1e-3,
        prompt_max_age_s=current["prompt.max_age_ms"] * 1e-3,
        max_points=current["prompt.max_points"],
        max_waiting=current["prompt.max_waiting"],
        prompt_max_wait_s=current["prompt.max_wait_ms"] * 1e-3,
        max_pixels=int(current["max_image_megapixels"] * 1e6),
        axes=axes(current),
    )


def axes(current: Mapping[str, Any]) -> Axes:
    """What directions are given in.

    Args:
        current: Values by name.

    Returns:
        The axes.
    """
    crop = current.get("crop")
    yaw = current["yaw_offset_deg"] + (crop.yaw_deg if crop else 0.0)
    return Axes(math.radians(yaw), current["frame_convention"] == "optical")


def _fault(setting: Setting, value: Value) -> str:
    """What is wrong with a value; empty if nothing is. rclpy itself checks types and ranges."""
    if setting.choices and value not in setting.choices:
        return f"expected one of {', '.join(setting.choices)}, got '{value}'"
    return ""


def _descriptor(setting: Setting) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=setting.description)
    if setting.choices:
        descriptor.additional_constraints = "one of: " + ", ".join(setting.choices)
    if setting.limits is not None:
        low, high = setting.limits
        if isinstance(setting.default, float):
            limits = FloatingPointRange(from_value=float(low), to_value=float(high))
            descriptor.floating_point_range.append(limits)
        else:
            limits = IntegerRange(from_value=int(low), to_value=int(high), step=1)
            descriptor.integer_range.append(limits)
    return descriptor
