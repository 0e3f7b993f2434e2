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
PORTRAITS = 4  # kept: the first one, and the newest


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
        (216,) square roots of the shares of its colours; ``None`` without a pixel.
    """
    if not pixels.shape[1]:
        return None
    counts = torch.bincount(colours(pixels), minlength=COLOURS)
    return (counts / counts.sum()).sqrt()


def likeness(here: Tensor, known: Tensor) -> float:
    """Compare a portrait with those of an object.

    Args:
        here: (216,) from :func:`portrait`.
        known: (P, 216) likewise, P at least 1.

    Returns:
        0..1, the largest Bhattacharyya coefficient.
    """
    return float((known @ here).max())


def with_newest(known: Tensor | None, new: Tensor) -> Tensor:
    """Add a portrait to those of an object.

    Args:
        known: (4, 216) from here, the first one ever and then the newest, oldest first.
        new: (216,) to be added.

    Returns:
        (4, 216) likewise; of the full size from the first portrait on, so that the state of a
        tracker does not grow.
    """
    if known is None:
        return new.repeat(PORTRAITS, 1)
    return torch.cat((known[:1], known[2:], new[None]))
