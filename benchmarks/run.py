"""PanoSAM2 beside `sam2` in the same run: time, work, memory, and if the masks are the same.

    python benchmarks/run.py [sizes parts objects presets nano state start peak profile]
        [--device cpu|cuda] [--rounds 3] [--json FILE]

Without names all of them. Every comparison is interleaved in one process: in each round every
variant does one whole tracked frame (encode, condition, decode, encode memory) on the same
picture and the same full memory, and the figure is the median of the rounds' ratios; its spread
are the least and the largest. Memory is full as after 16 tracked frames: seven maps and sixteen
pointers, made by upstream's own first two frames and noise, and given to both sides.

sizes    Hiera-T, one object: 1024x1024 against upstream in float32 and in bfloat16 autocast, and
         our 512x1024 against the 1024x1024 that upstream squeezes a panorama into.
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

An existing FILE is added to. Keys of a GPU are null where none was used; `vos_optimized` and
`gpu.*` have not been run yet.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flops import counter
from machine import machine
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from panosam2_core import PanoTracker, Prompt, load_model
from panosam2_core.allocator import keep_freed_memory
from panosam2_core.build import PRESETS, VARIANTS, build_model, load_state, resolve_precision
from panosam2_core.evaluation.upstream import _empty_state, build_upstream
from panosam2_core.memory.bank import FrameMemory, LongTermEntry, ObjectMemory
from panosam2_core.model import PanoSAM2
from panosam2_core.step import observe, propagate

NOW = 100  # index of the measured frame
LONG_FRAMES = 2
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
OUR_STAGES = {
    "encode_image": "encode",
    "condition": "condition",
    "decode": "decode",
    "encode_mask": "encode_memory",
    "encode_memory": "encode_memory",
}
PEER_STAGES = {
    "forward_image": "encode",
    "_prepare_memory_conditioned_features": "condition",
    "_forward_sam_heads": "decode",
    "_encode_new_memory": "encode_memory",
}


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


class Peer:
    """Upstream's predictor with a full memory of some objects.

    Args:
        size: side of its square.
        objects: how many.
        device: that it runs on.
    """

    def __init__(self, size: int, objects: int, device: str) -> None:
        self.network = _random_upstream(size, device)
        self.device = self.network.device
        generator = torch.Generator().manual_seed(7)
        self.image = torch.randn(1, 3, size, size, generator=generator).to(device)
        first = self.image[0]
        self.state = _empty_state(self.network, first, (size, size))
        self.state["images"] = _Repeated(first)
        self.objects = objects
        for i in range(objects):
            x = size * (i + 1) / (objects + 1)
            self.network.add_new_points_or_box(
                self.state, 0, i + 1, points=[[x, size / 2]], labels=[1]
            )
        self.network.propagate_in_video_preflight(self.state)
        for out in self.state["output_dict_per_obj"].values():
            kept = out["cond_frame_outputs"][0]
            for t in range(NOW - 16, NOW):
                out["non_cond_frame_outputs"][t] = kept | {
                    name: kept[name] + noise(kept[name], generator)
                    for name in ("maskmem_features", "obj_ptr")
                }

    def weights(self) -> dict[str, Tensor]:
        """Upstream's."""
        weights: dict[str, Tensor] = self.network.state_dict()
        return weights

    def memories(self) -> list[ObjectMemory]:
        """The same memory as ours keeps it."""
        found = []
        for out in self.state["output_dict_per_obj"].values():
            kept = out["cond_frame_outputs"] | out["non_cond_frame_outputs"]
            found.append(
                as_memory(
                    {t: (o["maskmem_features"][0], o["obj_ptr"][0]) for t, o in kept.items()}
                )
            )
        return found


class Alone:
    """Stands for :class:`Peer` where upstream must not be in memory: noise of the same shapes.

    Args:
        size: side of the square picture.
        device: that ours runs on.
    """

    def __init__(self, size: int, device: str) -> None:
        self.device = torch.device(device)
        self.image = torch.randn(1, 3, size, size, device=device)

    def weights(self) -> dict[str, Tensor]:
        """None: ours keeps those it was built with."""
        return {}

    def memories(self) -> list[ObjectMemory]:
        """One object, as after 16 tracked frames."""
        config, side = VARIANTS["hiera_t"], self.image.shape[-1] // 16
        frames = {
            t: (
                torch.randn(config.memory_dim, side, side).to(self.device, torch.bfloat16),
                torch.randn(config.width).to(self.device),
            )
            for t in (0, *range(NOW - 16, NOW))
        }
        return [as_memory(frames)]


class PeerStep:
    """One whole tracked frame of every object, one after the other as upstream does it.

    Args:
        peer: that does it.
        autocast: to bfloat16.
    """

    stages = PEER_STAGES

    def __init__(self, peer: Peer, *, autocast: bool) -> None:
        self.peer, self.network, self.autocast = peer, peer.network, autocast

    def __call__(self) -> Tensor:
        """Mask logits (objects, H / 4, W / 4)."""
        state, device = self.peer.state, self.network.device.type
        state["cached_features"] = {}
        masks = []
        with torch.autocast(device, torch.bfloat16, enabled=self.autocast):
            for out in state["output_dict_per_obj"].values():
                found, _ = self.network._run_single_frame_inference(
                    inference_state=state,
                    output_dict=out,
                    frame_idx=NOW,
                    batch_size=1,
                    is_init_cond_frame=False,
                    point_inputs=None,
                    mask_inputs=None,
                    reverse=False,
                    run_mem_encoder=True,
                )
                masks.append(found["pred_masks"][:, 0])
        return torch.cat(masks).float()


class _Repeated(list[Tensor]):
    """A video that shows one picture for ever."""

    def __init__(self, image: Tensor) -> None:
        super().__init__([image])

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(0)


def _random_upstream(size: int, device: str) -> SAM2VideoPredictor:
    torch.manual_seed(3)
    config = VARIANTS["hiera_t"]
    state = build_model(dataclasses.replace(config, **PLAIN)).state_dict()
    last = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
    state[last] = torch.full_like(state[last], 4.0)  # or every object is absent
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pt")
        torch.save({"model": state}, path)
        network = build_upstream("hiera_t", path, device, size)
    network.fill_hole_area = 0  # needs an extension that pip does not build; ours fills none
    return network


PLAIN = {"pc_blocks": False, "previous_mask": False, "long_memory": False}


def noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Of a third of the spread."""
    drawn = torch.randn(like.shape, generator=generator).to(like.device, like.dtype)
    return drawn * (like.float().std() / 3).to(like.dtype)


def as_memory(frames: Mapping[int, tuple[Tensor, Tensor]]) -> ObjectMemory:
    """Memory of (map, pointer) per frame; frame 0 is the prompted one."""
    memory = ObjectMemory()
    for t in sorted(frames):
        record = FrameMemory(t, *frames[t])
        (memory.remember_tracked if t else memory.remember_prompted)(record)
    return memory


class Ours:
    """Our network on upstream's weights, with a full memory.

    Args:
        peer: gives weights, and picture and memory where the size is the same.
        size_hw: (height, width) of its input.
        switches: of :class:`ModelConfig` that are not plain SAM2's.
        dtype: of the arithmetic.
    """

    stages = OUR_STAGES

    def __init__(
        self,
        peer: Peer | Alone,
        size_hw: tuple[int, int],
        dtype: torch.dtype,
        **switches: bool,
    ) -> None:
        device, weights = peer.device, peer.weights()
        config = dataclasses.replace(VARIANTS["hiera_t"], **(PLAIN | switches))
        self.network: PanoSAM2 = build_model(dataclasses.replace(config, input_size=size_hw))
        if weights:
            load_state(self.network, weights, source="upstream")
        self.network.eval().requires_grad_(False).to(device)
        self.network.precision = dtype
        self.image, self.memories = peer.image, peer.memories()
        if tuple(self.image.shape[-2:]) != size_hw:
            self.image = nn.functional.interpolate(self.image, size_hw)
            for memory in self.memories:
                self._resize(memory)
        self.draws: list[list[LongTermEntry]] = [[] for _ in self.memories]
        if config.previous_mask:
            for memory in self.memories:
                memory.previous_mask = torch.randn(config.width, *self.network.grid_hw).to(device)
        if config.long_memory:
            pointer = torch.randn(config.width).to(device)
            self.draws = [[LongTermEntry(t, pointer, 1.0) for t in range(LONG_FRAMES)]]
        self.pano = bool(switches)

    def _resize(self, memory: ObjectMemory) -> None:
        def at_size(record: FrameMemory) -> FrameMemory:
            resized = nn.functional.interpolate(
                record.memory_map[None].float(), self.network.grid_hw
            )
            return dataclasses.replace(record, memory_map=resized[0].bfloat16())

        memory.prompted = [at_size(record) for record in memory.prompted]
        memory.recent = type(memory.recent)(at_size(record) for record in memory.recent)

    def __call__(self) -> Tensor:
        """One whole tracked frame of every object."""
        model, pano = self.network, self.pano
        with model.autocast():
            features = model.encode_image(self.image, pano=pano)
            shared = features.select(torch.zeros(len(self.memories), dtype=torch.long))
            decoded = propagate(model, shared, self.memories, self.draws, NOW, pano=pano)
            observe(model, shared, decoded, NOW, prompted=False, pano=pano)
        return decoded.logits[:, 0].float()


@contextmanager
def stages(network: nn.Module, names: Mapping[str, str]) -> Iterator[dict[str, float]]:
    """Seconds per stage of what runs inside, by methods of the network."""
    spent = dict.fromkeys(names.values(), 0.0)

    def timed(method: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = now(network)
            out = method(*args, **kwargs)
            spent[stage] += now(network) - started
            return out

        return run

    for name, stage in names.items():
        network.__dict__[name] = timed(getattr(network, name), stage)
    yield spent
    for name in names:
        del network.__dict__[name]


def now(network: nn.Module) -> float:
    """Clock; on a GPU after all that was asked of it, with one thread that of the process."""
    if next(network.parameters()).is_cuda:
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


@torch.inference_mode()
def interleave(
    variants: Mapping[str, PeerStep | Ours], rounds: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run all variants in turn; the first round warms up.

    Returns:
        Per variant its seconds and seconds per stage, a list entry per round; and its masks.
    """
    times: dict[str, Any] = {name: {"step": []} for name in variants}
    masks = {}
    for i in range(rounds + 1):
        for name, step in variants.items():
            with stages(step.network, step.stages) as spent:
                started = now(step.network)
                masks[name] = step()
                seconds = now(step.network) - started
            if i:
                for stage, value in {"step": seconds, **spent}.items():
                    times[name].setdefault(stage, []).append(round(value, 4))
    return times, masks


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Median of paired ratios, the least and the largest."""
    paired = sorted(a / b for a, b in zip(slow, fast, strict=True))
    return {
        "median": round(statistics.median(paired), 3),
        "least": round(paired[0], 3),
        "largest": round(paired[-1], 3),
    }


def agreement(found: Tensor, expected: Tensor) -> dict[str, float]:
    """How alike two sides' mask logits are."""
    return {
        "max_logit_difference": float((found - expected).abs().max()),
        "rms_logit_difference": float((found - expected).square().mean().sqrt()),
        "logit_spread": float(expected.std()),
        "same_mask_pixels": float(((found > 0) == (expected > 0)).float().mean()),
    }


@torch.inference_mode()
def gflops(step: Ours) -> float:
    """GFLOPs of a step, attention by torch's kernels included."""
    chosen, step.network.precision = step.network.precision, torch.float32
    # The counter knows no fused kernels of the CPU, and takes operations apart behind autocast.
    with sdpa_kernel(SDPBackend.MATH), counter() as counted:
        step()
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
    times, masks = interleave(variants, rounds)
    exact, step = masks["upstream float32"], {name: t["step"] for name, t in times.items()}
    against = {
        "best_vs_fp32": ("upstream float32", "ours best"),
        "best_vs_bf16": ("upstream bfloat16", "ours best"),
        "exact_vs_fp32": ("upstream float32", "ours float32"),
    }
    found = {f"{device}.1024.{k}": ratio(step[a], step[b]) for k, (a, b) in against.items()}
    squash = ratio(step["upstream float32"], step["ours best 512x1024"])
    return found | {
        f"{device}.512x1024_vs_squash": squash,
        "sizes.seconds": times,
        "sizes.masks": {
            name: agreement(m, exact) for name, m in masks.items() if m.shape == exact.shape
        },
    }


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
    upstream, key = most["upstream float32"], "cpu" if device == "cpu" else "gpu"
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
