"""Pixels of a raw ROS image to NumPy, honouring encoding and row step; needs no ROS."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from panosam2_core.errors import PanoSAM2Error

Pixels = npt.NDArray[np.uint8]


class RawImage(Protocol):
    """A ``sensor_msgs/Image`` of whatever library: rclpy's or a bag reader's."""

    @property
    def width(self) -> int:
        """Columns."""

    @property
    def height(self) -> int:
        """Rows."""

    @property
    def encoding(self) -> str:
        """A name of sensor_msgs/image_encodings."""

    @property
    def step(self) -> int:
        """Bytes per row, padding included."""

    @property
    def is_bigendian(self) -> int:
        """Not 0 when values of several bytes begin with the highest."""

    @property
    def data(self) -> Any:
        """The bytes, as anything with the buffer protocol and a length in bytes."""


class ImageError(PanoSAM2Error, ValueError):
    """An image message that cannot be read; the text says what was expected and what came."""


class _Layout(NamedTuple):
    channels: int
    to_rgb: int | None  # the OpenCV conversion, None where the bytes are RGB already


# 8UC3 and 8UC4 are OpenCV's names, and OpenCV means BGR by them.
_LAYOUTS = {
    "rgb8": _Layout(3, None),
    "bgr8": _Layout(3, cv2.COLOR_BGR2RGB),
    "rgba8": _Layout(4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Layout(4, cv2.COLOR_BGRA2RGB),
    "mono8": _Layout(1, cv2.COLOR_GRAY2RGB),
    "8UC1": _Layout(1, cv2.COLOR_GRAY2RGB),
    "8UC3": _Layout(3, cv2.COLOR_BGR2RGB),
    "8UC4": _Layout(4, cv2.COLOR_BGRA2RGB),
}
_LABEL_TYPES = {"mono8": "u1", "8UC1": "u1", "mono16": "u2", "16UC1": "u2", "32SC1": "i4"}


def check_image(msg: RawImage) -> None:
    """Checks that a camera image can be read, without touching its pixels.

    Args:
        msg: The image.

    Raises:
        ImageError: For an unknown encoding, an empty image, a row step that is too small or data
            that end early.
    """
    layout = _LAYOUTS.get(msg.encoding)
    if layout is None:
        raise ImageError(
            f"encoding '{msg.encoding}' is not supported; expected one of {', '.join(_LAYOUTS)}. "
            "Let the driver publish one of these, or convert with image_proc"
        )
    _check_extent(msg, layout.channels)


def to_rgb(msg: RawImage) -> Pixels:
    """Reads a camera image.

    Args:
        msg: The image, 8 bits per channel.

    Returns:
        (height, width, 3) uint8 RGB. For rgb8 this is a view of the message's memory.

    Raises:
        ImageError: As `check_image`.
    """
    check_image(msg)
    layout = _LAYOUTS[msg.encoding]
    pixels = _pixels(msg, np.dtype(np.uint8), layout.channels)
    if layout.to_rgb is None:
        return pixels
    rgb: Pixels = cv2.cvtColor(pixels, layout.to_rgb)
    return rgb


def to_labels(msg: RawImage) -> npt.NDArray[np.int32]:
    """Reads a mask or label image.

    Args:
        msg: mono8, mono16 or 32SC1.

    Returns:
        (height, width) int32 of the values in the image.

    Raises:
        ImageError: For another encoding, an empty image or data that end early.
    """
    kind = _LABEL_TYPES.get(msg.encoding)
    if kind is None:
        raise ImageError(
            f"a mask of encoding '{msg.encoding}' is not supported; expected one of "
            f"{', '.join(_LABEL_TYPES)}"
        )
    dtype = np.dtype(kind).newbyteorder(">" if msg.is_bigendian else "<")
    _check_extent(msg, dtype.itemsize)
    return _pixels(msg, dtype, 1)[..., 0].astype(np.int32)


def _check_extent(msg: RawImage, bytes_per_pixel: int) -> None:
    if not msg.width or not msg.height:
        raise ImageError(f"expected an image with pixels, got {msg.width}x{msg.height}")
    if msg.step < msg.width * bytes_per_pixel:
        raise ImageError(
            f"row step {msg.step} is too small: {msg.width} pixels of {msg.encoding} need "
            f"{msg.width * bytes_per_pixel} bytes"
        )
    expected = msg.step * msg.height
    if len(msg.data) < expected:
        raise ImageError(
            f"data end early: {msg.width}x{msg.height} {msg.encoding} with step {msg.step} needs "
            f"{expected} bytes, got {len(msg.data)}"
        )


def _pixels(msg: RawImage, dtype: np.dtype[np.generic], channels: int) -> npt.NDArray[Any]:
    rows = np.frombuffer(msg.data, np.uint8, count=msg.step * msg.height)
    row_bytes = msg.width * channels * dtype.itemsize
    tight = rows.reshape(msg.height, msg.step)[:, :row_bytes]
    if msg.step != row_bytes:
        tight = np.ascontiguousarray(tight)
    return tight.view(dtype).reshape(msg.height, msg.width, channels)
