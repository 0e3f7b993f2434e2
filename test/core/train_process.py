"""A tiny training run as its own process, for tests that kill it or start several of it.

Usage: python train_process.py OUT KEY=VALUE ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from panosam2_core import train
from panosam2_core.nn.efficientnet_lite import EfficientNetLite0
from panosam2_core.training import loop

PLAN = """
variant: nano
warmup_steps: 1
prompts: [0.3, 0.4, 0.3]
checkpoint_minutes: 0
stages:
  - {name: a, steps: 3, input_size: [64, 128], clips: 1, objects: 2, lr: 1.0e-3, frames: 3,
     bptt: 2, truth_every: 2, world: {objects: [2, 2], angular_size_deg: [40, 60]}}
  - {name: b, steps: 3, input_size: [64, 128], clips: 1, objects: 2, lr: 1.0e-3, frames: 4,
     world: {objects: [2, 3], angular_size_deg: [40, 60]}}
"""

if __name__ == "__main__":
    out = Path(sys.argv[1])
    plan = out.with_suffix(f".{torch.randint(10**9, ()).item()}.yaml")
    plan.write_text(PLAN, encoding="utf-8")
    # The ImageNet weights are no dependency of the tests; any fixed trunk will do.
    torch.manual_seed(0)
    trunk = EfficientNetLite0().state_dict()
    loop.load_imagenet_trunk = lambda: trunk
    common = ["--out", str(out), "--device", "cpu", "--threads", "1", "--workers", "0"]
    sys.exit(train.main([str(plan), *common, "--log-every", "1", *sys.argv[2:]]))
