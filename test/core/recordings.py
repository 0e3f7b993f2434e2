"""Small recordings and folders of the synthetic world, written as users have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from panosam2_core.data.synthetic import SyntheticWorld, WorldConfig

STORES = get_typestore(Stores.ROS2_JAZZY)
CAMERA, LABELS = "/image_raw", "/panosam2/label_image"
Frames = list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]]


def scene(frames: int = 6, size: tuple[int, int] = (64, 128), index: int = 0) -> Frames:
    """Pictures and labels of a clip with two large objects."""
    config = WorldConfig(
        size_hw=size, frames=frames, objects=(2, 2), angular_size_deg=(40, 60), p_occlusion=0.0
    )
    clip = SyntheticWorld(config, "train").clip(index)
    return [
        (f.image.permute(1, 2, 0).contiguous().numpy(), f.labels.numpy().astype(np.int32))
        for f in clip
    ]


def stamp_ns(t: int) -> int:
    """When frame ``t`` was taken."""
    return 5 * 10**9 + t * 10**8 + 123


def write_bag(
    path: Path,
    frames: Frames,
    *,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    compressed: bool = False,
    labelled: Any = lambda t: True,
    shift_ns: int = 0,
    label_topic: str = LABELS,
) -> None:
    """A recording as the node leaves it: labels a moment after their image, same stamp.

    ``labelled``: which frames have labels; ``None``: there is no topic of labels.
    """
    with Writer(path, version=9, storage_plugin=plugin) as bag:
        kind = "CompressedImage" if compressed else "Image"
        camera = bag.add_connection(CAMERA, f"sensor_msgs/msg/{kind}", typestore=STORES)
        if labelled:
            labels = bag.add_connection(label_topic, "sensor_msgs/msg/Image", typestore=STORES)
        for t, (rgb, ids) in enumerate(frames):
            image = _compressed(rgb, t) if compressed else _raw(rgb, "rgb8", stamp_ns(t))
            bag.write(camera, 10**9 + t * 10**8, _cdr(image))
            if labelled and labelled(t):
                mask = _raw(ids.astype(np.uint8), "mono8", stamp_ns(t) + shift_ns)
                bag.write(labels, 10**9 + t * 10**8 + 3 * 10**7, _cdr(mask))


def write_davis(root: Path, clips: dict[str, Frames], resolution: str = "") -> None:
    """A DAVIS-style folder with indexed PNGs."""
    for name, frames in clips.items():
        images = root / "JPEGImages" / resolution / name
        masks = root / "Annotations" / resolution / name
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for t, (rgb, ids) in enumerate(frames):
            Image.fromarray(rgb).save(images / f"{t:05d}.jpg", quality=97)
            picture = Image.fromarray(ids.astype(np.uint8), mode="P")
            picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
            picture.save(masks / f"{t:05d}.png")


def write_360vots(root: Path, clips: dict[str, Frames]) -> None:
    """360VOTS: black and white masks, a file per object."""
    for name, frames in clips.items():
        images, masks = root / name / "image", root / name / "mask"
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for t, (rgb, ids) in enumerate(frames):
            Image.fromarray(rgb).save(images / f"{t:06d}.jpg", quality=97)
            for object_id in (1, 2):
                mask = ((ids == object_id) * 255).astype(np.uint8)
                Image.fromarray(mask).save(masks / f"{name}_{t:06d}_{object_id - 1}.png")


def _header(stamp: int) -> Any:
    time = STORES.types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
    return STORES.types["std_msgs/msg/Header"](stamp=time, frame_id="camera")


def _raw(pixels: npt.NDArray[np.uint8], encoding: str, stamp: int) -> Any:
    height, width = pixels.shape[:2]
    return STORES.types["sensor_msgs/msg/Image"](
        header=_header(stamp),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=width * (1 if pixels.ndim == 2 else 3),
        data=pixels.reshape(-1),
    )


def _compressed(rgb: npt.NDArray[np.uint8], t: int) -> Any:
    data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1]
    return STORES.types["sensor_msgs/msg/CompressedImage"](
        header=_header(stamp_ns(t)), format="png", data=data.reshape(-1)
    )


def _cdr(msg: Any) -> bytes:
    return bytes(STORES.serialize_cdr(msg, msg.__msgtype__))
