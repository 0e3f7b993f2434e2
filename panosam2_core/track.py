"""Command line: ``python -m panosam2_core.track VIDEO --point U,V --out DIR``.

Follows an object from the first frame of VIDEO to the last. VIDEO is a video file, a folder of
images, or a rosbag2 recording (its folder, or a .mcap or .db3 file). DIR gets overlay.mp4,
labels/000000.png ... (a pixel's value is the object's id), scores.json (a list of frames) and
run.json. Ctrl-C ends the run after the current frame; --resume goes on from there, also after a
crash, with the state in resume.pt, to the same results as in one go.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from panosam2_core.allocator import keep_freed_memory, limit_kernels
from panosam2_core.arguments import add_yaw_true, numbers
from panosam2_core.build import PRESETS, load_model
from panosam2_core.config import PROMPT_VIEWS, VIEWS, TrackerConfig
from panosam2_core.errors import PanoSAM2Error, PromptError
from panosam2_core.media.bag import is_bag, open_bag
from panosam2_core.media.frames import FrameSource, SourceError, open_frames
from panosam2_core.offline.folder import RunFolder
from panosam2_core.offline.run import checked, follow
from panosam2_core.prompting import label_image_prompts
from panosam2_core.prompts import Prompt
from panosam2_core.tracker import PanoTracker

EXIT_OK, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130


def main(argv: list[str] | None = None) -> int:
    """Track.

    Args:
        argv: command line without the program; ``None``: the process's.

    Returns:
        Exit code: 0 finished, 1 failed with a message, 130 interrupted.
    """
    args = _parse(argv)
    keep_freed_memory()
    limit_kernels()
    console = Console(stderr=True)
    logging.basicConfig(level="WARNING", handlers=[RichHandler(console=console)])
    signals: list[int] = []
    try:
        with _noting(signals):
            _run(args, console, signals)
    except (PanoSAM2Error, OSError) as error:
        console.print("[red]error:[/red]", end=" ")
        _say(console, str(error))
        return EXIT_FAILED
    except KeyboardInterrupt:
        signals.append(signal.SIGINT)
    if signals:
        console.print("interrupted; the same command with --resume goes on")
        return EXIT_INTERRUPTED
    _say(console, f"done: {args.out / 'overlay.mp4'}")
    return EXIT_OK


def _say(console: Console, text: str) -> None:
    """Prints what may hold brackets and long paths as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="panosam2_core.track",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit code: 0 finished, 1 failed with a message, 2 wrong usage, 130 interrupted.",
    )
    parser.add_argument("video", type=Path, help="video file, folder of images, or rosbag2")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    parser.add_argument("--frames", type=int, default=0, metavar="N", help="stop after N; 0: all")
    parser.add_argument("--topic", help="of a recording's images; default: the only one")
    parser.add_argument("--flat", action="store_true", help="an ordinary camera, not a panorama")
    parser.add_argument(
        "--hfov", type=float, default=360.0, metavar="DEG", help="of a panorama that is not closed"
    )
    parser.add_argument(
        "--vfov", type=float, metavar="DEG", help="of one that does not reach the poles"
    )
    _add_object(parser)
    _add_network(parser)
    args = parser.parse_args(argv)
    marks = bool(args.point or args.not_points or args.box)
    if sum((marks, bool(args.mask), bool(args.labels))) != 1:
        parser.error("give one of: --point (with --not, --box), --box, --mask, --labels")
    if args.frames < 0:
        parser.error(f"--frames must not be negative, got {args.frames}")
    return args


def _add_object(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("the object on the first frame, in pixels")
    point: dict[str, Any] = {"type": numbers(2), "action": "append", "default": []}
    what.add_argument("--point", metavar="U,V", help="is on it; may be repeated", **point)
    what.add_argument("--not", metavar="U,V", dest="not_points", help="is not on it", **point)
    what.add_argument(
        "--box", type=numbers(4), metavar="X0,Y0,X1,Y1", help="X1 < X0 crosses the seam"
    )
    what.add_argument("--mask", type=Path, metavar="FILE", help="grey image, non-zero is on it")
    what.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="several objects: an 8 or 16 bit image whose values are their ids, 0: background",
    )
    what.add_argument("--id", type=int, default=1, help="1 to 65535 (default: %(default)s)")


def _add_network(parser: argparse.ArgumentParser) -> None:
    network = parser.add_argument_group("the network")
    network.add_argument("--variant", default="nano", help="default: %(default)s")
    network.add_argument("--checkpoint", type=Path, metavar="FILE", help="nano has its own")
    network.add_argument("--input-size", metavar="HxW", help=f"or {', '.join(PRESETS)}")
    network.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    network.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    add_yaw_true(network)
    network.add_argument("--long-frames", type=int, default=2, help="N_l of LSMM; 0: off")
    network.add_argument(
        "--view",
        choices=VIEWS,
        default=TrackerConfig.view,
        help="sphere: always the whole panorama; centred: likewise, turned so that objects are "
        "off its edges; local: small objects in crops that follow them; auto: likewise, and "
        "lost ones are searched for everywhere (default: %(default)s)",
    )
    network.add_argument(
        "--prompt-view",
        choices=PROMPT_VIEWS,
        default=TrackerConfig.prompt_view,
        help="where points and boxes are resolved; auto looks closely at small objects",
    )
    gate, text = TrackerConfig.motion_gate_deg, "per frame; 0: off"
    network.add_argument("--motion-gate", type=float, default=gate, metavar="DEG", help=text)
    network.add_argument(
        "--search-looks",
        type=int,
        default=TrackerConfig.search_looks,
        metavar="N",
        help="encodings per frame for all lost objects; more find them sooner (--view auto)",
    )
    network.add_argument(
        "--least-likeness",
        type=float,
        default=TrackerConfig.least_likeness,
        metavar="SHARE",
        help="of an object's colours, under which what is seen is something else; 0: never",
    )


def _run(args: argparse.Namespace, console: Console, signals: list[int]) -> None:
    source = _open(args.video.expanduser(), args.topic)
    prompts = _prompts(args)
    config = TrackerConfig(
        pano=not args.flat,
        hfov_deg=args.hfov,
        vfov_deg=args.vfov,
        long_frames=args.long_frames,
        view=args.view,
        prompt_view=args.prompt_view,
        motion_gate_deg=args.motion_gate,
        search_looks=args.search_looks,
        least_likeness=args.least_likeness,
    )
    model = load_model(
        args.variant,
        checkpoint=args.checkpoint,
        device=args.device,
        input_size=args.input_size,
        precision=args.precision,
        yaw_true=args.yaw_true,
    )
    tracker = PanoTracker(model, config)
    frames = checked(source, tracker, prompts)
    folder = RunFolder(args.out, _settings(args, prompts), resume=args.resume)
    counts = [count for count in (source.count, args.frames) if count]
    columns = (BarColumn(), MofNCompleteColumn(), _Speed(), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as shown:
        task = shown.add_task("tracking", total=min(counts) if counts else None)
        follow(
            tracker,
            itertools.islice(frames, args.frames or None),
            prompts,
            folder,
            fps=source.fps,
            stopped=lambda: bool(signals),
            progress=lambda done: shown.update(task, completed=done),
        )


def _open(path: Path, topic: str | None) -> FrameSource:
    if is_bag(path):
        return open_bag(path, topic)
    if topic is not None:
        raise SourceError(f"--topic is for recordings, and {path} is none")
    return open_frames(path)


def _prompts(args: argparse.Namespace) -> list[Prompt]:
    if args.labels is not None:
        return label_image_prompts(_read_labels(args.labels))
    if args.mask is not None:
        mask = cv2.imread(str(args.mask), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise PromptError("BAD_MASK", f"--mask: cannot read '{args.mask}' as an image")
        return [Prompt(args.id, mask=mask)]
    labels = [1] * len(args.point) + [0] * len(args.not_points)
    return [Prompt(args.id, [*args.point, *args.not_points], labels, args.box)]


def _read_labels(path: Path) -> npt.NDArray[np.integer[Any]]:
    """Values of a label image; OpenCV would give the colours of a palette (DAVIS) instead."""
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except (OSError, ValueError) as error:
        raise PromptError("BAD_MASK", f"--labels: cannot read '{path}' as an image") from error


def _settings(args: argparse.Namespace, prompts: list[Prompt]) -> dict[str, Any]:
    """Everything that the results depend on, as JSON has it."""
    return {
        "video": str(args.video.expanduser().resolve()),
        "topic": args.topic,
        **{
            f"{name} of object {prompt.object_id}": value
            for prompt in prompts
            for name, value in _as_json(prompt).items()
        },
        "pano": not args.flat,
        "hfov_deg": args.hfov,
        "vfov_deg": args.vfov,
        "precision": args.precision,
        "yaw_true": args.yaw_true,
        "variant": args.variant,
        "input_size": args.input_size,
        "checkpoint": str(args.checkpoint.resolve()) if args.checkpoint else None,
        "long_frames": args.long_frames,
        "view": args.view,
        "prompt_view": args.prompt_view,
        "motion_gate_deg": args.motion_gate,
        "search_looks": args.search_looks,
        "least_likeness": args.least_likeness,
    }


def _as_json(prompt: Prompt) -> dict[str, Any]:
    mask = prompt.mask
    return {
        "points": [list(point) for point in prompt.points],
        "point_labels": list(prompt.labels),
        "box": list(prompt.box) if prompt.box else None,
        "mask_sha256": None if mask is None else hashlib.sha256(mask.tobytes()).hexdigest(),
    }


@contextmanager
def _noting(signals: list[int]) -> Iterator[None]:
    """Notes the first Ctrl-C or TERM, for the frame in progress shall be finished.

    A second one ends the program at once.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        restore()


class _Speed(ProgressColumn):
    """Frames per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f} frames/s")


if __name__ == "__main__":
    sys.exit(main())
