"""`roll` and `sheets` of benchmarks/views.py: views on real footage."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from view_rows import ROWS, VIEW_ROWS, make_tracker

from panosam2_core import PanoTracker, Prompt
from panosam2_core.arguments import numbers
from panosam2_core.media.frames import from_bgr, open_frames
from panosam2_core.media.overlay import draw

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
HEIGHT = 512  # of the frames that are tracked, as high as half their width
TILE_WIDTH, TILES = 720, 8
BAND = 24  # pixels above a picture, for its name


def add_footage(part: argparse.ArgumentParser, work: Callable[[argparse.Namespace], None]) -> None:
    """Say what a command that reads a video takes.

    Args:
        part: its parser.
        work: what it does.
    """
    part.add_argument("video", type=Path, help="video or folder of images, closed panoramas")
    part.add_argument(
        "--box",
        type=numbers(4),
        action="append",
        required=True,
        metavar="X0,Y0,X1,Y1",
        help="in pixels of the video, an object each; X1 < X0 crosses the seam",
    )
    part.add_argument("--frames", type=int, default=40)
    part.add_argument("--skip", type=int, default=0, help="frames before the first")
    views = list(VIEW_ROWS)
    if work is roll:
        part.add_argument("--views", nargs="+", choices=views, default=views)
        part.add_argument(
            "--rolls",
            type=lambda text: [int(value) for value in text.split(",")],
            default=[16, 80, 256],
            metavar="PX,...",
            help="in pixels of the network's input",
        )
    else:
        part.add_argument("--views", nargs="+", choices=ROWS, default=["sphere", "auto"])
        part.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    part.set_defaults(work=work)


def read(args: argparse.Namespace) -> tuple[list[Pixels], list[Box]]:
    """Frames at the size at which they are tracked, and the boxes on them."""
    frames = itertools.islice(open_frames(args.video).frames, args.skip, args.skip + args.frames)
    size = (2 * HEIGHT, HEIGHT)
    boxes: list[Box] = []
    small = []
    for frame in frames:
        if not boxes:
            x, y = size[0] / frame.rgb.shape[1], size[1] / frame.rgb.shape[0]
            boxes = [(b[0] * x, b[1] * y, b[2] * x, b[3] * y) for b in args.box]
        resized = cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA)
        small.append(np.asarray(resized, np.uint8))
    return small, boxes


def roll(args: argparse.Namespace) -> None:
    """Print the IoU of masks of a clip and of the un-rolled masks of the rolled clip."""
    frames, boxes = read(args)
    print(f"{args.video.name}, {len(frames)} frames, IoU with the masks of the clip as it is")
    print("| view | object | roll | mean | least | frames under 0.98 |\n|---|---|---|---|---|---|")
    for view in args.views:
        tracker = make_tracker(view, args.checkpoint)
        step = 2 * HEIGHT // tracker.model.input_size[1]
        plain = [*masks(tracker, frames, boxes, 0)]
        for pixels in args.rolls:
            rolled = [*masks(tracker, frames, boxes, step * pixels)]
            for i in range(len(boxes)):
                found = [iou(a[i], b[i]) for a, b in zip(plain, rolled, strict=True)]
                print(
                    f"| {view} | {i + 1} | {pixels} | {np.mean(found):.3f} | {min(found):.3f} "
                    f"| {sum(value < 0.98 for value in found)} |",
                    flush=True,
                )


def masks(
    tracker: PanoTracker, frames: list[Pixels], boxes: list[Box], columns: int
) -> Iterator[list[npt.NDArray[np.bool_]]]:
    """Masks of a clip that was rolled to the right by columns, rolled back."""
    tracker.reset()
    width = 2 * HEIGHT
    moved = [((b[0] + columns) % width, b[1], (b[2] + columns) % width, b[3]) for b in boxes]
    prompts = [Prompt(i + 1, box=box) for i, box in enumerate(moved)]
    for t, frame in enumerate(frames):
        found = tracker.step(np.roll(frame, columns, axis=1), prompts if t == 0 else [])
        yield [np.roll(found.objects[p.object_id].mask, -columns, axis=1) for p in prompts]


def iou(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """Of two masks; 1 where both are empty."""
    both = int((one | other).sum())
    return int((one & other).sum()) / both if both else 1.0


def sheets(args: argparse.Namespace) -> None:
    """Write a picture: a column per view, a row per frame, masks and views drawn."""
    frames, boxes = read(args)
    shown = np.linspace(0, len(frames) - 1, min(TILES, len(frames))).round().astype(int)
    prompts = [Prompt(i + 1, box=box) for i, box in enumerate(boxes)]
    columns = []
    for view in args.views:
        tracker, tiles = make_tracker(view, args.checkpoint), []
        for t, frame in enumerate(frames):
            found = tracker.step(frame, prompts if t == 0 else [])
            if t in shown:
                labels = found.label_image(np.uint16)
                picture = draw(frame, labels, found.objects, alpha=0.4, max_width=TILE_WIDTH)
                tiles.append(named(picture, f"{view}, frame {args.skip + t}"))
        columns.append(np.vstack(tiles))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), from_bgr(np.hstack(columns)))
    print(f"wrote {args.out}")


def named(picture: Pixels, text: str) -> Pixels:
    """A picture with a name above it."""
    band = np.zeros((BAND, picture.shape[1], 3), np.uint8)
    font, white = cv2.FONT_HERSHEY_SIMPLEX, (255, 255, 255)
    cv2.putText(band, text, (6, BAND - 7), font, 0.5, white, 1, cv2.LINE_AA)
    return np.vstack([band, picture])
