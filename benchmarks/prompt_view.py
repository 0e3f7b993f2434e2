"""What a look at a view of its own gives a prompt: IoU of the first mask, `nano`.

    python benchmarks/prompt_view.py --clips 20 --json out/prompt_view.json

Every object of the first frames of the synthetic val split that can be seen there, after one
click at its most inner pixel, and after its box. Needs the assets of scripts/fetch_assets.py.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from rich.progress import track

from panosam2_core import PanoTracker, TrackerConfig, load_model
from panosam2_core.data.synthetic import SyntheticWorld
from panosam2_core.evaluation.predictors import make_prompt
from panosam2_core.geometry.region import measure

LEAST_PIXELS = 30  # of an object that takes part
GROUPS = {
    "all": lambda size, lat: True,
    "under 12 deg": lambda size, lat: size < 12,
    "12-20 deg": lambda size, lat: 12 <= size < 20,
    "over 20 deg": lambda size, lat: size >= 20,
    "beyond 50 deg latitude": lambda size, lat: abs(lat) > 50,
}


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    args = parser.parse_args()
    model = load_model("nano")
    views = ("sphere", "auto")
    trackers = {view: PanoTracker(model, TrackerConfig(prompt_view=view)) for view in views}
    world = SyntheticWorld(split="val")
    found = defaultdict(list)
    for index in track(range(args.clips), "clips"):
        frame = next(iter(world.clip(index)))
        image = frame.image.permute(1, 2, 0).cpu().numpy()
        labels = frame.labels.cpu().numpy()
        for object_id in np.unique(labels[labels > 0]):
            truth = labels == object_id
            region = measure(truth, pano=True)
            if region is None or region.area_px < LEAST_PIXELS:
                continue
            size = math.degrees(math.sqrt(region.angular_width * region.angular_height))
            for kind in ("point", "box"):
                for view, tracker in trackers.items():
                    tracker.reset()
                    mask = tracker.step(image, [make_prompt(truth, kind, 1)]).objects[1].mask
                    iou = float((mask & truth).sum() / (mask | truth).sum())
                    for name, takes in GROUPS.items():
                        if takes(size, math.degrees(region.lat)):
                            found[f"{kind}, {name}, {view}"].append(iou)
    means = {name: [round(float(np.mean(v)), 4), len(v)] for name, v in sorted(found.items())}
    for name, (mean, count) in means.items():
        print(f"{name:40} IoU {mean:.3f} of {count}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(means, indent=2))


if __name__ == "__main__":
    main()
