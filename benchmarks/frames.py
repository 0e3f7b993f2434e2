"""One tracked frame, ours and upstream's, on the same picture and the same full memory.

Memory is full as after 16 tracked frames: seven maps and sixteen pointers, made by upstream's own
first two frames and noise.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor, nn

from panosam2_core.build import VARIANTS, build_model, load_state
from panosam2_core.evaluation.upstream import _empty_state, build_upstream
from panosam2_core.memory.bank import FrameMemory, LongTermEntry, ObjectMemory
from panosam2_core.model import PanoSAM2
from panosam2_core.step import observe, propagate

NOW = 100  # index of the measured frame
LONG_FRAMES = 2
WARM_UP = 3 if torch.cuda.is_available() else 1  # rounds; what is compiled is recorded in two
PLAIN = {"pc_blocks": False, "previous_mask": False, "long_memory": False}
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


class Peer:
    """Upstream's predictor with a full memory of some objects.

    Args:
        size: side of its square.
        objects: how many.
        device: that it runs on.
        compiled: by torch.compile, as its `vos_optimized` does.
    """

    def __init__(self, size: int, objects: int, device: str, *, compiled: bool = False) -> None:
        self.network = _random_upstream(size, device, compiled)
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


def _random_upstream(size: int, device: str, compiled: bool) -> SAM2VideoPredictor:
    torch.manual_seed(3)
    config = VARIANTS["hiera_t"]
    state = build_model(dataclasses.replace(config, **PLAIN)).state_dict()
    last = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
    state[last] = torch.full_like(state[last], 4.0)  # or every object is absent
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pt")
        torch.save({"model": state}, path)
        network = build_upstream("hiera_t", path, device, size, compiled=compiled)
    network.fill_hole_area = 0  # needs an extension that pip does not build; ours fills none
    return network


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
    spent, device = dict.fromkeys(names.values(), 0.0), device_of(network)

    def timed(method: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = now(device)
            out = method(*args, **kwargs)
            spent[stage] += now(device) - started
            return out

        return run

    for name, stage in names.items():
        network.__dict__[name] = timed(getattr(network, name), stage)
    yield spent
    for name in names:
        del network.__dict__[name]


def now(device: torch.device) -> float:
    """Clock; on a GPU after all that was asked of it, with one thread that of the process."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def device_of(network: nn.Module) -> torch.device:
    """Where its weights are."""
    return next(network.parameters()).device


@torch.inference_mode()
def interleave(
    variants: Mapping[str, PeerStep | Ours], rounds: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run all variants in turn; the first rounds warm up.

    Returns:
        Per variant its seconds and seconds per stage, a list entry per round; and its masks.
    """
    times: dict[str, Any] = {name: {"step": []} for name in variants}
    masks = {}
    for i in range(-WARM_UP, rounds):
        for name, step in variants.items():
            with stages(step.network, step.stages) as spent:
                started = now(device_of(step.network))
                masks[name] = step()
                seconds = now(device_of(step.network)) - started
            if i >= 0:
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
