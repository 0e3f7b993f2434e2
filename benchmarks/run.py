"""PanoSAM2 beside `sam2` in the same run: time, work, memory, and if the masks are the same.

    python benchmarks/run.py [sizes parts objects presets nano state start peak profile]
        [--device cpu|cuda] [--rounds 3] [--json FILE]

Without names all of them. Every comparison is interleaved in one process: in each round every
variant does one whole tracked frame (encode, condition, decode, encode memory) on the same
picture and the same full memory, and the figure is the median of the rounds' ratios; its spread
are the least and the largest. Memory is full as after 16 tracked frames: seven maps and sixteen
pointers, made by upstream's own first two frames and noise, and given to both sides.

sizes    Hiera-T, one object: 1024x1024 against upstream in float32 and in bfloat16 autocast, on a
         GPU also compiled (`vos_optimized`), and our 512x1024 against the 1024x1024 that upstream
         squeezes a panorama into. Utilisation is what a frame computes, on a GPU what upstream's
         does, over its time and the rate of large matrix products before and after.
parts    what the panoramic decoder and the long-short memory cost, 512x1024, best precision.
objects  four objects against upstream's four, 512x512.
presets  work and time of PanoSAM2 at the sizes with names, and the bound of an Orin's GPU.
nano     milliseconds of the tracker's step; frames per second of the whole node with a camera of
         its own process (`node.py throughput`), and of the demo, whose recorder shares its cores.
state    bytes that the state grows by in 10,000 frames.
start    a process from its start to the first mask, over import, build and one frame.
peak     most memory during two tracked frames (resident set; on a GPU torch's allocations), every
         variant of sizes in a process of its own that holds no other network.

profile  shares of a 1024x1024 frame by kind of operation, best precision, on a CPU.

Freed memory stays in the process, as in this package's programs (panosam2_core.allocator); so
upstream is spared the page faults as well.

With one thread (OMP_NUM_THREADS=1) the seconds of sizes, parts, objects and presets are those of
the processor, so that the ratios can be taken while others use the machine.

An existing FILE is added to. Keys of a GPU are null where none was used; none has been yet.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flops import counter
from frames import Alone, Ours, Peer, PeerStep, agreement, interleave, now, ratio
from machine import machine
from torch.nn.attention import SDPBackend, sdpa_kernel

from panosam2_core import PanoTracker, Prompt, load_model
from panosam2_core.allocator import keep_freed_memory
from panosam2_core.build import PRESETS, resolve_precision

PROFILED = 14  # kinds of operations that are told
# Dense fp16 of a Jetson AGX Orin 64 GB at MAXN: a quarter of NVIDIA's 171 TOPS of sparse int8
# (github.com/NVIDIA/Deep-Learning-Accelerator-SW). Not measured.
ORIN_GFLOPS = 42_700.0
GPU_KEYS = (
    "gpu.step_vs_eager",
    "gpu.step_vs_vos_optimized",
    "gpu.utilisation",
    "gpu.peak_vs_upstream",
)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", help=", ".join(BENCHMARKS))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if unknown := set(args.what) - set(BENCHMARKS):
        parser.error(f"unknown {sorted(unknown)}; known: {', '.join(BENCHMARKS)}")
    keep_freed_memory()
    result = dict.fromkeys(GPU_KEYS)
    if args.json and args.json.exists():
        result = json.loads(args.json.read_text(encoding="utf-8"))
    for name in args.what or BENCHMARKS:
        before = machine()
        found = BENCHMARKS[name](args.device, args.rounds)
        result |= found | {f"{name}.run": before}
        print(json.dumps(found, indent=2), flush=True)
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


@torch.inference_mode()
def gflops(step: PeerStep | Ours) -> float:
    """GFLOPs of a step, attention by torch's kernels included."""
    ours = isinstance(step, Ours)
    if ours:
        chosen, step.network.precision = step.network.precision, torch.float32
    # The counter knows no fused kernels of the CPU, and takes operations apart behind autocast.
    with sdpa_kernel(SDPBackend.MATH), counter() as counted:
        step()
    if ours:
        step.network.precision = chosen
    return counted.get_total_flops() / 1e9


def best(device: str) -> torch.dtype:
    """What precision=auto takes."""
    return resolve_precision("auto", torch.device(device))


def sizes(device: str, rounds: int) -> dict[str, Any]:
    """One object against upstream at 1024x1024."""
    peer = Peer(1024, 1, device)
    variants: dict[str, PeerStep | Ours] = {
        "upstream float32": PeerStep(peer, autocast=False),
        "upstream bfloat16": PeerStep(peer, autocast=True),
        "ours float32": Ours(peer, (1024, 1024), torch.float32),
        "ours best": Ours(peer, (1024, 1024), best(device)),
        "ours best 512x1024": Ours(peer, (512, 1024), best(device)),
    }
    if device != "cpu":
        compiled = Peer(1024, 1, device, compiled=True)
        variants["upstream compiled"] = PeerStep(compiled, autocast=True)
    rates = [product_rate(device)]
    times, masks = interleave(variants, rounds)
    rates.append(product_rate(device))
    exact, step = masks["upstream float32"], {name: t["step"] for name, t in times.items()}
    against = {
        f"{device}.1024.best_vs_fp32": ("upstream float32", "ours best"),
        f"{device}.1024.best_vs_bf16": ("upstream bfloat16", "ours best"),
        f"{device}.1024.exact_vs_fp32": ("upstream float32", "ours float32"),
        f"{device}.512x1024_vs_squash": ("upstream float32", "ours best 512x1024"),
    }
    if device != "cpu":
        against["gpu.step_vs_eager"] = against[f"{device}.1024.best_vs_bf16"]
        against["gpu.step_vs_vos_optimized"] = ("upstream compiled", "ours best")
    # Values that are absorbed are products saved; the bar for a GPU credits them.
    work = gflops(variants["ours best" if device == "cpu" else "upstream float32"])
    used = [work / seconds / statistics.mean(rates) for seconds in step["ours best"]]
    return {key: ratio(step[a], step[b]) for key, (a, b) in against.items()} | {
        f"{key_of(device)}.utilisation": spread(used),
        "sizes.frame_gflops": round(work, 1),
        "sizes.product_gflops": [round(rate) for rate in rates],
        "sizes.seconds": times,
        "sizes.masks": {
            name: agreement(m, exact) for name, m in masks.items() if m.shape == exact.shape
        },
    }


def key_of(device: str) -> str:
    """How figures of one kind of device begin."""
    return "cpu" if device == "cpu" else "gpu"


@torch.inference_mode()
def product_rate(device: str) -> float:
    """GFLOP/s of the fastest of some large matrix products in the best precision."""
    side, at_once = (4096, 1) if device == "cpu" else (8192, 16)  # a launch must not count
    a, b = torch.randn(2, side, side, device=device, dtype=best(device))
    took = []
    for _ in range(4):
        started = now(a.device)
        for _ in range(at_once):
            torch.mm(a, b)
        took.append(now(a.device) - started)
    return 2e-9 * at_once * side**3 / min(took)


def profile(device: str, rounds: int) -> dict[str, Any]:
    """Where the time of a frame goes, by kind of operation; on a CPU."""
    # Built outside of inference mode, as a program builds it: of its tensors nothing is derived.
    step = Ours(Peer(1024, 1, device), (1024, 1024), best(device))
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.inference_mode():
        step()
        with torch.profiler.profile(activities=activities) as recorded:
            for _ in range(rounds):
                step()
    rows = recorded.key_averages()
    total = sum(row.self_cpu_time_total for row in rows)
    rows = sorted(rows, key=lambda row: -row.self_cpu_time_total)[:PROFILED]
    return {
        "profile.seconds": 1e-6 * total / rounds,
        "profile.share": {row.key: round(row.self_cpu_time_total / total, 4) for row in rows},
    }


def parts(device: str, rounds: int) -> dict[str, Any]:
    """The panoramic parts over our own plain path."""
    peer, size = Peer(512, 1, device), (512, 1024)
    decoder = {"pc_blocks": True, "previous_mask": True}
    variants: dict[str, Ours] = {
        "plain": Ours(peer, size, best(device)),
        "decoder": Ours(peer, size, best(device), **decoder),
        "decoder and memory": Ours(peer, size, best(device), **decoder, long_memory=True),
    }
    times, _ = interleave(variants, 3 * rounds)
    plain = times["plain"]["step"]
    return {
        "pa_decoder_over_plain": ratio(times["decoder"]["step"], plain),
        "lsmm_over_plain": ratio(times["decoder and memory"]["step"], plain),
        "parts.seconds": times,
        "parts.gflops": {name: round(gflops(step), 1) for name, step in variants.items()},
    }


def objects(device: str, rounds: int) -> dict[str, Any]:
    """Four objects at once."""
    peer = Peer(512, 4, device)
    variants: dict[str, PeerStep | Ours] = {
        "upstream float32": PeerStep(peer, autocast=False),
        "upstream bfloat16": PeerStep(peer, autocast=True),
        "ours float32": Ours(peer, (512, 512), torch.float32),
        "ours best": Ours(peer, (512, 512), best(device)),
    }
    times, masks = interleave(variants, rounds)
    exact = masks["upstream float32"]
    fast = times["ours best"]["step"]
    return {
        f"{device}.objects4_vs_upstream": ratio(times["upstream float32"]["step"], fast),
        "objects.best_vs_bf16": ratio(times["upstream bfloat16"]["step"], fast),
        "objects.seconds": times,
        "objects.masks": {name: agreement(mask, exact) for name, mask in masks.items()},
    }


def presets(device: str, rounds: int) -> dict[str, Any]:
    """Whole panoramic frames at the sizes that have names."""
    peer, found = Peer(256, 1, device), {}
    parts = {"pc_blocks": True, "previous_mask": True, "long_memory": True}
    for name, size in PRESETS.items():
        step = Ours(peer, size, best(device), **parts)
        work = gflops(step)
        times, _ = interleave({name: step}, rounds)
        found[name] = {
            "size": size,
            "gflops": round(work, 1),
            "seconds": spread(times[name]["step"]),
            "orin_ms_at_least": round(1e3 * work / ORIN_GFLOPS, 1),
        }
    return {"presets": found}


def picture(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Coarse noise, so that there is something to see."""
    drawn = np.random.default_rng(0).integers(0, 255, (8, 16, 3), dtype=np.uint8)
    return drawn.repeat(height // 8, 0).repeat(width // 16, 1)


def nano(device: str, rounds: int) -> dict[str, Any]:
    """The tracker's step alone, and the node of the demo."""
    frame, seconds = picture(512, 1024), {}
    for name in ("float32", "auto"):
        model = load_model("nano", device=device, precision=name)
        tracker = PanoTracker(model)
        spent = []
        for t in range(20 + 10 * rounds):
            started = time.perf_counter()
            prompts = [] if t else [Prompt(1, points=[(480, 240)])]
            tracker.step(np.roll(frame, 3 * t, 1), prompts)
            spent.append(time.perf_counter() - started)
        seconds[name] = spread([1e3 * s for s in spent[20:]])
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "panosam2_ros.demo", "--frames", "100", "--out", folder]
        subprocess.run(command, check=True, capture_output=True)
        summary = json.loads(Path(folder, "summary.json").read_text(encoding="utf-8"))
        node, told = Path(__file__).with_name("node.py"), Path(folder, "node.json")
        runs = []
        for _ in range(rounds):
            command = [sys.executable, str(node), "throughput", "--json", str(told)]
            subprocess.run(command, check=True, capture_output=True)
            runs.append(json.loads(told.read_text(encoding="utf-8"))["throughput"])
    return {
        "node.nano_fps": spread([run["fps"] for run in runs]),
        "nano.node": runs,
        "nano.demo_fps": summary["fps"],
        "nano.step_ms": seconds,
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and largest."""
    found = statistics.median(values), min(values), max(values)
    return dict(zip(("median", "least", "largest"), (round(v, 2) for v in found), strict=True))


def state(device: str, rounds: int) -> dict[str, Any]:
    """Growth of the state once its windows are full."""
    tracker = PanoTracker(load_model("nano", device=device, input_size=(64, 128)))
    held, every = [], 50
    for t in range(every * (rounds + 1) + 1):
        tracker.step(picture(64, 128), [] if t else [Prompt(1, points=[(60, 30)])])
        if t and t % every == 0:
            held.append(tracker.state_bytes())
    grown = [(b - a) * 10_000 / every for a, b in zip(held, held[1:], strict=False)]
    return {"state_bytes_per_10k": spread(grown), "state.bytes": held[-1]}


_FIRST_MASK = """
import time; begun = time.perf_counter()
import numpy as np
from panosam2_core import PanoTracker, Prompt, load_model
model = load_model("nano", device={device!r})
tracker, frame = PanoTracker(model), np.zeros((512, 1024, 3), np.uint8)
prompt = [Prompt(1, points=[(480, 240)])]
tracker.step(frame, prompt)
first = time.perf_counter() - begun
started = time.perf_counter(); tracker.step(frame, prompt)
print(first, time.perf_counter() - started)
"""
_FLOOR = """
import time; begun = time.perf_counter()
from panosam2_core import load_model
load_model("nano", device={device!r})
print(time.perf_counter() - begun)
"""


def start(device: str, rounds: int) -> dict[str, Any]:
    """A fresh process, nothing compiled or tuned on the way to the first mask."""
    whole, floor = [], []
    for _ in range(rounds):
        first, again = python(_FIRST_MASK.format(device=device))
        (loaded,) = python(_FLOOR.format(device=device))
        whole.append(first)
        floor.append(loaded + again)
    return {"start_over_floor": ratio(whole, floor), "start.seconds": spread(whole)}


_PEAK = """
import sys; sys.path.insert(0, {folder!r})
from run import print_peak
print_peak({variant!r}, {device!r})
"""


def peak(device: str, rounds: int) -> dict[str, Any]:
    """Megabytes at the most, and before the first frame."""
    folder = str(Path(__file__).parent)
    most: dict[str, list[float]] = {name: [] for name in ALONE}
    before: dict[str, list[float]] = {name: [] for name in ALONE}
    for _ in range(rounds):
        for name in ALONE:
            program = _PEAK.format(folder=folder, variant=name, device=device)
            held, reached = python(program)
            before[name].append(held)
            most[name].append(reached)
    upstream, key = most["upstream float32"], key_of(device)
    return {
        f"{key}.peak_vs_upstream": ratio(most["ours best"], upstream),
        "peak.512x1024_vs_squash": ratio(most["ours best 512x1024"], upstream),
        "peak.mb": {name: spread(values) for name, values in most.items()},
        "peak.mb_before": {name: spread(values) for name, values in before.items()},
    }


ALONE: dict[str, Callable[[str], PeerStep | Ours]] = {
    "upstream float32": lambda device: PeerStep(Peer(1024, 1, device), autocast=False),
    "upstream bfloat16": lambda device: PeerStep(Peer(1024, 1, device), autocast=True),
    "ours float32": lambda device: Ours(Alone(1024, device), (1024, 1024), torch.float32),
    "ours best": lambda device: Ours(Alone(1024, device), (1024, 1024), best(device)),
    "ours best 512x1024": lambda device: Ours(Alone(1024, device), (512, 1024), best(device)),
}


def print_peak(variant: str, device: str) -> None:
    """Megabytes held before two frames, and the most during them."""
    step = ALONE[variant](device)
    gc.collect()
    if device == "cpu":
        ctypes.CDLL(None).malloc_trim(0)  # what building left over goes back to the system
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    else:
        torch.cuda.reset_peak_memory_stats()
    held = _most(device)
    with torch.inference_mode():
        for _ in range(2):
            step()
    print(held, _most(device))


def _most(device: str) -> float:
    """Megabytes at the most since that was last forgotten."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def python(program: str) -> list[float]:
    """Numbers that a process of its own prints."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


BENCHMARKS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "sizes": sizes,
    "parts": parts,
    "objects": objects,
    "presets": presets,
    "nano": nano,
    "state": state,
    "start": start,
    "peak": peak,
    "profile": profile,
}

if __name__ == "__main__":
    main()
