"""Pixels of a raw ROS image to NumPy, honouring encoding and row step; needs no ROS."""

from __future__ import annotations

import io
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image

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
    wide: bool = False  # 16 bits per channel, of which the upper eight are shown


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
    "mono16": _Layout(1, cv2.COLOR_GRAY2RGB, wide=True),
    "rgb16": _Layout(3, None, wide=True),
    "bgr16": _Layout(3, cv2.COLOR_BGR2RGB, wide=True),
    # Two bytes per pixel; "yuv422" is ROS' older name of UYVY.
    "uyvy": _Layout(2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": _Layout(2, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": _Layout(2, cv2.COLOR_YUV2RGB_YUY2),
    "yuv422_yuy2": _Layout(2, cv2.COLOR_YUV2RGB_YUY2),
    # ROS names the pattern by the first row, OpenCV by the second row's second and third pixel.
    "bayer_rggb8": _Layout(1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": _Layout(1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": _Layout(1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": _Layout(1, cv2.COLOR_BayerGB2RGB),
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
    if layout.channels == 2 and msg.width % 2:
        raise ImageError(
            f"{msg.encoding} has pairs of columns; expected an even width, got {msg.width}"
        )
    _check_extent(msg, layout.channels * (1 + layout.wide))


def to_rgb(msg: RawImage) -> Pixels:
    """Reads a camera image.

    Args:
        msg: The image. Of 16 bits per channel the upper eight are taken.

    Returns:
        (height, width, 3) uint8 RGB. For rgb8 this is a view of the message's memory.

    Raises:
        ImageError: As `check_image`.
    """
    check_image(msg)
    layout = _LAYOUTS[msg.encoding]
    dtype = np.dtype(np.uint16 if layout.wide else np.uint8)
    pixels = _pixels(msg, dtype.newbyteorder(">" if msg.is_bigendian else "<"), layout.channels)
    if layout.wide:
        pixels = (pixels >> 8).astype(np.uint8)
    if layout.to_rgb is None:
        return pixels
    rgb: Pixels = cv2.cvtColor(pixels, layout.to_rgb)
    return rgb


def decompress(data: Any, kind: str, max_pixels: int | None = None) -> Pixels:
    """Reads a compressed picture, as it lies in a `sensor_msgs/CompressedImage`.

    Args:
        data: The bytes of a JPEG or PNG file, or of what else OpenCV reads.
        kind: What the message says that it is, for the error.
        max_pixels: Refuse larger pictures, before memory is spent on them.

    Returns:
        (height, width, 3) uint8 RGB, as the pixels lie, whatever orientation the file names.

    Raises:
        ImageError: If it cannot be read or is too large.
    """
    encoded = np.asarray(data, np.uint8)
    try:
        # Reads the head of the file only.
        with PIL.Image.open(io.BytesIO(encoded.tobytes())) as head:
            width, height = head.size
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ImageError(
            f"a compressed image of format '{kind}' and {encoded.size} bytes cannot be read"
        ) from error
    if max_pixels is not None and width * height > max_pixels:
        raise ImageError(f"{width}x{height} pixels are more than the {max_pixels} allowed")
    bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:
        raise ImageError(f"a compressed image of format '{kind}' is damaged")
    rgb: Pixels = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
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
