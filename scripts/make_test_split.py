#!/usr/bin/env python3
"""Choose and freeze the clips of the synthetic test split (run once per version).

Candidates are drawn in order; one is kept when what is drawn agrees with what is demanded: the
target is clear in frame 0, it touches the seam or stays off it, it vanishes for 5 to 20 frames
once or never. The file keeps keys, flags and checks, so that a test can prove that the clips
are still the same.

Version 1 stopped here, and 10 of its 48 clips left the bounds on motion that the config states.
Version 2 keeps the other 38 and fills each of the 10 places with the next candidate of a stream
of its own that has the flags of the place, agrees with them and keeps the bounds.

Usage: ``python scripts/make_test_split.py OUT.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from panosam2_core.data.assets import AssetLibrary  # noqa: E402
from panosam2_core.data.limits import measure_motion, stated_bounds  # noqa: E402
from panosam2_core.data.render import Canvas  # noqa: E402
from panosam2_core.data.scene import (  # noqa: E402
    WORLD_VERSION,
    ClipPlan,
    Scene,
    WorldConfig,
    build_scene,
)
from panosam2_core.data.synthetic import (  # noqa: E402
    CHECK_FRAMES,
    CHECK_SIZE,
    SyntheticClip,
    image_check,
    thumbnail,
)

CLIPS, MEASURE_SIZE = 48, (128, 256)


def measure(clip: SyntheticClip) -> dict[str, object]:
    """Return what really happens to the target at a low resolution."""
    share, seam = [], 0
    for t in range(clip.num_frames):
        labels, visibility = clip.truth(t)
        mask = labels == clip.target_id
        share.append(visibility[clip.target_id])
        seam += int(bool((mask[:, 0] & mask[:, -1]).any()))
    hidden = np.nonzero(np.array(share) < 0.005)[0]
    runs = int(len(hidden) > 0) + int((np.diff(hidden) > 1).sum())
    return {
        "first": share[0],
        "seam_frames": seam,
        "hidden_frames": len(hidden),
        "hidden_runs": runs,
        "seam_crossings": list(clip.events.seam_crossings),
    }


def fits(plan: ClipPlan, found: dict[str, object]) -> bool:
    """Tell whether a measured clip keeps its plan."""
    hidden, runs = int(str(found["hidden_frames"])), int(str(found["hidden_runs"]))
    seam = bool(found["seam_crossings"]) if plan.seam else int(str(found["seam_frames"])) == 0
    gone = (5 <= hidden <= 20 and runs == 1) if plan.occlusion else hidden == 0
    return float(str(found["first"])) > 0.95 and seam and gone


def checks(clip: SyntheticClip) -> dict[str, object]:
    """Return the stored proof that a clip is unchanged."""
    labels = [thumbnail(clip.truth(t)[0].numpy()) for t in CHECK_FRAMES]
    return {"labels": labels, "image": image_check(clip.frame(0).image)}


class Chosen(NamedTuple):
    """One clip of the split."""

    plan: ClipPlan
    scene: Scene
    found: dict[str, object]


class Chooser:
    """Draws candidates of one version."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.bounds = stated_bounds(config)
        self.library = AssetLibrary("builtin", "test")
        self.small, self.check = (
            Canvas(size, torch.device("cpu")) for size in (MEASURE_SIZE, CHECK_SIZE)
        )

    def keeps_bounds(self, scene: Scene) -> bool:
        """Tell whether a scene keeps the bounds on motion."""
        return measure_motion(scene).within(self.bounds)

    def next(self, number: int, keys: Iterator[str], bounded: bool) -> Chosen:
        """Return the first candidate that fits place ``number``."""
        # Every combination of the flags appears: 24 seam, 16 occlusion, 16 look-alike.
        flags = number % 2 == 0, number % 3 == 0, number // 2 % 3 == 1
        for key in keys:
            plan = ClipPlan(key, *flags)
            scene = build_scene(self.config, plan, self.library)
            if bounded and not self.keeps_bounds(scene):
                continue
            found = measure(SyntheticClip(scene, self.library, self.small))
            if fits(plan, found):
                sys.stderr.write(f"{number} {plan} {found}\n")
                return Chosen(plan, scene, found)
        raise RuntimeError("expected an endless supply of candidates")

    def entry(self, chosen: Chosen) -> dict[str, object]:
        """Return what is stored of a clip."""
        facts = {"objects": len(chosen.scene.objects), **chosen.found}
        proof = checks(SyntheticClip(chosen.scene, self.library, self.check))
        return {**dataclasses.asdict(chosen.plan), **facts, **proof}


def choose(chooser: Chooser) -> list[Chosen]:
    """Return the clips of version 1, those replaced that leave the bounds."""
    first = (f"test-v1/{i}" for i in itertools.count())
    second = (f"test-v2/{i}" for i in itertools.count())
    clips = [chooser.next(number, first, bounded=False) for number in range(CLIPS)]
    for number, chosen in enumerate(clips):
        if not chooser.keeps_bounds(chosen.scene):
            clips[number] = chooser.next(number, second, bounded=True)
    return clips


def main() -> int:
    """Write the split; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = WorldConfig()
    chooser = Chooser(config)
    body = {
        "version": 2,
        "world_version": WORLD_VERSION,
        "config": dataclasses.asdict(config),
        "limits": dataclasses.asdict(chooser.bounds),
        "clips": [chooser.entry(chosen) for chosen in choose(chooser)],
    }
    options.out.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
