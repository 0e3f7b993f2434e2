"""PanoSAM2: follow any object in a 360-degree stream, with masks that do not know the seam.

Example:
    >>> import numpy as np
    >>> from panosam2_core import PanoTracker, Prompt, load_model
    >>> tracker = PanoTracker(load_model("nano", device="cpu"))
    >>> frame = np.zeros((256, 512, 3), np.uint8)
    >>> frame[100:160, 200:260] = (255, 160, 0)
    >>> result = tracker.step(frame, [Prompt(object_id=1, points=[(230, 130)])])
    >>> result.objects[1].mask.shape
    (256, 512)
"""

from typing import TYPE_CHECKING, Any

from panosam2_core.config import ModelConfig, TrackerConfig
from panosam2_core.errors import (
    CheckpointError,
    ConfigError,
    FrameError,
    PanoSAM2Error,
    PromptError,
    UnknownObjectError,
)
from panosam2_core.prompts import Prompt
from panosam2_core.results import FrameResult, ObjectResult, ObjectState

if TYPE_CHECKING:
    from panosam2_core.build import load_model
    from panosam2_core.tracker import PanoTracker

__all__ = [
    "CheckpointError",
    "ConfigError",
    "FrameError",
    "FrameResult",
    "ModelConfig",
    "ObjectResult",
    "ObjectState",
    "PanoSAM2Error",
    "PanoTracker",
    "Prompt",
    "PromptError",
    "TrackerConfig",
    "UnknownObjectError",
    "load_model",
]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; who only reads pictures or draws does without.
    if name == "PanoTracker":
        from panosam2_core.tracker import PanoTracker

        return PanoTracker
    if name == "load_model":
        from panosam2_core.build import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
