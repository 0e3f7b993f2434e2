"""Looks closely at what was clicked: prompts resolved in a view of their own.

On the whole panorama a small object is a few tokens, and one near a pole is stretched. SAP
(arXiv 2603.12759) resolves clicks in perspective views; here the view is a crop in local
longitude and latitude about the prompt, of the network's own input size, in which an object has
the shape that the network knows from the panorama's middle.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from panosam2_core.geometry.bfov import BFoV, crop, snap
from panosam2_core.geometry.erp import pixel_to_ray, ray_to_lonlat, rotation
from panosam2_core.model import Decoded, PanoSAM2, PointPrompts
from panosam2_core.step import prompt_points

CLICK_FOV = math.radians(40.0)  # height of the view about clicks
BOX_ENLARGED = 2.0  # height and width of the view about a box, in boxes
LEAST_FOV = math.radians(20.0)
SMALL = math.radians(20.0)  # a larger object is found as well or better on the panorama
PLACES = 16  # of a prompt per pixel of the view
EDGE_STEPS = 9  # points per edge of a box, which is no box in another chart


def look(model: PanoSAM2, frame: Tensor, prompts: PointPrompts) -> tuple[Decoded, BFoV] | None:
    """Segment an object from clicks or a box in a view about them.

    Args:
        model: the network.
        frame: (1, 3, H', W') uint8 RGB panorama.
        prompts: of one object, in pixels of the panorama at the network's input size.

    Returns:
        The mask as decoded in the view, and the view. ``None`` when the panorama is the better
        place: the object is large (see ``benchmarks/prompt_view.py``), or its prompts lie farther
        apart than the view is wide.
    """
    size = (model.input_size[0], model.input_size[1])
    view = _view(prompts, size)
    if view is None:
        return None
    view = snap(view, (frame.shape[-2], frame.shape[-1]))
    placed = into_view(prompts, view, size)
    if placed is None:
        return None
    images = model.normalize(crop(frame, view, size), pano=False)
    features = model.encode_image(images, pano=False)
    decoded = prompt_points(model, features, placed, pano=False)
    mask = decoded.logits[0, 0] > 0
    if not bool(mask.any()) or _extent(mask, view) > SMALL:
        return None
    return decoded, view


def _view(prompts: PointPrompts, size_hw: tuple[int, int]) -> BFoV | None:
    """The region to look at; twice as wide as high, like the network's input."""
    xy, labels = prompts.xy[0].double().cpu(), prompts.labels[0].cpu()
    corners = xy[labels >= 2]
    centre = corners.mean(dim=0) if len(corners) else xy[labels == 1].mean(dim=0)
    lon, lat = (float(angle) for angle in ray_to_lonlat(pixel_to_ray(centre, size_hw)))
    height = CLICK_FOV
    if len(corners):
        lam, phi = _local(_outline(corners), lon, lat, size_hw)
        extent = max(float(lam.max() - lam.min()), float(phi.max() - phi.min()))
        if extent > SMALL:
            return None
        height = max(LEAST_FOV, BOX_ENLARGED * extent)
    return BFoV(lon, lat, 2 * height, height)


def _extent(mask: Tensor, view: BFoV) -> float:
    """The larger of the height and the width of a view's mask, in radians."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    if not len(rows):
        return 0.0
    high = float(rows.max() - rows.min() + 1) / mask.shape[0] * view.fov_v
    wide = float(columns.max() - columns.min() + 1) / mask.shape[1] * view.fov_h
    return max(high, wide)


def into_view(prompts: PointPrompts, view: BFoV, size_hw: tuple[int, int]) -> PointPrompts | None:
    """Find prompts in a view.

    Args:
        prompts: of one object, in pixels of the panorama.
        view: twice as wide as high, of the panorama's size in pixels.
        size_hw: that size.

    Returns:
        The prompts in pixels of the view, a box first; ``None`` when one lies outside.
    """
    xy, labels = prompts.xy[0].double().cpu(), prompts.labels[0].cpu()
    box = labels >= 2
    lam, phi = _local(xy[~box], view.lon, view.lat, size_hw)
    if box.any():  # first, as SAM2 has it
        around_lam, around_phi = _local(_outline(xy[box]), view.lon, view.lat, size_hw)
        lam = torch.cat([torch.stack([around_lam.min(), around_lam.max()]), lam])
        phi = torch.cat([torch.stack([around_phi.max(), around_phi.min()]), phi])
        labels = torch.cat([labels[box], labels[~box]])
    x, y = lam / view.fov_h + 0.5, 0.5 - phi / view.fov_v
    if not bool(((x >= 0) & (x < 1) & (y >= 0) & (y < 1)).all()):
        return None
    # Rounded, so that rolled prompts on a rolled panorama fall onto the same places, of which the
    # last is still inside.
    places = xy.new_tensor([size_hw[1], size_hw[0]]) * PLACES
    placed = (torch.stack([x, y], dim=-1) * places).round().minimum(places - 1) / PLACES
    placed = placed.float()[None]
    return PointPrompts(placed.to(prompts.xy.device), labels[None].to(prompts.xy.device))


def _outline(corners: Tensor) -> Tensor:
    """(N, 2) points along the edges of the box between two corners."""
    (left, top), (right, bottom) = corners.tolist()
    across, down = torch.linspace(left, right, EDGE_STEPS), torch.linspace(top, bottom, EDGE_STEPS)
    u, v = torch.meshgrid(across, down, indexing="xy")
    return torch.stack([u, v], dim=-1).flatten(0, 1).double()


def _local(xy: Tensor, lon: float, lat: float, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Local longitude and latitude about a direction."""
    turn = rotation(lon, lat, dtype=torch.float64)
    return ray_to_lonlat(pixel_to_ray(xy, size_hw) @ turn)
