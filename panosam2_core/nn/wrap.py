"""Convolutions on panoramas: circular in yaw, zero-padded towards the poles."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from panosam2_core.geometry.erp import wrap_pad


def wrap_conv(x: Tensor, weight: Tensor, bias: Tensor | None, *, wrap: bool) -> Tensor:
    """Convolve with an odd kernel, circular in the columns, output as large as the input.

    Args:
        x: (B, C, H, W).
        weight: (C', C, k, k), k odd.
        bias: (C',) or ``None``.
        wrap: circular columns; off, zeros.

    Returns:
        (B, C', H, W).
    """
    rows, cols = (size // 2 for size in weight.shape[2:])
    if not wrap:
        return F.conv2d(x, weight, bias, padding=(rows, cols))
    return F.conv2d(pad_edges(x, (rows, rows), (cols, cols), wrap=True), weight, bias)


def pad_edges(x: Tensor, rows: tuple[int, int], cols: tuple[int, int], *, wrap: bool) -> Tensor:
    """Pad rows with zeros, and columns circularly or with zeros.

    Args:
        x: (B, C, H, W).
        rows: added above and below.
        cols: added on the left and on the right, at most ``W``.
        wrap: circular columns.

    Returns:
        (B, C, H + sum(rows), W + sum(cols)), in the memory format of ``x``.
    """
    (top, bottom), (left, right) = rows, cols
    if torch.is_grad_enabled():  # gradients of the writes below would cost a copy each
        return F.pad(wrap_pad(x, left, right) if wrap else F.pad(x, cols), (0, 0, top, bottom))
    batch, channels, height, width = x.shape
    last = x.is_contiguous(memory_format=torch.channels_last)
    out = torch.empty(
        (batch, channels, top + height + bottom, left + width + right),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )
    out[:, :, :top] = 0
    out[:, :, top + height :] = 0
    middle = out[:, :, top : top + height]
    middle[..., left : left + width] = x
    middle[..., :left] = x[..., width - left :] if wrap else 0
    middle[..., left + width :] = x[..., :right] if wrap else 0
    return out


def wrapped(run: Callable[[Tensor], Tensor], x: Tensor, margin: int, stride: int) -> Tensor:
    """Run a zero-padding network as if its input were circular in the columns.

    The input is continued by ``margin`` columns of the other side, and the part of the output
    that saw the artificial edge is cut off. Exact when ``margin`` covers the receptive field;
    this needs no change in the network, so SAM2's own modules stay as they are.

    Args:
        run: network of total stride ``stride`` in the columns.
        x: (B, C, H, W), ``W`` a multiple of ``stride``.
        margin: columns added on each side, a multiple of ``stride``.
        stride: of ``run``.

    Returns:
        (B, C', H', W / stride).
    """
    cut = margin // stride
    return run(wrap_pad(x, margin))[..., cut:-cut]
