"""A rosbag2 recording of a camera and of label images as a clip.

The recording is gone through once, for the stamps; frames are read by their place in time
afterwards. A label image belongs to the frame with exactly its stamp, which is how the tracker
node publishes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from panosam2_core.data.clips import ClipFrame, DataError, check_fit
from panosam2_core.media.bag import (
    DAMAGE,
    IMAGE_TYPES,
    decode_image,
    read_message,
    stamp_of,
)
from panosam2_core.media.frames import SourceError
from panosam2_core.media.raw_image import ImageError, to_labels

LABELS_SUFFIX = "label_image"


@dataclass(frozen=True)
class _Entry:
    """Where a frame is: stamp, and when image and labels were recorded, nanoseconds."""

    stamp_ns: int
    image_at: int
    labels_at: int | None


@dataclass(frozen=True)
class BagClip:
    """A recording with a camera topic and a topic of label images; make it with `open_bag_clip`.

    Attributes:
        path: of the recording.
        image_topic: raw or compressed images.
        label_topic: label images.
        entries: of the frames, in the order of their stamps.
    """

    path: Path
    image_topic: str
    label_topic: str
    entries: tuple[_Entry, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """Of the clip."""
        return self.path.stem

    @property
    def annotated(self) -> Sequence[int]:
        """Indices of the frames that have labels, ascending."""
        return [i for i, entry in enumerate(self.entries) if entry.labels_at is not None]

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, indices: Sequence[int]) -> Iterator[ClipFrame]:
        """Read some frames, see :class:`Clip`.

        Args:
            indices: ascending.

        Yields:
            The frames.

        Raises:
            DataError: names the recording, the topic and the stamp.
        """
        try:
            with Reader(self.path) as bag:
                for index in indices:
                    yield self._frame(bag, self.entries[index])
        except (SourceError, *DAMAGE) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.path} cannot be read as a recording: {error}") from error

    def _frame(self, bag: Reader, entry: _Entry) -> ClipFrame:
        topic, seconds = self.image_topic, f"{entry.stamp_ns / 1e9:.9f}"
        try:
            rgb = decode_image(*_message(bag, topic, entry.image_at, entry.stamp_ns))
            if entry.labels_at is None:
                return ClipFrame(rgb, None, seconds)
            topic = self.label_topic
            labels = to_labels(_message(bag, topic, entry.labels_at, entry.stamp_ns)[1])
        except (ImageError, *DAMAGE) as error:
            raise DataError(f"{self.path}, {topic}, stamp {seconds}: {error}") from error
        check_fit(rgb, labels, f"{self.path}, {self.label_topic}, stamp {seconds}")
        return ClipFrame(rgb, labels, seconds)


def open_bag_clip(
    path: Path, image_topic: str | None = None, label_topic: str | None = None
) -> BagClip:
    """Find out what a recording holds.

    Args:
        path: folder of the recording, or its ``.mcap`` or ``.db3`` file.
        image_topic: ``None``: the only topic of images that is not one of label images.
        label_topic: ``None``: the only topic whose name ends in ``label_image``.

    Returns:
        The clip.

    Raises:
        DataError: when it cannot be read, a topic is missing or cannot be chosen, or no label
            image has the stamp of an image.
    """
    try:
        with Reader(path) as bag:
            topics = sorted({c.topic for c in bag.connections if c.msgtype in IMAGE_TYPES})
            if label_topic is None and len(topics) < 2:
                raise DataError(f"{path} {_unlabelled(topics)}")
            labels = _pick(
                path, topics, label_topic, "label images", lambda t: t.endswith(LABELS_SUFFIX)
            )
            images = _pick(
                path, topics, image_topic, "camera images", lambda t: not _derived(t, labels)
            )
            stamps: dict[str, dict[int, int]] = {images: {}, labels: {}}
            for connection, at, raw in bag.messages(_connections(bag, images, labels)):
                stamps[connection.topic][stamp_of(raw)] = at
    except DataError:
        raise
    except DAMAGE as error:
        raise DataError(f"{path} cannot be read as a recording: {error}") from error
    entries = tuple(
        _Entry(stamp, at, stamps[labels].get(stamp))
        for stamp, at in sorted(stamps[images].items())
    )
    if not any(entry.labels_at is not None for entry in entries):
        raise DataError(f"{path}: {_mismatch(images, labels, stamps)}")
    return BagClip(path, images, labels, entries)


def _derived(topic: str, labels: str) -> bool:
    """What the tracker made of the camera: label images, overlays."""
    return topic == labels or topic.endswith((LABELS_SUFFIX, "overlay", "overlay/compressed"))


def _pick(path: Path, topics: Sequence[str], wanted: str | None, what: str, fits: Any) -> str:
    if wanted is not None:
        if wanted not in topics:
            raise DataError(f"{path} has no image topic {wanted}; it has {_list(topics)}")
        return wanted
    found = [topic for topic in topics if fits(topic)]
    if len(found) != 1:
        raise DataError(
            f"{path}: expected one topic of {what}, found {_list(found)} among {_list(topics)}; "
            "name the topics"
        )
    return found[0]


def _unlabelled(topics: Sequence[str]) -> str:
    return (
        f"holds no label images (its image topics: {_list(topics)}). Record ~/label_image of the "
        "tracker with the camera, or make them: python -m panosam2_core.track writes labels/*.png,"
        " python -m panosam2_core.data label puts these and the recording into a new one"
    )


def _list(topics: Sequence[str]) -> str:
    return ", ".join(topics) or "none"


def _mismatch(images: str, labels: str, stamps: dict[str, dict[int, int]]) -> str:
    counts = [f"{len(stamps[t])} on {t}" for t in (images, labels)]
    first = [f"{min(stamps[t]) / 1e9:.9f}" if stamps[t] else "none" for t in (images, labels)]
    return (
        f"no label image has the stamp of an image ({counts[0]}, first {first[0]}; {counts[1]}, "
        f"first {first[1]}); record both while the tracker runs on {images}"
    )


def _connections(bag: Reader, *topics: str) -> list[Connection]:
    return [c for c in bag.connections if c.topic in topics and c.msgtype in IMAGE_TYPES]


def _message(bag: Reader, topic: str, at: int, stamp_ns: int) -> tuple[str, Any]:
    for connection, _, raw in bag.messages(_connections(bag, topic), start=at, stop=at + 1):
        if stamp_of(raw) == stamp_ns:
            return connection.msgtype, read_message(connection.msgtype, raw)
    raise ImageError("the message is no longer there; was the recording changed?")
