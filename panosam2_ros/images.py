"""Pixels of sensor_msgs/Image to NumPy and back, honouring encoding and row step."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from panosam2_core.media.raw_image import (
    ImageError,
    Pixels,
    check_image,
    decompress,
    to_labels,
    to_rgb,
)

__all__ = [
    "ImageError",
    "Pixels",
    "check_image",
    "check_input",
    "pixels_of",
    "to_image",
    "to_jpeg",
    "to_labels",
    "to_rgb",
]


def check_input(msg: Image | CompressedImage, max_pixels: int) -> None:
    """Checks what arrives from a camera, as far as it goes without decoding.

    Args:
        msg: The image.
        max_pixels: The largest that is allowed.

    Raises:
        ImageError: If it cannot be read or is too large.
    """
    if isinstance(msg, CompressedImage):
        # A picture of so many pixels has no more bytes than without compression, and a head.
        if not 0 < len(msg.data) <= 3 * max_pixels + 2**16:
            raise ImageError(
                f"a compressed image of {len(msg.data)} bytes; expected some, and no more than "
                f"{max_pixels} pixels have"
            )
        return
    check_image(msg)
    if msg.width * msg.height > max_pixels:
        raise ImageError(
            f"{msg.width}x{msg.height} pixels are more than the {max_pixels} allowed; "
            "see the parameter max_image_megapixels"
        )


def pixels_of(msg: Image | CompressedImage, max_pixels: int | None = None) -> Pixels:
    """Reads a camera image, raw or compressed.

    Args:
        msg: The image.
        max_pixels: Refuse larger compressed ones before they are decoded.

    Returns:
        (height, width, 3) uint8 RGB, of a raw rgb8 image a view.

    Raises:
        ImageError: If it cannot be read.
    """
    if isinstance(msg, CompressedImage):
        return decompress(msg.data, msg.format, max_pixels)
    return to_rgb(msg)


def to_jpeg(header: Header, rgb: Pixels, quality: int) -> CompressedImage:
    """Builds a compressed image message.

    Args:
        header: Copied as it is.
        rgb: (height, width, 3) uint8.
        quality: 1 to 100.

    Returns:
        The message, a JPEG file.
    """
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    msg = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8")
    msg.data.frombytes(data.tobytes())
    return msg


def to_image(header: Header, pixels: npt.NDArray[np.generic], encoding: str) -> Image:
    """Builds an image message.

    Args:
        header: Copied as it is.
        pixels: (height, width) or (height, width, channels), in the layout of `encoding`.
        encoding: A name of sensor_msgs/image_encodings.

    Returns:
        The message. Its bytes are a copy.
    """
    pixels = np.ascontiguousarray(pixels)
    msg = Image(header=header, encoding=encoding)
    msg.height, msg.width = pixels.shape[:2]
    msg.step = pixels.strides[0]
    # frombytes is one memcpy; assigning to msg.data goes through Python objects.
    msg.data.frombytes(memoryview(pixels).cast("B"))
    return msg
