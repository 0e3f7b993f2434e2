"""Bounding field of view (BFoV) of a mask, and crops of the sphere and back.

A `BFoV` is a rectangle in the longitude and latitude of a *local* frame whose forward axis points
at ``(lon, lat)``: ``|lambda| <= fov_h / 2`` and ``|phi| <= fov_v / 2`` with ``lambda = atan2(x,
z)``, ``phi = asin(-y)`` of the local ray. 360VOT calls this the *extended* BFoV; it is defined up
to 360 x 180 degrees and, unlike the gnomonic rectangle, never cuts the corners of the mask it was
measured on. The paper uses BFoVs in section 3.3 and leaves their kind open; chosen because
360VOT's own tracking framework works with this kind for every search region.

Frame, signs and pixel coordinates are those of `panosam2_core.geometry.erp`: camera frame,
longitude right-positive, radians, pixel-corner coordinates, sizes ``(height, width)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from panosam2_core.geometry.erp import (
    Size,
    lonlat_grid,
    lonlat_to_ray,
    pad_sphere,
    ray_to_pixel,
    rotation,
    sample_erp,
    turn,
    wrap_pad,
)

_FULL_TURN = 2.0 * math.pi
# Below this length of the mean ray the mask has no direction: a ring, or antipodal parts.
_MIN_MEAN_RAY = 0.1
# Moves of a centre towards the middle of the extents (two or three as a rule, few above six), and
# how near is there, in radians.
_MOST_MOVES, _BALANCED = 40, 3e-4
_MERIDIANS = 24  # to look along where a mask lies on a pole
_PER_PIXEL = 8  # places of a snapped centre
_EXACT = 2**20  # parts of a pixel; less is rounding


@dataclass(frozen=True, slots=True)
class BFoV:
    """A rectangle of local longitude and latitude on the sphere (extended type).

    Attributes:
        lon: Longitude of the centre in radians, camera frame, right-positive.
        lat: Latitude of the centre in radians, up-positive, in [-pi/2, pi/2].
        fov_h: Full width in local longitude, radians, in (0, 2 pi].
        fov_v: Full height in local latitude, radians, in (0, pi].

    Raises:
        ValueError: A number is not finite or out of these ranges.
    """

    lon: float
    lat: float
    fov_h: float
    fov_v: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        numbers = (self.lon, self.lat, self.fov_h, self.fov_v)
        slack = 1e-6
        if not (
            all(math.isfinite(n) for n in numbers)
            and abs(self.lat) <= 0.5 * math.pi + slack
            and 0.0 < self.fov_h <= _FULL_TURN + slack
            and 0.0 < self.fov_v <= math.pi + slack
        ):
            raise ValueError(
                "expected finite radians with |lat| <= pi/2, 0 < fov_h <= 2 pi and "
                f"0 < fov_v <= pi, got lon, lat, fov_h, fov_v = {numbers}; "
                "convert degrees with math.radians and clamp the fields of view"
            )

    @property
    def wraps(self) -> bool:
        """Whether the region goes all the way round, so that its left and right edges meet."""
        return self.fov_h >= _FULL_TURN - 1e-6


def _contour(mask: Tensor) -> Tensor:
    """Foreground pixels with a background neighbour (4-neighbourhood, wrapping sideways)."""
    inside = mask & torch.roll(mask, 1, dims=1) & torch.roll(mask, -1, dims=1)
    inside[1:] &= mask[:-1]
    inside[:-1] &= mask[1:]
    return mask & ~inside


def _foreground(mask: Tensor, max_samples: int) -> tuple[Tensor, Tensor] | None:
    """Rays ``(3, N)`` and solid-angle weights ``(N,)`` that stand for the mask.

    A large mask is thinned to every k-th pixel; its contour then joins with weight zero, so that
    extents stay exact.
    """
    index = mask.reshape(-1).nonzero().squeeze(1)
    count = index.numel()
    if count == 0:
        return None
    outline = index[:0]
    if count > max_samples:
        index = index[:: -(-count // max_samples)]
        outline = _contour(mask).reshape(-1).nonzero().squeeze(1)
    lon, lat = lonlat_grid((mask.shape[0], mask.shape[1]), mask.device)
    points = torch.cat((index, outline))
    row = torch.div(points, mask.shape[1], rounding_mode="floor")
    col = points - row * mask.shape[1]
    cos_lat = torch.cos(lat)[row]
    ray = torch.stack(
        (cos_lat * torch.sin(lon)[col], -torch.sin(lat)[row], cos_lat * torch.cos(lon)[col])
    )
    weight = cos_lat.clone()
    weight[index.numel() :] = 0.0
    return ray, weight


def _interval(x: Tensor, weight: Tensor, trim: float) -> tuple[float, float]:
    """Smallest and largest value, after dropping the share ``trim`` of the weight at each end."""
    if trim <= 0.0:
        low, high = torch.aminmax(x)
        return float(low), float(high)
    order = torch.argsort(x)
    share = torch.cumsum(weight[order].double(), 0)
    limits = share[-1] * torch.tensor([trim, 1.0 - trim], dtype=share.dtype, device=x.device)
    first, last = torch.searchsorted(share, limits).clamp_max(x.numel() - 1).tolist()
    return float(x[order[first]]), float(x[order[last]])


def _extents(
    ray: Tensor, weight: Tensor, lon0: float, lat0: float, trim: float
) -> tuple[float, float, float, float]:
    """Local ``(lambda_min, lambda_max, phi_min, phi_max)`` seen from a centre."""
    x, y, z = turn(ray.T, rotation(lon0, lat0, device=ray.device).T).unbind(-1)
    lam = _interval(torch.atan2(x, z), weight, trim)
    phi = _interval(torch.asin(y.neg_().clamp_(-1.0, 1.0)), weight, trim)
    return (*lam, *phi)


def _shift_centre(lon0: float, lat0: float, lam: float, phi: float) -> tuple[float, float]:
    """Global ``(lon, lat)`` of the local direction ``(lam, phi)`` seen from a centre."""
    x, y, z = math.cos(phi) * math.sin(lam), -math.sin(phi), math.cos(phi) * math.cos(lam)
    c, s = math.cos(lat0), math.sin(lat0)
    y, z = c * y - s * z, s * y + c * z
    lon = math.remainder(lon0 + math.atan2(x, z), _FULL_TURN)
    return (lon if lon < math.pi else -math.pi), math.atan2(-y, math.hypot(x, z))


def _balanced(
    ray: Tensor, weight: Tensor, lon0: float, lat0: float, trim: float
) -> tuple[float, float, float, float]:
    """Centre ``(lon, lat)`` in the middle of the extents, and half of both extents there."""
    best, region, step = math.inf, (lon0, lat0, math.pi, 0.5 * math.pi), 1.0
    before = (0.0, 0.0)
    for _ in range(_MOST_MOVES):
        left, right, low, high = _extents(ray, weight, lon0, lat0, trim)
        off = (0.5 * (left + right), 0.5 * (low + high))
        if math.hypot(*off) < best:
            best = math.hypot(*off)
            # Held by the larger half, the region contains the mask wherever the moves end.
            region = (lon0, lat0, max(-left, right), max(-low, high))
        if best < _BALANCED:
            break
        if off[0] * before[0] + off[1] * before[1] < 0.0:
            step = max(0.1, 0.5 * step)
        lon0, lat0 = _shift_centre(lon0, lat0, step * off[0], step * off[1])
        before = off
    return region


def _on_meridian(
    ray: Tensor, weight: Tensor, lon0: float, lat0: float, trim: float
) -> tuple[float, float, float, float]:
    """Latitude in the middle on a meridian (beyond pi/2 across the pole), and the extents there.

    They are the middle and half of that in longitude, and half of that in latitude.
    """
    left = right = low = high = 0.0
    for _ in range(_MOST_MOVES):
        left, right, low, high = _extents(ray, weight, lon0, lat0, trim)
        off = 0.5 * (low + high)
        if abs(off) < 0.5 * _BALANCED:
            break
        lat0 += off
    return lat0, 0.5 * (left + right), max(-left, right), max(-low, high)


def _about_pole(
    ray: Tensor, weight: Tensor, region: tuple[float, float, float, float], trim: float
) -> tuple[float, float, float, float]:
    """The smallest of the regions that a mask on a pole touches all round, from `_balanced`'s.

    The local frame turns with the longitude of its centre, so there may be several. Along half a
    turn of meridians the middle in longitude changes sign at each, and always at one of them.
    """
    found, step = [], math.pi / _MERIDIANS
    pole = math.copysign(0.5 * math.pi, region[1])
    # The first meridian is half a step from the centre, not to fall onto a change itself.
    lon0 = region[0] + 0.5 * step
    before = _on_meridian(ray, weight, lon0, pole, trim)
    for number in range(1, _MERIDIANS + 1):
        low, high, start = lon0 + (number - 1) * step, lon0 + number * step, before[1]
        after = before = _on_meridian(ray, weight, high, pole, trim)
        middle = high
        if start * after[1] > 0.0:
            continue
        while high - low > 0.1 * _BALANCED and abs(after[1]) > 0.1 * _BALANCED:
            middle = 0.5 * (low + high)
            after = _on_meridian(ray, weight, middle, after[0], trim)
            low, high = (middle, high) if start * after[1] > 0.0 else (low, middle)
        found.append((middle, after[0], *after[2:]))
    # Of a mask that is the same all round, rounding may hide the change.
    smallest = min(found or [region], key=lambda each: each[2] * math.sin(each[3]))
    lon, lat, half_h, half_v = smallest
    lon, lat = _shift_centre(lon, lat, 0.0, 0.0)
    return lon, lat, half_h, half_v


def _ring(ray: Tensor, weight: Tensor, trim: float, pixel_v: float) -> BFoV:
    """BFoV of a mask without a mean direction: all round, level, symmetric about the equator."""
    _, _, low, high = _extents(ray, weight, 0.0, 0.0, trim)
    fov_v = 2.0 * max(abs(low), abs(high)) + pixel_v
    return BFoV(0.0, 0.0, _FULL_TURN, min(fov_v, math.pi))


def fit_bfov(
    mask: Tensor, *, min_pixels: int = 8, trim: float = 0.0, max_samples: int = 20_000
) -> BFoV | None:
    """Measure the BFoV of a mask.

    It is the region that the mask touches on all four sides: seen from its centre, the mask
    reaches as far to the left as to the right and as far up as down. The solid-angle-weighted
    mean ray is the first centre, which then moves to the middle of the extents until it is there.
    360VOT's toolkit stops after two moves, which near a pole can be degrees away from that and
    leave parts of the mask out. Half a pixel is added on each side. A mask whose mean ray is
    short (a ring round the viewer, antipodal parts) gets ``fov_h`` = 360 degrees about the
    horizon.

    Args:
        mask: ``(H, W)`` bool panorama mask.
        min_pixels: Smaller masks have no BFoV (8 as in 360VOT's toolkit).
        trim: Share of the solid angle dropped at each end of both extents, in [0, 0.5). 0 keeps
            every pixel (for labels); 0.005 keeps one false pixel of a prediction from blowing up
            the region.
        max_samples: Larger masks are thinned to about this number of pixels plus their contour.

    Returns:
        The BFoV, or None for a mask of fewer than ``min_pixels`` pixels.

    Raises:
        ValueError: The mask is not ``(H, W)`` bool or an option is out of range.
    """
    if mask.ndim != 2 or mask.dtype != torch.bool:
        raise ValueError(
            f"expected a bool mask of shape (H, W), got {mask.dtype} {tuple(mask.shape)}; "
            "threshold logits with > 0 and pass one object at a time"
        )
    if not 0.0 <= trim < 0.5 or max_samples < 1:
        raise ValueError(
            f"expected 0 <= trim < 0.5 and max_samples >= 1, got {trim} and {max_samples}"
        )
    # Thinning happens inside: test the size of the whole mask first.
    if int(torch.count_nonzero(mask)) < max(min_pixels, 1):
        return None
    sampled = _foreground(mask, max_samples)
    if sampled is None:
        return None
    ray, weight = sampled
    pixel_v, pixel_h = math.pi / mask.shape[0], _FULL_TURN / mask.shape[1]
    x, y, z = (ray * weight).sum(dim=1).tolist()
    if math.sqrt(x * x + y * y + z * z) < _MIN_MEAN_RAY * float(weight.sum()):
        return _ring(ray, weight, trim, pixel_v)
    lon0, lat0 = math.atan2(x, z), math.atan2(-y, math.hypot(x, z))
    region = _balanced(ray, weight, lon0, lat0, trim)
    _, lat0, half_h, half_v = region
    if abs(lat0) + half_v > 0.5 * math.pi:
        if trim == 0.0 and max(half_h, half_v) < 0.5 * math.pi:
            # What does not go round anything reaches farthest with its contour.
            ray, weight = _foreground(_contour(mask), mask.numel()) or sampled
        region = _about_pole(ray, weight, region, trim)
    lon0, lat0, half_h, half_v = region
    fov_h, fov_v = 2.0 * half_h + pixel_h, 2.0 * half_v + pixel_v
    return BFoV(lon0, lat0, min(fov_h, _FULL_TURN), min(fov_v, math.pi))


def enlarge(bfov: BFoV, ratio: float = 2.0, min_h: float = 0.0, min_v: float = 0.0) -> BFoV:
    """Grow a BFoV about its centre into a search region.

    Args:
        bfov: Region to grow.
        ratio: Factor on both fields of view, above 0 (paper silent; 2 as in 360VOT's framework).
        min_h: Least ``fov_h`` of the result, radians.
        min_v: Least ``fov_v`` of the result, radians.

    Returns:
        The larger region, limited to 2 pi by pi.

    Raises:
        ValueError: ``ratio`` is not above 0.
    """
    if not ratio > 0.0:
        raise ValueError(f"expected a ratio above 0, got {ratio}; 2 doubles the region")
    fov_h = min(max(bfov.fov_h * ratio, min_h), _FULL_TURN)
    fov_v = min(max(bfov.fov_v * ratio, min_v), math.pi)
    return BFoV(bfov.lon, bfov.lat, fov_h, fov_v)


def snap(bfov: BFoV, size_hw: Size) -> BFoV:
    """Move a region to the nearest eighth of a pixel, so that rolled panoramas give equal crops.

    The direction of a mask on a rolled panorama differs from the rolled direction by rounding,
    and a network in half precision makes pixels of a mask out of that. Snapped, both regions lie
    whole pixels apart, and `crop` and `uncrop` then compute the same to the last bit.

    Args:
        bfov: Region to move.
        size_hw: Size ``(H, W)`` of the panoramas.

    Returns:
        The region, its centre moved by at most a sixteenth of a pixel in each direction.
    """
    pixel_v, pixel_h = math.pi / size_hw[0] / _PER_PIXEL, _FULL_TURN / size_hw[1] / _PER_PIXEL
    lon = math.remainder(round(bfov.lon / pixel_h) * pixel_h, _FULL_TURN)
    lat = max(-0.5 * math.pi, min(0.5 * math.pi, round(bfov.lat / pixel_v) * pixel_v))
    return replace(bfov, lon=lon, lat=lat)


def _ahead(bfov: BFoV, width: int) -> tuple[int, BFoV]:
    """How many columns to roll a panorama to the left, and the region there: nearly ahead.

    All that follows then sees the same numbers on panoramas that are rolled by whole columns.
    """
    shift = bfov.lon * width / _FULL_TURN
    # No snapped centre lies half-way between two of these columns.
    column = round(shift - 0.5 / _PER_PIXEL)
    rest = round((shift - column) * _EXACT) / _EXACT
    return column, replace(bfov, lon=rest * _FULL_TURN / width)


def crop_grid(
    bfov: BFoV,
    crop_hw: Size,
    erp_hw: Size,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Panorama coordinates of the pixel centres of a crop.

    Args:
        bfov: Region of the crop.
        crop_hw: Size ``(h, w)`` of the crop; its pixels step evenly in local angle.
        erp_hw: Size ``(H, W)`` of the panorama.
        device: Where to put the result.
        dtype: Floating type of the result, at least float32.

    Returns:
        ``(h, w, 2)`` pixel-corner coordinates for `sample_erp`. The whole sphere about (0, 0)
        gives the panorama's own pixel centres.

    Raises:
        ValueError: A size is below 1.
    """
    return ray_to_pixel(_crop_rays(bfov, crop_hw, device, dtype), erp_hw)


def _crop_angles(
    bfov: BFoV, crop_hw: Size, device: torch.device | str | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Local longitudes ``(w,)`` and latitudes ``(h,)`` of the pixel centres of a crop."""
    lam, phi = lonlat_grid(crop_hw, device, dtype)
    return lam * (bfov.fov_h / _FULL_TURN), phi * (bfov.fov_v / math.pi)


def _crop_rays(
    bfov: BFoV, crop_hw: Size, device: torch.device | str | None, dtype: torch.dtype
) -> Tensor:
    """Camera-frame rays ``(h, w, 3)`` of the pixel centres of a crop."""
    lam, phi = _crop_angles(bfov, crop_hw, device, dtype)
    local = lonlat_to_ray(lam[None, :], phi[:, None])
    return turn(local, rotation(bfov.lon, bfov.lat, device=device, dtype=dtype))


def crop(
    image: Tensor, bfov: BFoV, size_hw: Size, mode: str = "bilinear", antialias: bool = True
) -> Tensor:
    """Render a region of panoramas.

    Args:
        image: ``(B, C, H, W)`` panoramas; bool and integer types are sampled in float32.
        bfov: Region to render.
        size_hw: Size ``(h, w)`` of the crop.
        mode: ``"bilinear"`` or ``"nearest"``.
        antialias: Shrink the panorama by area first where a crop pixel is more than 1.5 of its
            pixels wide; only with ``"bilinear"``.

    Returns:
        ``(B, C, h, w)``, in the type of ``image`` where that is floating, else float32.

    Raises:
        ValueError: A shape, size or the mode is wrong.
    """
    if image.ndim != 4:
        raise ValueError(
            f"expected an image of shape (B, C, H, W), got {tuple(image.shape)}; "
            "add the missing dimensions with image[None]"
        )
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f'expected mode "bilinear" or "nearest", got "{mode}"')
    if min(size_hw) < 1:
        raise ValueError(f"expected a crop of at least 1x1 pixels, got {size_hw}")
    height, width = image.shape[-2:]
    cells = (1, 1)
    if antialias and mode == "bilinear":
        coarse_v = bfov.fov_v / size_hw[0] / (math.pi / height)
        coarse_h = bfov.fov_h / size_hw[1] / (_FULL_TURN / width)
        cells = _cell(coarse_v, height), _cell(coarse_h, width)
    column, bfov = _ahead(bfov, width)
    if mode == "nearest":
        image = image.roll(-column, dims=-1) if column else image
        return sample_erp(image, crop_grid(bfov, size_hw, (height, width), image.device), mode)
    exact, corner, cell = _piece(image, column, _cut_window(bfov, (height, width), cells), cells)
    lam, phi = _crop_angles(bfov, size_hw, image.device, exact.dtype)
    # Turning back by the latitude is turning by its negative.
    lon, lat = _local_angles(replace(bfov, lat=-bfov.lat), lam, phi)
    x = lon.mul_(width / _FULL_TURN).add_(width * (bfov.lon / _FULL_TURN + 0.5) - corner[1])
    y = lat.mul_(-height / math.pi).add_(0.5 * height - corner[0])
    grid = torch.stack((x / cell[1], y / cell[0]), dim=-1)
    found = _sample_crop(exact, grid, False, mode)
    return found.to(image.dtype) if image.is_floating_point() else found


def _piece(
    image: Tensor, column: int, window: tuple[int, int, int, int] | None, cells: tuple[int, int]
) -> tuple[Tensor, tuple[float, float], tuple[float, float]]:
    """What is sampled of panoramas that are rolled by ``column`` to the left.

    Returns:
        A window, or all of them and cells beyond each edge, shrunk; (row, column) of its corner
        in the rolled panorama; (height, width) of its cells.
    """
    if window is not None:
        top, bottom, left, right = window
        cut = _columns(image[..., top:bottom, :], left + column, right - left)
        return _exact(_shrink(cut, cells)), (top, left), cells
    small = _exact(_shrink(image.roll(-column, dims=-1) if column else image, cells))
    # Where cells do not fit, they are of another size.
    v, h = image.shape[-2] / small.shape[-2], image.shape[-1] / small.shape[-1]
    # Two columns: the middle of the region may be more than half a pixel off that of the picture.
    across = min(2, small.shape[-1])
    return pad_sphere(small, across), (-v, -across * h), (v, h)


def _exact(image: Tensor) -> Tensor:
    return image if image.dtype in (torch.float32, torch.float64) else image.float()


def _cell(coarseness: float, size: int) -> int:
    """Source pixels to average along one side, for ``coarseness`` of them per sample."""
    return min(round(coarseness), size) if coarseness > 1.5 else 1


def _cut_window(
    bfov: BFoV, size_hw: Size, cells: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """Rows ``[top, bottom)`` and columns ``[left, right)``, in whole cells, to sample a region.

    ``None`` for one that needs more than the picture has: the seam behind the viewer, or a pole.
    """
    (height, width), (v, h) = size_hw, cells
    top, bottom, first, count = _window(bfov, size_hw)
    # A cell on each side is for the neighbours of what lies at the edge.
    top, left = (top // v - 1) * v, (first // h - 1) * h
    bottom, right = (-(-bottom // v) + 1) * v, (-(-(first + count) // h) + 1) * h
    if top < 0 or left < 0 or bottom > height or right > width:
        return None
    return top, bottom, left, right


def _columns(image: Tensor, first: int, count: int) -> Tensor:
    """Columns of a panorama, over the seam where they run into it."""
    width = image.shape[-1]
    first %= width
    if first + count <= width:
        return image[..., first : first + count]
    return torch.cat((image[..., first:], image[..., : first + count - width]), dim=-1)


def _shrink(image: Tensor, cells: tuple[int, int]) -> Tensor:
    """Mean over cells ``(v, h)`` of pixels; where they do not fit, over areas of their size."""
    v, h = cells
    if v == 1 and h == 1:
        return image
    image = image if image.is_floating_point() else image.float()
    height, width = image.shape[-2] // v, image.shape[-1] // h
    if (v * height, h * width) != tuple(image.shape[-2:]):
        return F.interpolate(image, size=(height, width), mode="area")
    # Plain sums are several times faster on the CPU than pooling kernels.
    if v > 1:
        image = image.reshape(*image.shape[:-2], height, v, image.shape[-1]).mean(-2)
    return image.reshape(*image.shape[:-1], width, h).mean(-1) if h > 1 else image


def _local_angles(bfov: BFoV, lon: Tensor, lat: Tensor) -> tuple[Tensor, Tensor]:
    """Local ``(lambda, phi)`` of a grid, from longitudes *relative to the centre* and latitudes.

    Args:
        bfov: Gives the latitude of the local frame.
        lon: ``(w,)`` longitudes minus ``bfov.lon``.
        lat: ``(h,)`` latitudes.

    Returns:
        Two ``(h, w)`` tensors in radians.
    """
    c, s = math.cos(bfov.lat), math.sin(bfov.lat)
    cos_lat, sin_lat = torch.cos(lat)[:, None], torch.sin(lat)[:, None]
    ahead = cos_lat * torch.cos(lon)
    right, forward, up = cos_lat * torch.sin(lon), c * ahead + s * sin_lat, c * sin_lat - s * ahead
    # Not by the arcsine, which loses half of the digits about a pole.
    level = (right.square() + forward.square()).sqrt_()
    return torch.atan2(right, forward), torch.atan2(up, level)


def _crop_coordinates(
    bfov: BFoV, crop_hw: Size, lon: Tensor, lat: Tensor
) -> tuple[Tensor, Tensor]:
    """Corner coordinates ``(h, w, 2)`` in the crop, and which of them lie in the region."""
    return _in_crop(bfov, crop_hw, *_local_angles(bfov, lon, lat))


def _in_crop(bfov: BFoV, crop_hw: Size, lam: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """Corner coordinates of local angles in a crop, and which of them lie in the region."""
    height, width = crop_hw
    u = lam * (width / bfov.fov_h) + 0.5 * width
    v = phi * (-height / bfov.fov_v) + 0.5 * height
    # Rounding must not open a gap at the edges that meet behind the viewer or at a pole.
    slack = 1e-4
    inside = ((u - 0.5 * width).abs() <= 0.5 * width + slack) & (
        (v - 0.5 * height).abs() <= 0.5 * height + slack
    )
    return torch.stack((u, v), dim=-1), inside


def uncrop_grid(
    bfov: BFoV,
    crop_hw: Size,
    erp_hw: Size,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Crop coordinates of every pixel of a panorama; the inverse of `crop_grid`.

    Args:
        bfov: Region of the crop.
        crop_hw: Size ``(h, w)`` of the crop.
        erp_hw: Size ``(H, W)`` of the panorama.
        device: Where to put the result.
        dtype: Floating type of the result, at least float32.

    Returns:
        ``(grid, inside)``: ``(H, W, 2)`` pixel-corner coordinates in the crop and ``(H, W)``
        bool, whether the panorama's pixel lies in the region. Outside, ``grid`` leaves the crop.

    Raises:
        ValueError: A size is below 1.
    """
    lon, lat = lonlat_grid(erp_hw, device, dtype)
    return _crop_coordinates(bfov, crop_hw, lon - bfov.lon, lat)


def latitude_range(bfov: BFoV) -> tuple[float, float]:
    """Least and greatest latitude of a region, in closed form.

    ``sin lat = cos(lat0) sin(phi) + sin(lat0) cos(phi) cos(lambda)`` is extreme at ``lambda = 0``
    on the centre's side of the equator and at the largest ``lambda`` on the other.

    Args:
        bfov: The region.

    Returns:
        ``(lowest, highest)`` in radians, in [-pi/2, pi/2].
    """
    half_h, half_v, lat0 = 0.5 * bfov.fov_h, 0.5 * bfov.fov_v, abs(bfov.lat)
    near = min(lat0 + half_v, 0.5 * math.pi)
    a, b = math.cos(lat0), math.sin(lat0) * math.cos(half_h)
    # a sin(phi) + b cos(phi) is a sine wave: its trough, if inside, is lower than both ends.
    trough = -0.5 * math.pi - math.atan2(b, a)
    if -half_v <= trough <= half_v:
        far = -math.hypot(a, b)
    else:
        ends = (a * math.sin(p) + b * math.cos(p) for p in (-half_v, half_v))
        far = min(ends)
    lowest = math.asin(max(-1.0, min(1.0, far)))
    return (lowest, near) if bfov.lat >= 0.0 else (-near, -lowest)


def longitude_half_range(bfov: BFoV) -> float:
    """Greatest difference in longitude between a region's centre and its points.

    Args:
        bfov: The region.

    Returns:
        Radians in (0, pi]; pi where the region holds a pole or goes all the way round.
    """
    half_h, half_v, lat0 = 0.5 * bfov.fov_h, 0.5 * bfov.fov_v, abs(bfov.lat)
    if lat0 + half_v >= 0.5 * math.pi - 1e-9 or bfov.wraps:
        return math.pi
    # Without a pole inside, longitude grows with lambda and towards the nearer pole: the widest
    # points are the region's two corners on that side.
    ahead = math.cos(lat0) * math.cos(half_h) - math.sin(lat0) * math.tan(half_v)
    return math.atan2(math.sin(half_h), ahead)


def _window(bfov: BFoV, size_hw: Size) -> tuple[int, int, int, int]:
    """Rows ``[top, bottom)``, first column (may be negative) and number of columns to visit."""
    return _pixels(*latitude_range(bfov), bfov.lon, longitude_half_range(bfov), size_hw)


def _pixels(
    low: float, high: float, lon: float, half: float, size_hw: Size
) -> tuple[int, int, int, int]:
    """`_window` of latitudes ``low`` to ``high`` and longitudes within ``half`` of ``lon``."""
    height, width = size_hw
    top = max(0, math.floor((0.5 - high / math.pi) * height) - 1)
    bottom = min(height, math.ceil((0.5 - low / math.pi) * height) + 1)
    centre = lon / _FULL_TURN + 0.5
    first = math.floor((centre - half / _FULL_TURN) * width) - 1
    last = math.ceil((centre + half / _FULL_TURN) * width) + 1
    if last - first >= width:
        return top, bottom, 0, width
    return top, bottom, first, last - first


def _window_above(
    patch: Tensor, above: float, bfov: BFoV, size_hw: Size
) -> tuple[int, int, int, int]:
    """`_window` of the part of a region where a crop is above a value, or a larger one."""
    whole = _window(bfov, size_hw)
    seen = (patch > above).flatten(0, 1).any(dim=0)
    rows, cols = (seen.any(dim=dim).nonzero().squeeze(1).tolist() for dim in (1, 0))
    if not rows:
        return whole[0], whole[0] + 1, whole[2], 1  # any pixel: it is not above either
    height, width = patch.shape[-2:]
    # Bilinear sampling reaches a pixel beyond the centre of each.
    left, right = max(0.0, cols[0] - 0.5), min(width, cols[-1] + 1.5)
    upper, lower = max(0.0, rows[0] - 0.5), min(height, rows[-1] + 1.5)
    lam, side = (0.5 * (left + right) / width - 0.5) * bfov.fov_h, right - left
    phi, rise = (0.5 - 0.5 * (upper + lower) / height) * bfov.fov_v, lower - upper
    side, rise = 0.5 * side / width * bfov.fov_h, 0.5 * rise / height * bfov.fov_v
    # Of a rectangle of longitudes and latitudes a corner is the farthest from its middle, as long
    # as that is less than a right angle away. What is as near as it is a circle.
    near = min(
        math.sin(phi) * math.sin(end) + math.cos(phi) * math.cos(end) * math.cos(side)
        for end in (phi - rise, phi + rise)
    )
    c, s = math.cos(bfov.lat), math.sin(bfov.lat)
    ahead = math.cos(phi) * math.cos(lam)
    lat = math.asin(max(-1.0, min(1.0, c * math.sin(phi) + s * ahead)))
    radius = math.acos(min(1.0, near))
    if bfov.wraps or near <= 0.0 or abs(lat) + radius >= 0.5 * math.pi - 1e-3:
        return whole
    lon = bfov.lon + math.atan2(math.cos(phi) * math.sin(lam), c * ahead - s * math.sin(phi))
    half = math.asin(math.sin(radius) / math.cos(lat))
    part = _pixels(lat - radius, lat + radius, lon, half, size_hw)
    return min(whole, part, key=lambda window: (window[1] - window[0]) * window[3])


def _sample_crop(patch: Tensor, grid: Tensor, wraps: bool, mode: str) -> Tensor:
    """Sample ``(B, C, h, w)`` at ``(m, n, 2)`` corner coordinates, clamped at open edges."""
    height, width = patch.shape[-2:]
    pad = 1 if wraps else 0
    scale = grid.new_tensor((2.0 / (width + 2 * pad), 2.0 / height))
    offset = grid.new_tensor((pad * 2.0 / (width + 2 * pad) - 1.0, -1.0))
    grid = (grid * scale + offset).expand(patch.shape[0], -1, -1, -1)
    return F.grid_sample(
        wrap_pad(patch, pad), grid, mode=mode, padding_mode="border", align_corners=False
    )


def uncrop(
    patch: Tensor,
    bfov: BFoV,
    size_hw: Size,
    fill: float,
    mode: str = "bilinear",
    above: float | None = None,
) -> Tensor:
    """Put crops back on the panorama, by looking up every panorama pixel in the crop.

    Args:
        patch: ``(B, C, h, w)`` crops as of `crop`. Put back logits and threshold afterwards.
            Types other than float32 and float64 are sampled in float32.
        bfov: Region of the crops.
        size_hw: Size ``(H, W)`` of the panoramas.
        fill: Value outside the region, e.g. -10 for logits.
        mode: ``"bilinear"`` or ``"nearest"``.
        above: Only pixels above it are wanted, and it is at least ``fill``: others may get
            ``fill`` instead, which saves looking them up.

    Returns:
        ``(B, C, H, W)``, in the type of ``patch`` where that is floating, else float32.

    Raises:
        ValueError: A shape, size or the mode is wrong.
    """
    if patch.ndim != 4:
        raise ValueError(
            f"expected a patch of shape (B, C, h, w), got {tuple(patch.shape)}; "
            "add the missing dimensions with patch[None]"
        )
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f'expected mode "bilinear" or "nearest", got "{mode}"')
    exact = _exact(patch)
    height, width = size_hw
    _, lat = lonlat_grid(size_hw, patch.device, exact.dtype)
    column, bfov = _ahead(bfov, width)
    if above is None:
        top, bottom, first, count = _window(bfov, size_hw)
    else:
        top, bottom, first, count = _window_above(patch, above, bfov, size_hw)
    cols = torch.arange(count, device=patch.device, dtype=exact.dtype)
    lon = (cols + (first + 0.5 - 0.5 * width)) * (_FULL_TURN / width) - bfov.lon
    grid, inside = _crop_coordinates(
        bfov, (patch.shape[-2], patch.shape[-1]), lon, lat[top:bottom]
    )
    block = _sample_crop(exact, grid, bfov.wraps, mode).masked_fill_(~inside, fill)
    out = exact.new_full((*patch.shape[:2], height, width), fill)
    # The window may run over the seam: at most two pieces.
    start = (first + column) % width
    piece = min(count, width - start)
    out[:, :, top:bottom, start : start + piece] = block[..., :piece]
    out[:, :, top:bottom, : count - piece] = block[..., piece:]
    return out.to(patch.dtype) if patch.is_floating_point() else out


def recrop(patch: Tensor, source: BFoV, target: BFoV, size_hw: Size, fill: float) -> Tensor:
    """Show what one crop holds as another crop would, without the panorama in between.

    Args:
        patch: ``(B, C, h, w)`` floating crops of ``source``.
        source: Region of the crops.
        target: Region to show.
        size_hw: Size ``(h', w')`` of the result.
        fill: Value of what ``source`` does not hold.

    Returns:
        ``(B, C, h', w')``, sampled bilinearly.
    """
    # Where the panorama is cut does not matter to what lies between two of its regions.
    target = replace(target, lon=math.remainder(target.lon - source.lon, _FULL_TURN))
    rays = _crop_rays(target, size_hw, patch.device, patch.dtype)
    back = rotation(0.0, source.lat, device=patch.device, dtype=patch.dtype).T
    x, y, z = turn(rays, back).unbind(-1)
    lam, phi = torch.atan2(x, z), torch.asin((-y).clamp(-1.0, 1.0))
    grid, inside = _in_crop(source, (patch.shape[-2], patch.shape[-1]), lam, phi)
    return _sample_crop(patch, grid, source.wraps, "bilinear").masked_fill_(~inside, fill)
