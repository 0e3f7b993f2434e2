"""Equirectangular panoramas: pixels, rays, rotations and seam-safe sampling.

Conventions (fixed for the whole project)
    Sizes are ``(height, width)``. Integer pixel ``(u, v)`` covers ``[u, u + 1) x [v, v + 1)``;
    coordinates are *pixel-corner* coordinates, so the centre of pixel ``i`` is ``i + 0.5``.

    Longitude and latitude (radians) of the camera frame, for corner coordinates ``(u, v)``::

        lon = 2 pi (u / W - 1/2)   in [-pi, pi), grows to the RIGHT of the picture
        lat = pi (1/2 - v / H)     in [-pi/2, pi/2], grows UPWARDS

    Camera frame (x right, y DOWN, z forward, the picture's centre)::

        d = (cos lat sin lon, -sin lat, cos lat cos lon)

    Body frame (ROS REP-103: x forward, y LEFT, z up)::

        b = (d_z, -d_x, -d_y) = (cos lat cos lon, -cos lat sin lon, sin lat)

    A bearing is always a unit vector of the body frame. An azimuth derived from it,
    ``atan2(b_y, b_x)``, is therefore LEFT-positive: the negative of ``lon`` above.

Every function works on any device. The convention is the one of 360VOTS and of
``py360convert``; the paper does not state one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def _check_size(size_hw: Size) -> Size:
    """Return ``size_hw`` as two positive ints, or raise ValueError."""
    height, width = int(size_hw[0]), int(size_hw[1])
    if height < 1 or width < 1:
        raise ValueError(
            f"expected a (height, width) of positive integers, got {tuple(size_hw)}; "
            "pass e.g. image.shape[-2:]"
        )
    return height, width


def _check_last(x: Tensor, size: int, name: str) -> None:
    """Raise ValueError unless the last dimension of ``x`` has ``size`` entries."""
    if x.ndim < 1 or x.shape[-1] != size:
        raise ValueError(
            f"expected {name} of shape (..., {size}), got {tuple(x.shape)}; "
            "put the coordinates on the last dimension"
        )


def lonlat_grid(
    size_hw: Size,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Longitudes of the pixel columns and latitudes of the pixel rows.

    Args:
        size_hw: Panorama size ``(H, W)``.
        device: Where to put the result.
        dtype: Floating type of the result.

    Returns:
        ``(lon, lat)`` in radians at the pixel centres: ``lon`` of shape ``(W,)``, rising inside
        (-pi, pi), camera frame (right-positive); ``lat`` of shape ``(H,)``, falling inside
        (pi/2, -pi/2).

    Raises:
        ValueError: A size is below 1.
    """
    height, width = _check_size(size_hw)
    cols = torch.arange(width, device=device, dtype=dtype)
    rows = torch.arange(height, device=device, dtype=dtype)
    lon = (cols + (0.5 - 0.5 * width)) * (2.0 * math.pi / width)
    lat = ((0.5 * height - 0.5) - rows) * (math.pi / height)
    return lon, lat


def lonlat_to_ray(lon: Tensor, lat: Tensor) -> Tensor:
    """Unit rays of the camera frame for longitudes and latitudes.

    Args:
        lon: Longitude in radians, right-positive; any shape that broadcasts with ``lat``.
        lat: Latitude in radians, up-positive.

    Returns:
        ``(..., 3)`` unit vectors (x right, y down, z forward).
    """
    cos_lat = torch.cos(lat)
    x, z = cos_lat * torch.sin(lon), cos_lat * torch.cos(lon)
    return torch.stack((x, (-torch.sin(lat)).expand_as(x), z), dim=-1)


def rays(
    size_hw: Size,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Camera-frame unit rays through the pixel centres of a panorama.

    Args:
        size_hw: Panorama size ``(H, W)``.
        device: Where to put the result.
        dtype: Floating type of the result.

    Returns:
        ``(H, W, 3)`` unit vectors (x right, y down, z forward).

    Raises:
        ValueError: A size is below 1.
    """
    lon, lat = lonlat_grid(size_hw, device, dtype)
    return lonlat_to_ray(lon[None, :], lat[:, None])


def ray_to_lonlat(ray: Tensor) -> tuple[Tensor, Tensor]:
    """Longitude and latitude of camera-frame rays.

    Args:
        ray: ``(..., 3)`` vectors (x right, y down, z forward); their length does not matter.

    Returns:
        ``(lon, lat)`` in radians, each ``(...)``: ``lon`` in [-pi, pi], right-positive; ``lat``
        in [-pi/2, pi/2], up-positive. At a pole and for the zero vector ``lon`` is 0 or pi.

    Raises:
        ValueError: The last dimension is not 3.
    """
    _check_last(ray, 3, "ray")
    x, y, z = ray.unbind(-1)
    return torch.atan2(x, z), torch.atan2(-y, torch.hypot(x, z))


def ray_to_pixel(ray: Tensor, size_hw: Size) -> Tensor:
    """Pixel-corner coordinates of camera-frame rays.

    Args:
        ray: ``(..., 3)`` vectors (x right, y down, z forward); their length does not matter.
        size_hw: Panorama size ``(H, W)``.

    Returns:
        ``(..., 2)`` coordinates ``(u, v)``: ``u`` in [0, W), ``v`` in [0, H]; pixel ``i`` has
        its centre at ``i + 0.5``.

    Raises:
        ValueError: The last dimension is not 3 or a size is below 1.
    """
    height, width = _check_size(size_hw)
    lon, lat = ray_to_lonlat(ray)
    u = lon * (width / (2.0 * math.pi)) + 0.5 * width
    # lon = +pi is the left edge again; rounding may also push u to W.
    u = torch.where(u >= width, u - width, u).clamp_min(0.0)
    v = (0.5 * height - lat * (height / math.pi)).clamp(0.0, float(height))
    return torch.stack((u, v), dim=-1)


def pixel_to_ray(uv: Tensor, size_hw: Size) -> Tensor:
    """Camera-frame unit rays through pixel-corner coordinates; inverse of `ray_to_pixel`.

    Args:
        uv: ``(..., 2)`` floating coordinates ``(u, v)``. ``u`` may leave [0, W): it is periodic.
        size_hw: Panorama size ``(H, W)``.

    Returns:
        ``(..., 3)`` unit vectors (x right, y down, z forward).

    Raises:
        ValueError: The last dimension is not 2 or a size is below 1.
    """
    height, width = _check_size(size_hw)
    _check_last(uv, 2, "uv")
    u, v = uv.unbind(-1)
    lon = (u - 0.5 * width) * (2.0 * math.pi / width)
    lat = (0.5 * height - v) * (math.pi / height)
    return lonlat_to_ray(lon, lat)


def ray_to_bearing(ray: Tensor) -> Tensor:
    """Camera-frame vectors in the body frame.

    Args:
        ray: ``(..., 3)`` vectors (x right, y down, z forward).

    Returns:
        ``(..., 3)`` vectors of the same length (x forward, y left, z up; ROS REP-103).

    Raises:
        ValueError: The last dimension is not 3.
    """
    _check_last(ray, 3, "ray")
    x, y, z = ray.unbind(-1)
    return torch.stack((z, -x, -y), dim=-1)


def bearing_to_ray(bearing: Tensor) -> Tensor:
    """Body-frame vectors in the camera frame; inverse of `ray_to_bearing`.

    Args:
        bearing: ``(..., 3)`` vectors (x forward, y left, z up; ROS REP-103).

    Returns:
        ``(..., 3)`` vectors of the same length (x right, y down, z forward).

    Raises:
        ValueError: The last dimension is not 3.
    """
    _check_last(bearing, 3, "bearing")
    x, y, z = bearing.unbind(-1)
    return torch.stack((-y, -z, x), dim=-1)


def rotation(
    lon0: float,
    lat0: float,
    rho: float = 0.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Rotation that carries the local forward axis to ``(lon0, lat0)``.

    ``R = Ry(lon0) Rx(lat0) Rz(rho)`` on camera-frame column vectors: ``world = R @ local``, i.e.
    ``world_rays = local_rays @ R.T`` for rows. ``R @ (0, 0, 1)`` is the ray of ``(lon0, lat0)``
    for every ``rho``.

    Args:
        lon0: Longitude in radians, right-positive.
        lat0: Latitude in radians, up-positive.
        rho: Roll about the view axis in radians; positive turns the local x axis clockwise on
            the displayed panorama (right and down).
        device: Where to put the result.
        dtype: Floating type of the result.

    Returns:
        ``(3, 3)`` proper rotation matrix.
    """
    cy, sy = math.cos(lon0), math.sin(lon0)
    cx, sx = math.cos(lat0), math.sin(lat0)
    cz, sz = math.cos(rho), math.sin(rho)
    # Multiplied out in double precision on the host: one small copy to the device.
    rows = (
        (cy * cz + sy * sx * sz, -cy * sz + sy * sx * cz, sy * cx),
        (cx * sz, cx * cz, -sx),
        (-sy * cz + cy * sx * sz, sy * sz + cy * sx * cz, cy * cx),
    )
    return torch.tensor(rows, device=device, dtype=dtype)


def turn(rays: Tensor, matrix: Tensor) -> Tensor:
    """Turn vectors.

    Not by a matrix product: under autocast that would be rounded to half precision, which moves
    directions by up to a quarter of a degree.

    Args:
        rays: ``(..., 3)`` vectors.
        matrix: ``(3, 3)``, applied to each of them as a column.

    Returns:
        ``(..., 3)``.
    """
    x, y, z = rays.unbind(-1)
    return torch.stack([x * row[0] + y * row[1] + z * row[2] for row in matrix], dim=-1)


def wrap_pad(x: Tensor, left: int, right: int | None = None) -> Tensor:
    """Pad the last dimension circularly, as the picture continues across the seam.

    Args:
        x: ``(..., W)`` tensor.
        left: Columns to add on the left; they repeat the right end, as often as it takes.
        right: Columns to add on the right; they repeat the left end. None: as ``left``.

    Returns:
        ``(..., left + W + right)`` tensor (paper section 3.1, the wrap padding).

    Raises:
        ValueError: A padding is negative.
    """
    right = left if right is None else right
    width = x.shape[-1]
    if left < 0 or right < 0:
        raise ValueError(f"expected paddings of 0 or more, got left={left}, right={right}")
    if left == 0 and right == 0:
        return x
    turns = left // width + 1 + right // width
    ends = x[..., width - left % width :], x[..., : right % width]
    return torch.cat((ends[0], *[x] * turns, ends[1]), dim=-1)


def roll_yaw(x: Tensor, shift_px: int) -> Tensor:
    """Turn a panorama about the vertical axis by whole pixels.

    Args:
        x: ``(..., W)`` tensor.
        shift_px: Columns to move to the right (negative: to the left); any integer.

    Returns:
        Tensor of the same shape.
    """
    return torch.roll(x, shifts=int(shift_px), dims=-1)


def _beyond_pole(row: Tensor) -> Tensor:
    """The row on the other side of a pole: the same row, half a turn away."""
    width = row.shape[-1]
    across = torch.roll(row, width // 2, dims=-1)
    if width % 2 == 0:
        return across
    # With an odd width half a turn falls between two columns.
    return 0.5 * (across + torch.roll(row, width // 2 + 1, dims=-1))


def pad_sphere(image: Tensor, columns: int = 1) -> Tensor:
    """Pad panoramas by what lies beyond their edges.

    Args:
        image: ``(B, C, H, W)`` of a floating type.
        columns: On each side, at most W.

    Returns:
        ``(B, C, H + 2, W + 2 columns)``: columns from across the seam, a row from beyond each
        pole.
    """
    height, width = image.shape[-2:]
    # Filled in place: concatenating rows and then columns would copy the picture twice.
    out = image.new_empty((*image.shape[:2], height + 2, width + 2 * columns))
    middle = out[..., columns:-columns]
    middle[..., 1:-1, :] = image
    middle[..., :1, :] = _beyond_pole(image[..., :1, :])
    middle[..., -1:, :] = _beyond_pole(image[..., -1:, :])
    out[..., :columns] = middle[..., -columns:]
    out[..., -columns:] = middle[..., :columns]
    return out


def sample_erp(image: Tensor, uv: Tensor, mode: str = "bilinear") -> Tensor:
    """Sample panoramas at pixel-corner coordinates, without a seam and across the poles.

    Args:
        image: ``(B, C, H, W)`` panoramas. Types other than float32 and float64 are sampled in
            float32.
        uv: ``(h, w, 2)`` or ``(B, h, w, 2)`` coordinates ``(u, v)`` as of `ray_to_pixel`;
            ``u`` is periodic, ``v`` is clamped to [0, H].
        mode: ``"bilinear"`` or ``"nearest"``.

    Returns:
        ``(B, C, h, w)`` samples, in the type of ``image`` where that is floating, else float32.

    Raises:
        ValueError: A shape or the mode is not one of these.
    """
    if image.ndim != 4:
        raise ValueError(
            f"expected an image of shape (B, C, H, W), got {tuple(image.shape)}; "
            "add the missing dimensions with image[None]"
        )
    _check_last(uv, 2, "uv")
    if uv.ndim not in (3, 4) or (uv.ndim == 4 and uv.shape[0] not in (1, image.shape[0])):
        raise ValueError(
            f"expected uv of shape (h, w, 2) or ({image.shape[0]}, h, w, 2), "
            f"got {tuple(uv.shape)}; give one grid, or one for each image"
        )
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f'expected mode "bilinear" or "nearest", got "{mode}"')
    batch, height, width = image.shape[0], image.shape[2], image.shape[3]
    exact = image if image.dtype in (torch.float32, torch.float64) else image.float()
    padded = pad_sphere(exact)
    # fp32 at least: half precision misses by whole pixels on a 4K panorama.
    uv = uv.to(exact.dtype)
    grid_x = (torch.remainder(uv[..., 0], width) + 1.0) * (2.0 / (width + 2)) - 1.0
    # A label must not come from the averaged row beyond a pole: "nearest" stays on the picture.
    margin = 0.5 if mode == "nearest" else 0.0
    grid_y = (uv[..., 1].clamp(margin, height - margin) + 1.0) * (2.0 / (height + 2)) - 1.0
    grid = torch.stack((grid_x, grid_y), dim=-1)
    grid = (grid if grid.ndim == 4 else grid[None]).expand(batch, -1, -1, -1)
    out = F.grid_sample(padded, grid, mode=mode, padding_mode="border", align_corners=False)
    return out.to(image.dtype) if image.is_floating_point() else out


def resize_wrap(x: Tensor, size_hw: Size, pano: bool) -> Tensor:
    """Bilinear resize that continues across the seam.

    With ``pano`` the result at the left and right edge blends the two ends of the panorama, so
    that resizing commutes with `roll_yaw` for every integer up- or down-factor (bit for bit
    where the factor is a power of two). Without it this is ``F.interpolate(x, size_hw,
    mode="bilinear", align_corners=False)``, SAM2's own resize.

    Args:
        x: ``(B, C, H, W)`` floating tensor.
        size_hw: Size ``(h, w)`` of the result.
        pano: Whether the left and right edges of ``x`` meet.

    Returns:
        ``(B, C, h, w)`` tensor.

    Raises:
        ValueError: ``x`` has not four dimensions or a size is below 1.
    """
    height, width = _check_size(size_hw)
    if x.ndim != 4:
        raise ValueError(
            f"expected x of shape (B, C, H, W), got {tuple(x.shape)}; "
            "add the missing dimensions with x[None]"
        )
    in_width = x.shape[-1]
    # Going down, every sample lies between two columns of its own cell: the seam is never read.
    if not pano or width <= in_width:
        return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
    # The fewest columns whose enlarged width is whole, so that the sampling phase is kept.
    step = math.gcd(in_width, width)
    pad_in, pad_out = in_width // step, width // step
    wide = F.interpolate(
        wrap_pad(x, pad_in),
        size=(height, width + 2 * pad_out),
        mode="bilinear",
        align_corners=False,
    )
    return wide[..., pad_out : pad_out + width]


def row_solid_angle(
    h: int,
    w: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Solid angle of one pixel of each row.

    Args:
        h: Height of the panorama in pixels.
        w: Width of the panorama in pixels.
        device: Where to put the result.
        dtype: Floating type of the result.

    Returns:
        ``(h,)`` steradians; ``w * result.sum()`` is 4 pi, the whole sphere.

    Raises:
        ValueError: A size is below 1.
    """
    height, width = _check_size((h, w))
    _, lat = lonlat_grid((height, width), device, dtype)
    return torch.cos(lat) * (4.0 * math.pi / width * math.sin(0.5 * math.pi / height))
