"""What is measured: a tracker, or label images that some other program has written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import distance_transform_edt

from panosam2_core.data.clips import ClipFrame, DataError, check_fit
from panosam2_core.geometry.region import measure
from panosam2_core.prompts import Prompt
from panosam2_core.results import ObjectState
from panosam2_core.tracker import PanoTracker

PROMPTS = ("point", "box", "mask")
Mask = npt.NDArray[np.bool_]


class Prediction(NamedTuple):
    """One object on one frame.

    Attributes:
        mask: (H, W).
        visible: whether the object is said to be in sight.
    """

    mask: Mask
    visible: bool


class Predictor(Protocol):
    """Follows objects through a clip."""

    seconds: float
    """Spent so far."""

    def start(self, clip: str) -> None:
        """Begin a clip.

        Args:
            clip: its name.
        """

    def step(self, frame: ClipFrame, new: Mapping[int, Mask]) -> Mapping[int, Prediction]:
        """Take the next frame.

        Args:
            frame: of the clip.
            new: true masks of the objects that are to be followed from this frame on.

        Returns:
            By id, what is predicted of all objects so far.
        """


class TrackerPredictor:
    """Our tracker.

    Args:
        tracker: to be measured.
        kind: of the prompts, one of :data:`PROMPTS`.
    """

    def __init__(self, tracker: PanoTracker, kind: str) -> None:
        self.tracker, self.kind, self.seconds = tracker, kind, 0.0

    def start(self, clip: str) -> None:
        """Begin a clip, see :class:`Predictor`.

        Args:
            clip: its name.
        """
        self.tracker.reset()

    def step(self, frame: ClipFrame, new: Mapping[int, Mask]) -> Mapping[int, Prediction]:
        """Take the next frame, see :class:`Predictor`.

        Args:
            frame: of the clip.
            new: to be prompted.

        Returns:
            Predictions.
        """
        prompts = [
            make_prompt(mask, self.kind, i, pano=self.tracker.config.pano)
            for i, mask in new.items()
        ]
        started = time.perf_counter()
        result = self.tracker.step(frame.rgb, prompts)
        self.seconds += time.perf_counter() - started
        # Every pixel belongs to one object at most, as in the benchmarks.
        labels = result.label_image(np.uint16)
        return {
            i: Prediction(labels == i, found.state is ObjectState.VISIBLE)
            for i, found in result.objects.items()
        }


class FolderPredictor:
    """Label images in ``FOLDER/CLIP/FRAME.png``, the pixel's value being the id.

    Args:
        folder: of the predictions.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.clip, self.seconds = folder, "", 0.0
        self.ids: set[int] = set()

    def start(self, clip: str) -> None:
        """Begin a clip, see :class:`Predictor`.

        Args:
            clip: its name.
        """
        self.clip, self.ids = clip, set()

    def step(self, frame: ClipFrame, new: Mapping[int, Mask]) -> Mapping[int, Prediction]:
        """Take the next frame, see :class:`Predictor`.

        Args:
            frame: of the clip.
            new: objects that count from now on.

        Returns:
            Predictions.

        Raises:
            DataError: when the frame has no label image, or one of another size.
        """
        self.ids |= set(new)
        file = self.folder / self.clip / f"{frame.name}.png"
        try:
            with Image.open(file) as image:
                labels = np.asarray(image).astype(np.int32)
        except OSError as error:
            raise DataError(f"expected the prediction {file}: {error}") from error
        check_fit(frame.rgb, labels, str(file))
        return {i: Prediction(labels == i, bool((labels == i).any())) for i in self.ids}


class ResultWriter:
    """Writes predictions as benchmark servers want them: indexed PNGs in ``FOLDER/CLIP``.

    Args:
        folder: to write into.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.palette = np.random.default_rng(0).integers(0, 256, 768).tolist()
        self.palette[:3] = [0, 0, 0]

    def add(self, clip: str, frame: ClipFrame, found: Mapping[int, Prediction]) -> None:
        """Write a frame.

        Args:
            clip: its name.
            frame: of the clip.
            found: predictions by id.

        Raises:
            DataError: when an id does not fit into the format.
        """
        labels = np.zeros(frame.rgb.shape[:2], np.uint8)
        for object_id, prediction in sorted(found.items()):
            if object_id > 255:
                raise DataError(f"{clip}: object {object_id}; indexed PNGs hold ids up to 255")
            labels[prediction.mask & prediction.visible] = object_id
        file = self.folder / clip / f"{frame.name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(labels)
        image.putpalette(self.palette)
        image.save(file)


def make_prompt(mask: Mask, kind: str, object_id: int, *, pano: bool = True) -> Prompt:
    """Prompt an object as a careful user would.

    Args:
        mask: (H, W) truth on the prompted frame.
        kind: ``point`` (the pixel farthest from the mask's edge), ``box`` or ``mask``.
        object_id: id to give.
        pano: a mask may go on across the seam.

    Returns:
        The prompt.

    Raises:
        ValueError: for another kind or an empty mask.
    """
    region = measure(mask, pano=pano)
    if kind not in PROMPTS or region is None:
        raise ValueError(f"expected a non-empty mask and one of {PROMPTS}, got {kind!r}")
    if kind == "mask":
        return Prompt(object_id, mask=mask)
    if kind == "box":
        x, y, width, height = region.box
        right = x + width if x + width <= mask.shape[1] else x + width - mask.shape[1]
        return Prompt(object_id, box=(x, y, right, y + height))
    # The mask is rolled to the middle first, so that the distance does not end at the seam.
    shift = mask.shape[1] // 2 - (region.box[0] + region.box[2] // 2)
    depth = distance_transform_edt(np.pad(np.roll(mask, shift, axis=1), 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return Prompt(object_id, points=[((column - shift) % mask.shape[1] + 0.5, row + 0.5)])
