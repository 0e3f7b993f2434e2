"""A recording and label images, made by `panosam2_core.track` or by hand, joined into one bag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import Reader, StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_typestore

from panosam2_core.data.clips import DataError
from panosam2_core.media.bag import DAMAGE, choose_topic, read_message

LABEL_TOPIC = "/panosam2/label_image"
_ENCODINGS = {"uint8": "mono8", "uint16": "mono16"}


def write_label_bag(
    source: Path, labels: Path, target: Path, topic: str | None = None
) -> tuple[int, int]:
    """Copy a camera's images into a new recording and add label images with the same stamps.

    Args:
        source: recording of the camera.
        labels: folder with ``000000.png`` for its first image, ``000001.png`` for the next and so
            on; the pixel's value is the object's id. Images without a file stay unlabelled.
        target: folder of the new recording (mcap); must not exist.
        topic: of the images; ``None``: the only one.

    Returns:
        Images copied, and how many of them got labels.

    Raises:
        DataError: when something cannot be read, nothing fits, or ``target`` exists.
    """
    if target.exists():
        raise DataError(f"{target} exists already; choose another folder")
    files = {p.stem: p for p in labels.glob("[0-9]" * 6 + ".png")}
    if not files:
        raise DataError(f"{labels} has no label image; expected 000000.png, 000001.png, ...")
    store = get_typestore(Stores.ROS2_JAZZY)
    images = labelled = 0
    try:
        with Reader(source) as bag:
            chosen = choose_topic(source, bag.connections, topic)
            with Writer(target, version=9, storage_plugin=StoragePlugin.MCAP) as out:
                camera = out.add_connection(chosen[0].topic, chosen[0].msgtype, typestore=store)
                marks = out.add_connection(LABEL_TOPIC, "sensor_msgs/msg/Image", typestore=store)
                for connection, at, raw in bag.messages(chosen):
                    out.write(camera, at, raw)
                    file = files.get(f"{images:06d}")
                    images += 1
                    if file is None:
                        continue
                    header = read_message(connection.msgtype, raw).header
                    message = _label_image(store, header, _read(file))
                    out.write(marks, at, store.serialize_cdr(message, "sensor_msgs/msg/Image"))
                    labelled += 1
    except WriterError as error:
        raise DataError(f"{target} cannot be written: {error}") from error
    except DAMAGE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{source}: {error}") from error
    if not labelled:
        raise DataError(
            f"{labels} begins with {min(files)}.png, but {source} has {images} images only"
        )
    return images, labelled


def _read(file: Path) -> npt.NDArray[Any]:
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 2 or image.dtype.name not in _ENCODINGS:
        raise DataError(f"{file} is no label image; expected one value of 8 or 16 bits per pixel")
    return np.ascontiguousarray(image)


def _label_image(store: Any, header: Any, labels: npt.NDArray[Any]) -> Any:
    return store.types["sensor_msgs/msg/Image"](
        header=header,
        height=labels.shape[0],
        width=labels.shape[1],
        encoding=_ENCODINGS[labels.dtype.name],
        is_bigendian=0,
        step=labels.shape[1] * labels.itemsize,
        data=labels.view(np.uint8).reshape(-1),
    )
