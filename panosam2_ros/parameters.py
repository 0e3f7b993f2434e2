"""The tracker node's parameters: names, defaults, ranges and what they mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)

from panosam2_core import TrackerConfig
from panosam2_core.config import PROMPT_VIEWS

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


_TRACKER = TrackerConfig()
SETTINGS = (
    Setting("autostart", True, "Configure and activate without being asked to."),
    Setting("model.variant", "nano", "Which network. nano brings its weights along."),
    Setting("model.checkpoint", "", "Weight file; empty takes the weights that come along."),
    Setting(
        "model.precision",
        "auto",
        "Arithmetic. auto: bfloat16 on a GPU that has it, float32 elsewhere.",
        None,
        ("auto", "float32", "bfloat16"),
    ),
    Setting("device", "auto", "auto, cpu, cuda or cuda:N."),
    Setting("warmup_frames", 2, "Frames to run before the node is ready.", (0, 50)),
    Setting("max_objects", 8, "Most objects at a time.", (1, 64)),
    Setting("mask_threshold", _TRACKER.mask_threshold, "Logit of a mask's edge.", (-10.0, 10.0)),
    Setting(
        "visibility.occluded_below",
        _TRACKER.occluded_below,
        "Visibility under which an object counts as hidden.",
        (0.0, 1.0),
    ),
    Setting(
        "visibility.lost_after_s",
        2.0,
        "Seconds out of sight after which an object counts as lost.",
        (0.0, 3600.0),
    ),
    Setting(
        "qos.reliability",
        "auto",
        "auto: as the camera.",
        None,
        ("auto", "reliable", "best_effort"),
    ),
    Setting("qos.depth", 1, "Images the middleware keeps.", (1, 10)),
    Setting(
        "prompt.max_ahead_ms",
        1000,
        "How far a prompt's stamp may be ahead of the newest image, in milliseconds.",
        (0, 60000),
    ),
    Setting(
        "prompt.view",
        _TRACKER.prompt_view,
        "Where clicks and boxes are resolved. auto: a close view about small objects.",
        None,
        PROMPT_VIEWS,
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
        "publish.label_encoding",
        "mono8",
        "Encoding of ~/label_image; mono16 allows ids above 254.",
        None,
        ("mono8", "mono16"),
    ),
    Setting("publish.object_masks", False, "Give every object in ~/objects its mask.", live=True),
    Setting("publish.stats", True, "Publish ~/stats.", live=True),
    Setting("overlay.max_width", 1280, "Widest ~/overlay, in pixels.", (64, 7680), live=True),
    Setting("overlay.alpha", 0.5, "Opacity of the masks in ~/overlay.", (0.0, 1.0), live=True),
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
    """Declares all parameters on a node.

    Args:
        node: The node.
    """
    for setting in SETTINGS:
        node.declare_parameter(setting.name, setting.default, _descriptor(setting))


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
        if setting.choices and parameter.value not in setting.choices:
            reason = f"expected one of {', '.join(setting.choices)}, got '{parameter.value}'"
        elif configured and not setting.live:
            reason = "is fixed while the node is configured; deactivate and clean it up first"
        else:
            continue
        return SetParametersResult(successful=False, reason=f"{parameter.name}: {reason}")
    return SetParametersResult(successful=True)


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
