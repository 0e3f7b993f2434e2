"""Command line: ``python -m panosam2_core.data inspect PATH`` or ``... label BAG LABELS OUT``.

inspect shows what a recording or a dataset holds: frames, labels, sizes, how many masks cross the
seam or lie near a pole, and a contact sheet. It reads every file once, so it also finds broken
ones.

label joins a recording and its label images (of ``panosam2_core.track``, or corrected by hand)
into a recording that can be trained on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from panosam2_core.data.datasets import KINDS, open_clips
from panosam2_core.data.label_bag import write_label_bag
from panosam2_core.data.survey import ClipSurvey, contact_sheet, survey
from panosam2_core.errors import PanoSAM2Error


def main(argv: list[str] | None = None) -> int:
    """Inspect a dataset, or make one.

    Args:
        argv: command line without the program; ``None``: the process's.

    Returns:
        Exit code: 0 finished, 1 failed with a message.
    """
    args = _parser().parse_args(argv)
    console = Console(stderr=True)
    try:
        args.run(args, console)
    except (PanoSAM2Error, OSError) as error:
        console.print("[red]error:[/red]", end=" ")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


def _inspect(args: argparse.Namespace, console: Console) -> None:
    clips = open_clips(
        args.path,
        args.kind,
        split=args.split,
        image_topic=args.image_topic,
        label_topic=args.label_topic,
    )
    done: list[str] = []

    def report(row: ClipSurvey) -> None:
        done.append(row.name)
        console.print(f"{len(done)}/{len(clips)} {row.name}: {row.masks} masks")

    rows = survey(clips, args.every, report)
    Console().print(_table(rows))
    if args.sheet:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(contact_sheet(rows)).save(args.sheet)
        console.print(f"wrote {args.sheet}")


def _label(args: argparse.Namespace, console: Console) -> None:
    images, labelled = write_label_bag(args.bag, args.labels, args.out, args.topic)
    console.print(f"wrote {args.out}: {images} images, {labelled} of them labelled")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="panosam2_core.data", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="inspect|label")
    inspect = commands.add_parser("inspect", help="show what is there")
    inspect.add_argument("path", type=Path, help="recording or folder")
    inspect.add_argument("--kind", default="auto", choices=["auto", *KINDS], help="of dataset")
    inspect.add_argument("--split", help="of a dataset that has some: train, val, 2017/train, ...")
    inspect.add_argument("--image-topic", help="of recordings; the only one")
    inspect.add_argument("--label-topic", help="of recordings; the one that ends in label_image")
    inspect.add_argument("--every", type=int, default=1, help="look at every n-th labelled frame")
    inspect.add_argument("--sheet", type=Path, help="write a contact sheet (PNG)")
    inspect.set_defaults(run=_inspect)
    label = commands.add_parser("label", help="join a recording and label images")
    label.add_argument("bag", type=Path, help="recording of a camera")
    label.add_argument("labels", type=Path, help="folder with 000000.png, 000001.png, ...")
    label.add_argument("out", type=Path, help="folder of the new recording")
    label.add_argument("--topic", help="of the images; the only one")
    label.set_defaults(run=_label)
    return parser


def _table(rows: Sequence[ClipSurvey]) -> Table:
    table = Table(
        "clip", "frames", "labelled", "size", "objects", "masks", "seam", "polar", "size°"
    )
    for row in rows:
        table.add_row(row.name, *_cells(row))
    total = ClipSurvey("all", sum(r.frames for r in rows), sum(r.annotated for r in rows), masks=0)
    for row in rows:
        total.masks += row.masks
        total.seam += row.seam
        total.polar += row.polar
        total.sizes += row.sizes
    cells = _cells(total)
    table.add_section()
    table.add_row("all", *cells[:2], "", str(sum(len(r.objects) for r in rows)), *cells[4:])
    return table


def _cells(row: ClipSurvey) -> list[str]:
    def share(part: int) -> str:
        return f"{part / row.masks:.0%}" if row.masks else "-"

    return [
        str(row.frames),
        str(row.annotated),
        f"{row.size[1]}x{row.size[0]}",
        str(len(row.objects)),
        str(row.masks),
        share(row.seam),
        share(row.polar),
        f"{np.median(row.sizes):.0f}" if row.sizes else "-",
    ]


if __name__ == "__main__":
    sys.exit(main())
