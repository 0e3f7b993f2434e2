"""Pixels of sensor_msgs/Image to NumPy and back, honouring encoding and row step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from panosam2_core.media.raw_image import ImageError, Pixels, check_image, to_labels, to_rgb

__all__ = ["ImageError", "Pixels", "check_image", "to_image", "to_labels", "to_rgb"]


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
