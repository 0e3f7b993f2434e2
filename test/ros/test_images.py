from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from panosam2_core.media.raw_image import decompress
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


SMOOTH = np.stack(np.meshgrid(np.arange(16) * 9, np.arange(12) * 11, [60]), -1)[:, :, 0, :].astype(
    np.uint8
)  # (12, 16, 3), its colours change slowly from pixel to pixel


@pytest.mark.parametrize(("encoding", "order"), [("uyvy", 0), ("yuv422", 0), ("yuyv", 1)])
def test_half_colour_comes_back_nearly(encoding: str, order: int) -> None:
    """ITU-R BT.601, written out here."""
    r, g, b = SMOOTH.astype(float).transpose(2, 0, 1)
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    colour = np.stack([(x[:, ::2] + x[:, 1::2]) / 2 for x in (u, v)], -1).reshape(y.shape)
    pixels = np.stack([y, colour] if order else [colour, y], -1).round().astype(np.uint8)
    found = to_rgb(to_image(Header(), pixels, encoding)).astype(int)
    assert np.abs(found - SMOOTH).max() <= 12


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_are_named_by_their_first_row(pattern: str) -> None:
    mosaic = np.zeros(SMOOTH.shape[:2], np.uint8)
    for i, letter in enumerate(pattern):
        row, column = divmod(i, 2)
        mosaic[row::2, column::2] = SMOOTH[row::2, column::2, "rgb".index(letter)]
    found = to_rgb(to_image(Header(), mosaic, f"bayer_{pattern}8")).astype(int)
    assert np.abs(found - SMOOTH)[2:-2, 2:-2].max() <= 12


@pytest.mark.parametrize("big", [False, True])
def test_of_sixteen_bits_the_upper_ones_are_taken(big: bool) -> None:
    wide = (RGB.astype(np.uint16) * 256 + 77).astype(">u2" if big else "<u2")
    for encoding, pixels in (("rgb16", wide), ("bgr16", wide[..., ::-1])):
        msg = to_image(Header(), pixels, encoding)
        msg.is_bigendian = int(big)
        np.testing.assert_array_equal(to_rgb(msg), RGB)
    msg = to_image(Header(), wide[..., 0], "mono16")
    msg.is_bigendian = int(big)
    np.testing.assert_array_equal(to_rgb(msg)[..., 1], RGB[..., 0])


def test_compressed_pictures_come_back_as_they_lie() -> None:
    picture = PIL.Image.fromarray(SMOOTH)
    turned = picture.getexif()
    turned[0x0112] = 6  # "show me turned by 90 degrees"
    for kind, options, tolerance in (
        ("png", {}, 0),
        ("jpeg", {"quality": 98, "subsampling": 0}, 6),
        ("jpeg", {"quality": 98, "subsampling": 0, "exif": turned}, 6),
    ):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        data = np.frombuffer(file.getvalue(), np.uint8)
        found = decompress(data, kind)
        assert np.abs(found.astype(int) - SMOOTH).max() <= tolerance
        with pytest.raises(ImageError, match="16x12 pixels are more than the 100 allowed"):
            decompress(data, kind, max_pixels=100)
        with pytest.raises(ImageError, match="cannot be read"):
            decompress(data[:10], kind)
    with pytest.raises(ImageError, match="0 bytes cannot be read"):
        decompress(np.zeros(0, np.uint8), "jpeg")


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
        (Image(encoding="nv21", width=2, height=2, step=2, data=[0] * 4), "nv21"),
        (Image(encoding="yuyv", width=3, height=2, step=6, data=[0] * 12), "even width"),
        (Image(encoding="rgb16", width=2, height=1, step=6, data=[0] * 6), "need 12 bytes"),
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
