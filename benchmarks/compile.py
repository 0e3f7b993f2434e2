"""Whether torch.compile pays for nano on this CPU: image trunk and mask decoder.

    OMP_NUM_THREADS=1 python benchmarks/compile.py [VARIANT ...] [--rounds 30] [--json FILE]

Variants are (trunk|decoder)-(float32|bfloat16)-(default|freezing), all of them if none is named;
an existing FILE is added to. Every variant is a process with a fresh cache, then one more with
the cache that the first left on disk. In each, the part as a stream runs it and the compiled one
take turns on the same input; the figure is the median of the paired ratios of processor time,
eager over compiled. The compiled one has its weights in the type that it computes in, since what
casts them once is not for a compiler; `freezing` also makes them constants and packs them.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import machine
from torch import Tensor

from panosam2_core import load_model
from panosam2_core.model import PanoSAM2

Part = Callable[[], list[Tensor]]
WARM = 5


def trunk(model: PanoSAM2, dtype: torch.dtype, *, freezing: bool) -> tuple[Part, Part]:
    """The image trunk at 256x512, as it is and compiled."""
    images = torch.randn(1, 3, *model.input_size)
    network = model.image_encoder.trunk
    compiled = compile_it(copy.deepcopy(network).to(dtype), freezing)
    given = images.to(dtype)
    return lambda: network(images, wrap=True), lambda: compiled(given, wrap=True)


def decoder(model: PanoSAM2, dtype: torch.dtype, *, freezing: bool) -> tuple[Part, Part]:
    """The mask decoder on a tracked frame, as it is and compiled."""
    network, (h, w), width = model.sam_mask_decoder, model.grid_hw, model.config.width
    given = (
        torch.randn(1, width, h, w),
        model._position(None),
        model._embed_points(None, None, 1),
        (torch.randn(1, width // 4, 2 * h, 2 * w), torch.randn(1, width // 8, 4 * h, 4 * w)),
    )
    own = copy.deepcopy(network).to(dtype)
    own.forward = own.candidates
    compiled = compile_it(own, freezing)
    cast = torch.utils._pytree.tree_map(lambda x: x.to(dtype), given)
    return lambda: list(network.candidates(*given)), lambda: list(compiled(*cast))


PARTS = {"trunk": trunk, "decoder": decoder}
VARIANTS = [
    f"{part}-{dtype}-{mode}"
    for part in PARTS
    for dtype in ("float32", "bfloat16")
    for mode in ("default", "freezing")
]


def compile_it(network: torch.nn.Module, freezing: bool) -> Any:
    """Compiled by inductor."""
    return torch.compile(network, options={"freezing": freezing})


def measure(part: str, dtype: torch.dtype, freezing: bool, rounds: int) -> dict[str, Any]:
    """One process: seconds until the first result, then paired ratios."""
    torch.manual_seed(0)
    name = str(dtype).removeprefix("torch.")
    model = load_model("nano", device="cpu", precision=name)
    eager, compiled = PARTS[part](model, dtype, freezing=freezing)
    ratios, milliseconds = [], []
    with torch.no_grad():
        with model.autocast():
            expected = eager()
        started, busy = time.perf_counter(), processor()
        found = compiled()
        first = {"wall": time.perf_counter() - started, "processor": processor() - busy}
        for i in range(WARM + rounds):
            begun = time.process_time()
            with model.autocast():
                eager()
            middle = time.process_time()
            compiled()
            ended = time.process_time()
            if i >= WARM:
                ratios.append((middle - begun) / (ended - middle))
                milliseconds.append(1e3 * (middle - begun))
    quartiles = statistics.quantiles(ratios, n=4)
    worst = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    return {
        "eager_ms": round(statistics.median(milliseconds), 2),
        "eager_over_compiled": [round(value, 3) for value in quartiles],
        "max_difference": worst,
        "first_call_s": {key: round(value, 1) for key, value in first.items()},
    }


def processor() -> float:
    """Seconds of this process and of the compilers it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> None:
    """Run all variants, or the one asked for by a parent process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="*", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        part, dtype, mode = args.one.split("-")
        found = measure(part, getattr(torch, dtype), mode == "freezing", args.rounds)
        print(json.dumps(found))
        return
    if unknown := set(args.variants) - set(VARIANTS):
        parser.error(f"unknown {sorted(unknown)}; known: {', '.join(VARIANTS)}")
    result: dict[str, Any] = {}
    if args.json and args.json.exists():
        result = json.loads(args.json.read_text(encoding="utf-8"))
    for variant in args.variants or VARIANTS:
        found = both_starts(variant, args.rounds)
        result |= {variant: found | {"run": machine()}}
        print(variant, json.dumps(found), flush=True)
        if args.json:
            args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def both_starts(variant: str, rounds: int) -> dict[str, Any]:
    """Nothing on disk, then what the first process left there."""
    with tempfile.TemporaryDirectory() as cache:
        places = {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        command = [sys.executable, __file__, "--rounds", str(rounds), "--one", variant]
        rows = {}
        for start in ("cold", "cached"):
            done = subprocess.run(
                command, env=os.environ | places, capture_output=True, text=True, check=False
            )
            if done.returncode:
                return {"failed": done.stderr.strip().splitlines()[-1]}
            rows[start] = json.loads(done.stdout.splitlines()[-1])
    return rows


if __name__ == "__main__":
    main()
