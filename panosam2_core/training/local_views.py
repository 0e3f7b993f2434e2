"""Training clips as the tracker's local views show them: zoomed in, the object near the middle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from panosam2_core.data.clips import DataError
from panosam2_core.geometry.bfov import BFoV, crop
from panosam2_core.geometry.region import measure
from panosam2_core.pursuit import Pursuit, begin, missed, seen
from panosam2_core.training.sources import ATTEMPTS, Drawn, Source, choices

DETAIL = 2  # the panoramas that are zoomed into are this many times as large as the views
AIM = 0.05  # standard deviation of the view's aim, in view heights
ZOOM = (0.8, 1.25)  # range of the view's width, in widths of its rung


class LocalViews:
    """Clips of another source, each as views that follow one of its objects.

    The views are those of :mod:`panosam2_core.pursuit`, which sees the true masks; their aim and
    width are disturbed, since a tracker's masks are not true.

    Args:
        source: of panoramas, larger than the views.
        size: (height, width) of the views.
        seed: of the choices.
    """

    def __init__(self, source: Source, size: tuple[int, int], seed: int) -> None:
        self.source, self.size, self.seed = source, size, seed

    def draw(self, number: int) -> Drawn:
        """Draw a clip, see :class:`panosam2_core.training.sources.Source`.

        Args:
            number: of the clip.

        Returns:
            The clip, with one object.

        Raises:
            DataError: when twenty clips hold no object that a local view is for.
        """
        generator = choices(self.seed, "local views", number)
        for attempt in range(ATTEMPTS):
            drawn = self.source.draw(number * ATTEMPTS + attempt)
            for object_id in generator.permutation(drawn.ids).tolist():
                masks = (drawn.labels == object_id).numpy()
                first = measure(masks[0], pano=True)
                pursuit = begin(first) if first else None
                if pursuit:
                    views = _views(pursuit, masks, generator)
                    images, labels = _look(drawn, object_id, views, self.size)
                    name = f"{drawn.name}, local views of object {object_id}"
                    return Drawn(images, labels, (object_id,), name, drawn.skipped, closed=False)
        raise DataError(
            f"{ATTEMPTS} clips, the last one {drawn.name}, hold no object small enough for a "
            "local view; let them be smaller (world.angular_size_deg), or leave view: local out"
        )


def _views(
    pursuit: Pursuit,
    masks: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    generator: np.random.Generator,
) -> list[BFoV]:
    zoom = float(np.exp(generator.uniform(*np.log(ZOOM))))
    views = []
    for mask in masks:
        views.append(_disturbed(pursuit.view(), zoom, generator))
        found = measure(mask, pano=True)
        # A clip goes on in the last view where a tracker would turn to the panorama.
        pursuit = (seen(pursuit, found) if found else missed(pursuit)) or pursuit
    return views


def _disturbed(view: BFoV, zoom: float, generator: np.random.Generator) -> BFoV:
    up, right = AIM * view.fov_v * generator.standard_normal(2)
    lat = float(np.clip(view.lat + up, -math.pi / 2, math.pi / 2))
    lon = math.remainder(view.lon + right / max(math.cos(lat), 0.1), math.tau)
    return replace(view, lon=lon, lat=lat, fov_h=view.fov_h * zoom, fov_v=view.fov_v * zoom)


def _look(
    drawn: Drawn, object_id: int, views: Sequence[BFoV], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for image, label, view in zip(drawn.images, drawn.labels, views, strict=True):
        share = (label == object_id)[None].float()
        seen_now = crop(torch.cat([image.float(), share])[None], view, size)[0]
        images.append(seen_now[:3].round().clamp(0, 255).to(torch.uint8))
        labels.append((seen_now[3] >= 0.5) * object_id)
    return torch.stack(images), torch.stack(labels)
