"""The synthetic 360 world: clips with exact masks, made on the fly, no disk, no download.

Example:
    >>> world = SyntheticWorld(WorldConfig(size_hw=(128, 256), frames=4), split="train")
    >>> clip = world.clip(0)
    >>> clip.frame(0).image.shape
    torch.Size([3, 128, 256])
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from panosam2_core.data.assets import SPLITS, AssetLibrary, Split
from panosam2_core.data.demo import DEMO_PLAN, build_demo_scene, demo_config
from panosam2_core.data.render import Canvas, SceneRenderer, camera_at
from panosam2_core.data.scene import (
    ClipPlan,
    Scene,
    WorldConfig,
    build_scene,
    draw_plan,
)
from panosam2_core.errors import ConfigError

__all__ = [
    "ClipEvents",
    "SyntheticClip",
    "SyntheticFrame",
    "SyntheticWorld",
    "WorldConfig",
    "demo_config",
    "fixed_test_config",
    "fixed_test_split",
    "verify_test_clip",
]

TEST_SPLIT = "splits/synthetic_test_v2.json"
CHECK_SIZE = (256, 512)
CHECK_FRAMES = (0, 30, 59)
"""Resolution and frames at which the stored checks of the test split were taken."""


@dataclass(frozen=True)
class SyntheticFrame:
    """One frame with its truth.

    Attributes:
        image: (3, H, W) uint8 RGB.
        labels: (H, W) uint8; 0 is background, else the id of the front-most object.
        visibility: Visible share in [0, 1] by object id: visible solid angle over that without
            anything in front.
    """

    image: Tensor
    labels: Tensor
    visibility: dict[int, float]


@dataclass(frozen=True)
class ClipEvents:
    """What happens to the target, computed from the scene's geometry.

    Attributes:
        seam_crossings: Frames t at which its centre lies beyond the seam as seen at t - 1.
        full_occlusion: First and last frame of the planned full occlusion, or None.
    """

    seam_crossings: tuple[int, ...]
    full_occlusion: tuple[int, int] | None


class SyntheticClip:
    """One clip; frames are drawn when asked for, in any order.

    Args:
        scene: The plan.
        library: Its assets.
        canvas: Resolution and device to draw at.
    """

    def __init__(self, scene: Scene, library: AssetLibrary, canvas: Canvas) -> None:
        self.scene = scene
        self._renderer = SceneRenderer(scene, library, canvas)

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.scene.frames

    def __iter__(self) -> Iterator[SyntheticFrame]:
        """Yield every frame in order."""
        for t in range(self.scene.frames):
            yield self.frame(t)

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return self.scene.frames

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids of all objects, ascending."""
        return tuple(item.object_id for item in self.scene.objects)

    @property
    def target_id(self) -> int:
        """Id of the object that the events are about; it is visible in frame 0."""
        return self.scene.objects[0].object_id

    @functools.cached_property
    def events(self) -> ClipEvents:
        """Seam crossings and full occlusion of the target."""
        lon = []
        for t in range(self.scene.frames):
            matrix, position = camera_at(self.scene, float(t))
            ray = matrix.T @ (self.scene.objects[0].centre[t] - position)
            lon.append(math.atan2(float(ray[0]), float(ray[2])))
        jumps = np.abs(np.diff(np.array(lon))) > math.pi
        return ClipEvents(
            seam_crossings=tuple(int(t) + 1 for t in np.nonzero(jumps)[0]),
            full_occlusion=self.scene.occlusion,
        )

    def frame(self, t: int) -> SyntheticFrame:
        """Draw frame ``t`` with its truth.

        Raises:
            IndexError: ``t`` is outside the clip.
        """
        self._check(t)
        drawn = self._renderer.render(t)
        if drawn.image is None:
            raise RuntimeError("expected an image from the renderer, got none")
        return SyntheticFrame(drawn.image, drawn.labels, _shares(drawn.visible_sr, drawn.whole_sr))

    def truth(self, t: int) -> tuple[Tensor, dict[int, float]]:
        """Return labels (H, W) uint8 and visibility of frame ``t`` without drawing the image.

        Raises:
            IndexError: ``t`` is outside the clip.
        """
        self._check(t)
        drawn = self._renderer.render(t, want_image=False)
        return drawn.labels, _shares(drawn.visible_sr, drawn.whole_sr)

    def masks(self, t: int) -> Tensor:
        """Return visible masks (N, H, W) bool of frame ``t`` in the order of `object_ids`.

        Raises:
            IndexError: ``t`` is outside the clip.
        """
        labels, _ = self.truth(t)
        ids = torch.tensor(self.object_ids, dtype=torch.uint8, device=labels.device)
        return labels[None] == ids[:, None, None]

    def _check(self, t: int) -> None:
        if not 0 <= t < self.scene.frames:
            raise IndexError(f"expected a frame in [0, {self.scene.frames}), got {t}")


def _shares(visible: dict[int, float], whole: dict[int, float]) -> dict[int, float]:
    """Divide areas; an object without a pixel has share 0."""
    return {k: min(1.0, v / whole[k]) if whole[k] > 0.0 else 0.0 for k, v in visible.items()}


@functools.lru_cache(maxsize=1)
def fixed_test_split() -> dict[str, Any]:
    """Return the fixed test split: version, config, limits; per clip key, flags, checks."""
    text = resources.files("panosam2_core.data").joinpath(TEST_SPLIT).read_text("utf-8")
    body: dict[str, Any] = json.loads(text)
    return body


def fixed_test_config() -> WorldConfig:
    """Return the config under which the fixed test split is defined."""
    stored = dict(fixed_test_split()["config"])
    for name, value in stored.items():
        if isinstance(value, list):
            stored[name] = tuple(value)
    return WorldConfig(**stored)


def _default_config(split: Split) -> WorldConfig:
    """Return the config of a split for which none is given."""
    if split == "test":
        return fixed_test_config()
    return demo_config() if split == "demo" else WorldConfig()


class SyntheticWorld:
    """A source of clips.

    Clip ``i`` of a split depends on the split, ``i`` and the config's scene fields, not on
    resolution or device. Assets and random streams of the splits are disjoint.

    Args:
        config: What the clips contain. None: the defaults, which for ``"test"`` are the ones
            frozen with the fixed test split and for ``"demo"`` those of
            `panosam2_core.data.demo`.
        split: ``"train"``, ``"val"``, ``"test"`` (fixed list of clips) or ``"demo"`` (clip 0 is
            planned by hand, further ones are drawn at random; only ``size_hw`` may be set).
        device: Where to draw.

    Raises:
        ConfigError: The split is unknown, the config is not the demo's, or fetched assets are
            asked for and missing.
    """

    def __init__(
        self,
        config: WorldConfig | None = None,
        split: Split = "train",
        device: torch.device | str = "cpu",
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"expected a split of {SPLITS}, got {split!r}; pick one")
        if config is None:
            config = _default_config(split)
        elif split == "demo" and config != demo_config(config.size_hw):
            raise ConfigError(
                f"expected the demo's own config up to size_hw, got {config}; "
                "pass demo_config(size_hw), or take another split"
            )
        self.config = config
        self.split: Split = split
        self.device = torch.device(device)
        self.library = AssetLibrary(
            config.assets, split, config.p_cached_sprite, config.p_cached_background
        )
        self._canvases: dict[tuple[int, int], Canvas] = {}

    def __len__(self) -> int:
        """Return the number of clips: fixed for ``"test"``, else without practical bound."""
        return len(fixed_test_split()["clips"]) if self.split == "test" else 2**31 - 1

    def plan(self, index: int) -> ClipPlan:
        """Return what clip ``index`` demands.

        Raises:
            IndexError: ``index`` is negative or beyond the fixed test split.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"expected a clip index in [0, {len(self)}), got {index}")
        if self.split == "demo" and index == 0:
            return DEMO_PLAN
        if self.split != "test":
            return draw_plan(self.config, self.split, index)
        entry = fixed_test_split()["clips"][index]
        return ClipPlan(entry["key"], entry["seam"], entry["occlusion"], entry["lookalike"])

    def clip(self, index: int, *, size_hw: tuple[int, int] | None = None) -> SyntheticClip:
        """Return clip ``index``, to be drawn at ``size_hw`` (default: the config's).

        Raises:
            IndexError: ``index`` is negative or beyond the fixed test split.
            ConfigError: ``size_hw`` is not (h, 2h) with h >= 32.
        """
        size = size_hw or self.config.size_hw
        config = dataclasses.replace(self.config, size_hw=size)
        plan = self.plan(index)
        canvas = self._canvases.get(size)
        if canvas is None:
            canvas = self._canvases[size] = Canvas(size, self.device)
        if plan == DEMO_PLAN:
            scene = build_demo_scene(self.library)
        else:
            scene = build_scene(config, plan, self.library)
        return SyntheticClip(scene, self.library, canvas)


def thumbnail(labels: NDArray[np.uint8], rows: int = 16) -> str:
    """Return labels reduced to (rows, 2 * rows) by point samples, one hex digit per cell.

    Point samples survive last-bit differences between CPUs but for single cells, so a checksum
    of them can be compared with a tolerance.
    """
    step = labels.shape[0] // rows
    small = labels[step // 2 :: step, step // 2 :: step]
    return "".join(f"{min(int(v), 15):x}" for v in small.ravel())


def image_check(image: Tensor) -> list[int]:
    """Return the mean colours of 4 x 8 cells of a frame (3, H, W) as 96 integers."""
    cells = torch.nn.functional.adaptive_avg_pool2d(image.float(), (4, 8))
    return [round(float(v)) for v in cells.flatten()]


def verify_test_clip(index: int) -> float:
    """Compare one clip of the fixed test split with its stored checks.

    Returns:
        The largest deviation: share of differing label cells, or the largest difference of a
        mean colour over 255. Up to 0.02 is rounding; more means the world changed, and then the
        split's version must change with it.
    """
    entry = fixed_test_split()["clips"][index]
    clip = SyntheticWorld(split="test").clip(index, size_hw=CHECK_SIZE)
    worst = 0.0
    for t, stored in zip(CHECK_FRAMES, entry["labels"], strict=True):
        now = thumbnail(clip.truth(t)[0].numpy())
        differing = sum(a != b for a, b in zip(now, stored, strict=True))
        worst = max(worst, differing / len(stored))
    colours = image_check(clip.frame(0).image)
    gaps = [abs(a - b) / 255.0 for a, b in zip(colours, entry["image"], strict=True)]
    return float(max(worst, *gaps))
