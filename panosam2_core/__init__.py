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

from panosam2_core.build import load_model
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
