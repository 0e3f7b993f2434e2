from __future__ import annotations

import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from panosam2_ros.images import ImageError, check_image, to_image, to_labels, to_rgb

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def test_rgb_is_a_view_of_the_message() -> None:
    msg = to_image(Header(), RGB, "rgb8")
    view = to_rgb(msg)
    np.testing.assert_array_equal(view, RGB)
    msg.data[0] = 99
    assert view[0, 0, 0] == 99


@pytest.mark.parametrize("encoding", ["bgr8", "8UC3"])
def test_channel_order(encoding: str) -> None:
    np.testing.assert_array_equal(to_rgb(to_image(Header(), RGB[..., ::-1], encoding)), RGB)


def test_alpha_is_dropped() -> None:
    alpha = np.full((2, 3, 1), 7, np.uint8)
    rgba = np.concatenate([RGB, alpha], axis=2)
    bgra = np.concatenate([RGB[..., ::-1], alpha], axis=2)
    np.testing.assert_array_equal(to_rgb(to_image(Header(), rgba, "rgba8")), RGB)
    np.testing.assert_array_equal(to_rgb(to_image(Header(), bgra, "bgra8")), RGB)


def test_grey_becomes_three_equal_channels() -> None:
    grey = RGB[..., 0]
    np.testing.assert_array_equal(
        to_rgb(to_image(Header(), grey, "mono8")), np.stack([grey] * 3, axis=2)
    )


def test_padding_at_the_end_of_rows_is_skipped() -> None:
    msg = to_image(Header(), np.pad(RGB, ((0, 0), (0, 2), (0, 0))), "rgb8")
    msg.width = 3
    np.testing.assert_array_equal(to_rgb(msg), RGB)


@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [("mono8", "u1"), ("mono16", "<u2"), ("32SC1", "<i4"), ("mono16", ">u2"), ("32SC1", ">i4")],
)
def test_labels_keep_their_values_in_either_byte_order(encoding: str, dtype: str) -> None:
    labels = np.array([[0, 1, 200], [3, 4, 5]], dtype)
    msg = to_image(Header(), labels, encoding)
    msg.is_bigendian = int(dtype.startswith(">"))
    np.testing.assert_array_equal(to_labels(msg), labels.astype(np.int32))


@pytest.mark.parametrize(
    ("msg", "text"),
    [
        (Image(encoding="bayer_rggb8", width=2, height=2, step=2, data=[0] * 4), "bayer_rggb8"),
        (Image(encoding="rgb8", width=0, height=0), "0x0"),
        (Image(encoding="rgb8", width=2, height=2, step=5, data=[0] * 12), "need 6 bytes"),
        (Image(encoding="rgb8", width=2, height=2, step=6, data=[0] * 11), "got 11"),
    ],
)
def test_what_cannot_be_read_is_named(msg: Image, text: str) -> None:
    with pytest.raises(ImageError, match=text):
        check_image(msg)


def test_the_header_is_kept() -> None:
    header = Header(frame_id="a/b")
    header.stamp.sec, header.stamp.nanosec = 5, 6
    assert to_image(header, RGB, "rgb8").header == header
