"""Geometry of the equirectangular panorama.

Modules:
    erp: pixels, rays, rotations, seam-safe padding, sampling and resizing.
    bfov: bounding field of view of a mask, and crops of the sphere and back.
    region: the measures of a mask that the tracker reports.
"""

from __future__ import annotations
