"""What is known of every object in every frame, as one JSON file that grows frame by frame."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panosam2_core.results import FrameResult, ObjectResult, ObjectState

Record = dict[str, Any]
_PICTURES = ("mask", "logits")
_END = "\n]\n"


@dataclass(frozen=True)
class Shown:
    """The part of a record's object that is drawn; see `panosam2_core.media.overlay.Shown`.

    Attributes:
        label: the user's name for it.
        state: whether it is seen.
        visibility: 0..1.
        crosses_seam: whether ``box`` runs across the left and right edge.
        box: ``(x, y, width, height)`` in pixels.
        view: ``(lon, lat, width, height)`` in radians; ``None``: the whole frame.
    """

    label: str
    state: ObjectState
    visibility: float
    crosses_seam: bool
    box: tuple[float, ...]
    view: tuple[float, ...] | None


def to_record(result: FrameResult, stamp_ns: int | None) -> Record:
    """Take everything but the pictures from a result.

    Args:
        result: of one frame.
        stamp_ns: when the frame was taken, nanoseconds; ``None``: nobody knows.

    Returns:
        ``{"frame", "stamp_ns", "objects": [...]}``; an object has the fields of
        :class:`ObjectResult`, its state in lower-case letters.
    """
    objects = [_object_record(found) for found in result.objects.values()]
    return {"frame": result.frame_index, "stamp_ns": stamp_ns, "objects": objects}


def to_shown(record: Record) -> Mapping[int, Shown]:
    """Take what is drawn from a record.

    Args:
        record: from :func:`to_record`, perhaps by way of a file.

    Returns:
        The objects by id.
    """
    return {
        found["object_id"]: Shown(
            label=found["label"],
            state=ObjectState[found["state"].upper()],
            visibility=found["visibility"],
            crosses_seam=found["crosses_seam"],
            box=tuple(found["box"]),
            view=None if found["view"] is None else tuple(found["view"]),
        )
        for found in record["objects"]
    }


def read_records(path: Path) -> list[Record]:
    """Read a file that :class:`ScoreFile` wrote, also one whose end is missing.

    Args:
        path: of the file; need not exist.

    Returns:
        The records of frames 0, 1, 2 ... as far as they can be read.
    """
    records: list[Record] = []
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    for line in lines[1:]:
        try:
            record = json.loads(line.rstrip(","))
        except ValueError:
            break
        if not isinstance(record, dict) or record.get("frame") != len(records):
            break
        records.append(record)
    return records


class ScoreFile:
    """A JSON array, one frame per line; a whole file after every frame."""

    def __init__(self, path: Path, records: Sequence[Record]) -> None:
        """Write the records that are there already.

        Args:
            path: of the file; replaced if it exists.
            records: of the frames before the first that is added.
        """
        self._path, self._empty = path, not records
        whole = "[" + ",".join(f"\n{json.dumps(record)}" for record in records) + _END
        part = path.with_suffix(".part")
        part.write_text(whole, "utf-8")
        part.replace(path)

    def add(self, record: Record) -> None:
        """Append a frame.

        Args:
            record: from :func:`to_record`.
        """
        line = ("" if self._empty else ",") + f"\n{json.dumps(record)}" + _END
        with self._path.open("r+b") as file:
            file.seek(-len(_END), os.SEEK_END)
            file.write(line.encode())
        self._empty = False


def _object_record(found: ObjectResult) -> Record:
    names = (field.name for field in dataclasses.fields(found) if field.name not in _PICTURES)
    return {name: _plain(getattr(found, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, ObjectState):
        return value.name.lower()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value
