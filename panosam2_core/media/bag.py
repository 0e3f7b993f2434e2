"""Images of a rosbag2 recording, read without ROS."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from panosam2_core.media.frames import (
    DEFAULT_FPS,
    Frame,
    FrameSource,
    Pixels,
    SourceError,
)
from panosam2_core.media.raw_image import ImageError, decompress, to_rgb

_RAW, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = (_RAW, _COMPRESSED)
_FILES = {".mcap", ".db3"}
# These two messages are the same in every ROS 2 distribution, so what a bag says of its types,
# which may be nothing or something unreadable about others, does not matter.
_TYPES = get_typestore(Stores.ROS2_JAZZY)
# The reader checks some of what it reads; the rest of a damaged file shows in these.
DAMAGE = (ReaderError, SerdeError, OSError, ValueError, LookupError, struct.error)


def is_bag(path: Path) -> bool:
    """Tells a recording from other files by its name.

    Args:
        path: A file or folder.

    Returns:
        Whether it is a folder with a ``metadata.yaml``, or a ``.mcap`` or ``.db3`` file.
    """
    if path.is_dir():
        return (path / "metadata.yaml").is_file()
    return path.suffix in _FILES and path.is_file()


def open_bag(path: Path, topic: str | None = None) -> FrameSource:
    """Opens a recording with raw or compressed images.

    Args:
        path: For which `is_bag` is true.
        topic: Of the images; None takes the only one.

    Returns:
        The frames, in the order in which they were recorded.

    Raises:
        SourceError: If it cannot be read, or the topic is not there or cannot be chosen.
    """
    try:
        with Reader(path) as bag:
            chosen = choose_topic(path, bag.connections, topic)
            count = sum(connection.msgcount for connection in chosen)
            seconds = 1e-9 * bag.duration
    except SourceError:
        raise
    except DAMAGE as error:
        raise _unreadable(path, error) from error
    if not count:
        raise SourceError(f"{path} has no message on {chosen[0].topic}")
    fps = (count - 1) / seconds if count > 1 and seconds > 0 else DEFAULT_FPS
    return FrameSource(_messages(path, chosen[0].topic), count, fps)


def read_message(msgtype: str, raw: bytes) -> Any:
    """Deserialises an image message.

    Args:
        msgtype: One of `IMAGE_TYPES`.
        raw: As recorded.

    Returns:
        The message.
    """
    return _TYPES.deserialize_cdr(raw, msgtype)


def decode_image(msgtype: str, msg: Any) -> Pixels:
    """Reads the picture in a message.

    Args:
        msgtype: One of `IMAGE_TYPES`.
        msg: Of this type.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ImageError: If it cannot be read.
    """
    return to_rgb(msg) if msgtype == _RAW else decompress(msg.data, msg.format)


def stamp_of(raw: bytes) -> int:
    """Reads the stamp of a serialised message without the rest of it.

    Args:
        raw: A message that begins with a header, as recorded (CDR).

    Returns:
        Nanoseconds.
    """
    order = "<" if raw[1] & 1 else ">"
    sec, nanosec = struct.unpack_from(f"{order}iI", raw, 4)
    return int(sec) * 10**9 + int(nanosec)


def choose_topic(
    path: Path, all_of_it: Sequence[Connection], topic: str | None
) -> list[Connection]:
    """Finds the images in a recording.

    Args:
        path: Of the recording, for the errors.
        all_of_it: Its connections.
        topic: Of the images; None takes the only one.

    Returns:
        The connections of this topic, at least one.

    Raises:
        SourceError: If there is no such topic, or it cannot be chosen.
    """
    images = [c for c in all_of_it if c.msgtype in IMAGE_TYPES]
    names = sorted({c.topic for c in images})
    if not names:
        others = ", ".join(sorted({c.topic for c in all_of_it})) or "nothing"
        raise SourceError(
            f"{path} holds no sensor_msgs/Image or CompressedImage; it holds {others}"
        )
    if topic is None and len(names) > 1:
        raise SourceError(
            f"{path} holds several image topics: {', '.join(names)}; choose one with --topic"
        )
    wanted = topic or names[0]
    if wanted not in names:
        raise SourceError(f"{path} has no image topic {wanted}; it has {', '.join(names)}")
    return [c for c in images if c.topic == wanted]


def _messages(path: Path, topic: str) -> Iterator[Frame]:
    try:
        with Reader(path) as bag:
            for connection, _, raw in bag.messages(choose_topic(path, bag.connections, topic)):
                rgb = decode_image(connection.msgtype, read_message(connection.msgtype, raw))
                yield Frame(rgb, stamp_of(raw))
    except ImageError as error:
        raise SourceError(f"{path}, {topic}: {error}") from error
    except SourceError:
        raise
    except DAMAGE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> SourceError:
    return SourceError(f"{path} cannot be read as a rosbag2 recording: {error}")
