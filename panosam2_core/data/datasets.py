"""Finding out what a path holds, and opening it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from panosam2_core.data.bag_clips import open_bag_clip
from panosam2_core.data.clips import Clip, DataError
from panosam2_core.data.folder_clips import davis_clips, panovos_clips, vots_clips
from panosam2_core.media.bag import is_bag

KINDS = ("bag", "folder", "panovos", "360vots")


def open_clips(
    path: Path,
    kind: str = "auto",
    *,
    split: str | None = None,
    image_topic: str | None = None,
    label_topic: str | None = None,
) -> Sequence[Clip]:
    """Open a dataset.

    Args:
        path: a recording or a folder of recordings, a DAVIS-style folder, PanoVOS or 360VOTS.
        kind: one of :data:`KINDS`, or ``auto``: what it looks like.
        split: of a dataset that has some, see :mod:`panosam2_core.data.folder_clips`.
        image_topic: of recordings; ``None``: the only one.
        label_topic: of recordings; ``None``: the only one that ends in ``label_image``.

    Returns:
        Its clips, at least one.

    Raises:
        DataError: when there is nothing there, or not what it should be.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    kind = _kind_of(path) if kind == "auto" else kind
    if kind == "bag":
        return [open_bag_clip(bag, image_topic, label_topic) for bag in _bags(path)]
    openers = {"folder": davis_clips, "panovos": panovos_clips, "360vots": vots_clips}
    if kind not in openers:
        raise DataError(f"unknown kind of dataset {kind!r}; expected auto, {', '.join(KINDS)}")
    clips = openers[kind](path, split)
    if not clips:
        raise DataError(f"{path} holds no clips")
    return clips


def _bags(path: Path) -> list[Path]:
    return [path] if is_bag(path) else sorted(p for p in path.iterdir() if is_bag(p))


def _kind_of(path: Path) -> str:
    if is_bag(path) or (path.is_dir() and _bags(path)):
        return "bag"
    if (path / "JPEGImages").is_dir():
        return "folder"
    if any((path / split / "JPEGImages").is_dir() for split in ("train", "val", "test")):
        return "panovos"
    if any(path.glob("*/image")) or any(path.glob("train/*/image")):
        return "360vots"
    raise DataError(
        f"{path} is none of: a rosbag2 recording or a folder of some; JPEGImages and Annotations "
        "(DAVIS), the same in train, val or test (PanoVOS); CLIP/image and CLIP/mask (360VOTS)"
    )
