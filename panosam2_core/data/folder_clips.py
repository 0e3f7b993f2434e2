"""Clips kept as image files: DAVIS folders, PanoVOS, 360VOTS.

The layouts are those of the datasets' own distributions:

- DAVIS: ``JPEGImages[/RESOLUTION]/CLIP/*.jpg``, ``Annotations[/RESOLUTION]/CLIP/*.png`` with the
  object's id as the pixel's value, ``ImageSets/SPLIT.txt`` with a clip per line.
- PanoVOS: the same within ``train``, ``val`` and ``test``.
- 360VOTS: ``CLIP/image/*.jpg`` and ``CLIP/mask/*.png``, black and white, a file per object where
  there are several (``CLIP_FRAME_OBJECT.png``).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from panosam2_core.data.clips import ClipFrame, DataError, Labels, check_fit

logger = logging.getLogger(__name__)

_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
_OBJECT_FILE = re.compile(r"(?P<frame>\d+)_(?P<object>\d+)")


@dataclass(frozen=True)
class FolderClip:
    """A clip of image files.

    Attributes:
        name: of the clip.
        images: of the frames, in order.
        masks: mask files of the labelled frames: object id -> file, where id 0 stands for a file
            whose pixel values are the ids.
    """

    name: str
    images: tuple[Path, ...]
    masks: Mapping[int, Mapping[int, Path]]

    @property
    def annotated(self) -> Sequence[int]:
        """Indices of the frames that have labels, ascending."""
        return sorted(self.masks)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Sequence[int]) -> Iterator[ClipFrame]:
        """Read some frames, see :class:`Clip`.

        Args:
            indices: ascending.

        Yields:
            The frames.

        Raises:
            DataError: when a file cannot be read or sizes differ.
        """
        for index in indices:
            file = self.images[index]
            bgr = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if bgr is None:
                raise DataError(f"{file} cannot be read as an image; repair or remove it")
            rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
            labels = None
            for object_id, mask_file in sorted(self.masks.get(index, {}).items()):
                values = _read_mask(mask_file)
                check_fit(rgb, values, f"{file} and {mask_file}")
                if object_id:
                    labels = np.zeros_like(values) if labels is None else labels
                    labels[values > 0] = object_id
                else:
                    labels = values
            yield ClipFrame(rgb, labels, file.stem)


def davis_clips(root: Path, split: str | None = None) -> list[FolderClip]:
    """Clips of a DAVIS-style folder.

    Args:
        root: holds ``JPEGImages`` and ``Annotations``.
        split: name of a list in ``ImageSets``, for example ``2017/train``; ``None``: all clips.

    Returns:
        The clips, in the order of their names.

    Raises:
        DataError: when the layout is another one, or a listed clip is missing.
    """
    images, masks = _clips_root(root / "JPEGImages"), _clips_root(root / "Annotations")
    names = sorted(p.name for p in images.iterdir() if p.is_dir())
    if split is not None:
        listed = root / "ImageSets" / f"{split}.txt"
        if not listed.is_file():
            raise DataError(f"{listed} does not exist; expected a list of clips, one per line")
        wanted = listed.read_text(encoding="utf-8").split()
        missing = sorted(set(wanted) - set(names))
        if missing:
            raise DataError(f"{listed} names {missing[0]}, which is not in {images}")
        names = wanted
    return [_indexed_clip(name, images / name, masks / name) for name in names]


def panovos_clips(root: Path, split: str | None = None) -> list[FolderClip]:
    """Clips of PanoVOS.

    Args:
        root: holds ``train``, ``val`` or ``test``.
        split: one of these; ``None``: all that are there.

    Returns:
        The clips. Of ``val`` and ``test`` only first frames are labelled in the distribution.

    Raises:
        DataError: when the split is not there.
    """
    there = [name for name in ("train", "val", "test") if (root / name / "JPEGImages").is_dir()]
    if split is not None and split not in there:
        raise DataError(f"{root} has no split {split!r}; it has {', '.join(there) or 'none'}")
    return [clip for name in ([split] if split else there) for clip in davis_clips(root / name)]


def vots_clips(root: Path, split: str | None = None) -> list[FolderClip]:
    """Clips of 360VOTS' segmentation part.

    Args:
        root: holds a folder per clip, or the splits ``train`` and ``test`` that do.
        split: ``train`` or ``test``; ``None``: ``root`` itself, or all of these that are there.

    Returns:
        The clips, in the order of their names.

    Raises:
        DataError: when there are none, or masks belong to no frame.
    """
    bases = [root / split] if split else [root, root / "train", root / "test"]
    images = [p for base in bases for p in sorted(base.glob("*/image")) if p.is_dir()]
    if not images:
        raise DataError(f"{bases[0]} holds no 360VOTS clips; expected CLIP/image/*.jpg in it")
    return [_binary_clip(image.parent) for image in images]


def _clips_root(folder: Path) -> Path:
    """``folder``, or its only subfolder when that is a resolution (DAVIS' ``480p``)."""
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist; expected JPEGImages/CLIP and Annotations/CLIP")
    inside = [p for p in sorted(folder.iterdir()) if p.is_dir()]
    deeper = [p for p in inside if any(q.is_dir() for q in p.iterdir())]
    if not deeper:
        return folder
    if len(deeper) > 1:
        raise DataError(f"{folder} holds several resolutions: {', '.join(p.name for p in deeper)}")
    return deeper[0]


def _indexed_clip(name: str, images: Path, masks: Path) -> FolderClip:
    files = _image_files(images)
    by_stem = {p.stem: p for p in _listing(masks)} if masks.is_dir() else {}
    found = {i: {0: by_stem[f.stem]} for i, f in enumerate(files) if f.stem in by_stem}
    if by_stem and not found:
        raise DataError(f"{masks}: no mask has the name of an image in {images}")
    return FolderClip(name, files, found)


def _binary_clip(folder: Path) -> FolderClip:
    files = _image_files(folder / "image")
    index_of = {_number(f.stem): i for i, f in enumerate(files)}
    masks: dict[int, dict[int, Path]] = {}
    listing = _listing(folder / "mask") if (folder / "mask").is_dir() else []
    prefix = f"{folder.name}_"
    prefix = prefix if all(file.stem.startswith(prefix) for file in listing) else ""
    for file in listing:
        stem = file.stem.removeprefix(prefix)
        match = _OBJECT_FILE.fullmatch(stem)
        index = index_of.get(_number(match["frame"] if match else stem))
        if index is not None:
            masks.setdefault(index, {})[int(match["object"]) + 1 if match else 1] = file
    lost = len(listing) - sum(len(files) for files in masks.values())
    if masks and lost:
        logger.warning("%s: %d of %d masks belong to no image", folder, lost, len(listing))
    if len(masks) < len(listing) and not masks and len(listing) == len(files):
        # Sequence 052 of the distribution: the masks' names are those of other frames.
        logger.warning("%s: masks have other names than images; matched by order", folder)
        masks = {i: {1: file} for i, file in enumerate(listing)}
    if listing and not masks:
        raise DataError(f"{folder}: no mask has the name of an image")
    return FolderClip(folder.name, files, masks)


def _number(stem: str) -> int | str:
    return int(stem) if stem.isdecimal() else stem


def _image_files(folder: Path) -> tuple[Path, ...]:
    files = tuple(_listing(folder)) if folder.is_dir() else ()
    if not files:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(_IMAGES))})")
    return files


def _listing(folder: Path) -> list[Path]:
    files: Iterable[Path] = folder.iterdir()
    return sorted(p for p in files if p.suffix.lower() in _IMAGES)


def _read_mask(file: Path) -> Labels:
    """Pixel values; a black and white picture has ids 0 and 1."""
    try:
        with Image.open(file) as image:
            if image.mode not in ("P", "L", "1", "I", "I;16"):
                raise DataError(
                    f"{file}: a mask of mode {image.mode}; expected one value per pixel, the id"
                )
            values: npt.NDArray[Any] = np.asarray(image)
    except OSError as error:
        raise DataError(f"{file} cannot be read as a mask: {error}") from error
    labels = values.astype(np.int32)
    if file.suffix.lower() in (".jpg", ".jpeg") and len(np.unique(labels)) > 2:
        raise DataError(f"{file}: JPEG has changed the ids in this mask; convert it to PNG")
    if set(np.unique(labels)) <= {0, 255}:
        labels = np.minimum(labels, 1)
    return labels
