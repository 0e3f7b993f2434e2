"""Every network in a table: parameters, FLOPs of a tracked frame, and equality with SAM2.

    python benchmarks/variants.py --markdown docs/variants.md --json out/variants.json

FLOPs are counted, not estimated, on one frame with a full memory: one prompted map, six recent
ones, sixteen pointers, and with PanoSAM2 two long-term frames. Equality is the largest difference
of mask logits to the video predictor of `sam2` over fifty frames, fp32, random weights in Meta's
file format.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from flops import counter
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).parents[1] / "test" / "core"))

from upstream import build_predictor, make_video, our_logits, upstream_logits

from panosam2_core import ModelConfig, Prompt
from panosam2_core.build import VARIANTS, build_model
from panosam2_core.memory.bank import FrameMemory, LongTermEntry, ObjectMemory
from panosam2_core.model import PanoSAM2
from panosam2_core.step import observe, propagate

LONG_FRAMES = 2
EQUAL_FRAMES = 50  # from frame 16 on memory is full, and old frames go


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    args = parser.parse_args()
    rows = []
    for variant in args.variants:
        difference = None if variant == "nano" else difference_to_upstream(variant)
        for size in [(256, 512)] if variant == "nano" else [(512, 1024), (1024, 1024)]:
            rows.append({**measure(variant, size), "max_logit_difference": difference})
            print(json.dumps(rows[-1]), flush=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=2))
    if args.markdown:
        args.markdown.write_text(table(rows))


def difference_to_upstream(variant: str) -> float:
    """Largest difference of mask logits after a click, at 256x256."""
    predictor = build_predictor(variant)
    with tempfile.TemporaryDirectory() as folder:
        frames = make_video(Path(folder), EQUAL_FRAMES)
        path = Path(folder, "weights.pt")
        torch.save({"model": predictor.state_dict()}, path)
        click = {"points": [[120, 100]], "labels": [1]}
        expected = upstream_logits(predictor, Path(folder), click)
        prompt = Prompt(1, points=[(120.5, 100.5)])
        ours = our_logits(path, frames, prompt, variant=variant)
    return max(float(abs(a - b).max()) for a, b in zip(ours, expected, strict=True))


def measure(variant: str, size: tuple[int, int]) -> dict[str, Any]:
    """Parameters and GFLOPs of the plain and of the panoramic network."""
    config = dataclasses.replace(VARIANTS[variant], input_size=size)
    plain = dataclasses.replace(config, pc_blocks=False, previous_mask=False, long_memory=False)
    parts = {"sam2": gflops(plain), "panosam2": gflops(config)}
    return {
        "variant": variant,
        "height": size[0],
        "width": size[1],
        "parameters": count(build_model(config)),
        "parameters_sam2": count(build_model(plain)),
        "gflops": parts,
    }


def count(model: PanoSAM2) -> int:
    """Parameters of a network."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.inference_mode()
def gflops(config: ModelConfig) -> dict[str, float]:
    """GFLOPs of the stages of one tracked frame."""
    model = build_model(config).eval()
    pano = config.pc_blocks
    memory, draw = full_memory(model)
    stages = {}
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of the CPU are not counted
        with counter() as counted:
            features = model.encode_image(torch.zeros(1, 3, *config.input_size), pano=pano)
        stages["encode"] = counted.get_total_flops() / 1e9
        now = 100
        with counter() as counted:
            decoded = propagate(model, features, [memory], [draw], now, pano=pano)
        stages["track"] = counted.get_total_flops() / 1e9
        with counter() as counted:
            observe(model, features, decoded, now, prompted=False, pano=pano)
        stages["remember"] = counted.get_total_flops() / 1e9
    return {**stages, "total": sum(stages.values())}


def full_memory(model: PanoSAM2) -> tuple[ObjectMemory, list[LongTermEntry]]:
    """What an object remembers at frame 100."""
    config, (h, w) = model.config, model.grid_hw
    memory = ObjectMemory()
    for frame in (0, *range(85, 100)):
        record = FrameMemory(
            frame, torch.zeros(config.memory_dim, h, w), torch.zeros(config.width)
        )
        (memory.remember_tracked if frame else memory.remember_prompted)(record)
    memory.previous_mask = torch.zeros(config.width, h, w)
    memory.center = torch.tensor(w // 2)
    if not config.long_memory:
        return memory, []
    entries = [LongTermEntry(f, torch.zeros(config.width), 1.0) for f in range(LONG_FRAMES)]
    return memory, entries


def table(rows: list[dict[str, Any]]) -> str:
    """The page that stands in docs."""
    lines = [
        "# Every network in numbers",
        "",
        "Made by `python benchmarks/variants.py --markdown docs/variants.md`, which says how.",
        "GFLOPs of one tracked frame with a full memory; a multiply-add counts two.",
        "",
        "| network | input | parameters (SAM2) | GFLOPs SAM2 | GFLOPs PanoSAM2 | of these encode "
        "/ track / remember | largest logit difference to `sam2` |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours = row["gflops"]["panosam2"]
        difference = row["max_logit_difference"]
        lines.append(
            f"| `{row['variant']}` | {row['height']}x{row['width']} "
            f"| {row['parameters'] / 1e6:.1f} M ({row['parameters_sam2'] / 1e6:.1f} M) "
            f"| {row['gflops']['sam2']['total']:.1f} | {ours['total']:.1f} "
            f"| {ours['encode']:.1f} / {ours['track']:.1f} / {ours['remember']:.1f} "
            f"| {'no counterpart' if difference is None else f'{difference:.1e}'} |"
        )
    lines += [
        "",
        f"The difference is measured at 256x256 over {EQUAL_FRAMES} frames after a click, with "
        "the panoramic parts off and random weights in Meta's file format.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
