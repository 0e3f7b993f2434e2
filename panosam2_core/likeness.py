"""Tells by its colours whether what the network has found is the object.

A pointer says little about whose it is: the network gives every object that it believes in nearly
the same one. Colours tell objects apart better. Paper silent; a histogram with the Bhattacharyya
coefficient is the measure of mean-shift tracking (Comaniciu et al., PAMI 2003).
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 6  # per channel
COLOURS = LEVELS**3
ALIKE = 0.8  # likeness of what a search has found
FAMILIAR = 0.7  # likeness of what may become a portrait
PORTRAIT_EVERY = 10  # frames
SETTLING = 10  # frames after the first: what a click shows may be a part that looks otherwise
PORTRAITS = 4  # kept: the first one, and the newest
LIGHTS = tuple(1.12**i for i in (0, -1, 1, -2, 2, -3, 3, -4, 4))  # factors of brightness, 1 first


def colours(pixels: Tensor) -> Tensor:
    """Tell the colours of pixels apart.

    Args:
        pixels: (3, N) RGB in 0..1.

    Returns:
        (N,) long in [0, 216).
    """
    red, green, blue = (pixels.clamp(0, 0.999) * LEVELS).long()
    told_apart: Tensor = (red * LEVELS + green) * LEVELS + blue
    return told_apart


def portrait(pixels: Tensor) -> Tensor | None:
    """Describe an object by its colours.

    Args:
        pixels: (3, N) RGB in 0..1, all of the object.

    Returns:
        (9, 216) square roots of the shares of its colours, as it is and in darker and brighter
        :data:`LIGHTS`; ``None`` without a pixel.
    """
    if not pixels.shape[1]:
        return None
    counts = [torch.bincount(colours(light * pixels), minlength=COLOURS) for light in LIGHTS]
    return (torch.stack(counts) / pixels.shape[1]).sqrt()


def likeness(here: Tensor, known: Tensor) -> float:
    """Compare a portrait with those of an object.

    Args:
        here: (L, 216) from :func:`portrait`, or some of its lights.
        known: (P, 216) likewise in one light each, P at least 1.

    Returns:
        0..1, the largest Bhattacharyya coefficient.
    """
    # No matrix product: under autocast that would be rounded.
    return float((known[:, None] * here).sum(dim=-1).max())


def with_newest(known: Tensor | None, new: Tensor) -> Tensor:
    """Add a portrait to those of an object.

    Args:
        known: (4, 216) from here, the first one ever and then the newest, oldest first.
        new: (9, 216) from :func:`portrait`, to be added as it is.

    Returns:
        (4, 216) likewise; of the full size from the first portrait on, so that the state of a
        tracker does not grow.
    """
    if known is None:
        return new[:1].repeat(PORTRAITS, 1)
    return torch.cat((known[:1], known[2:], new[:1]))
