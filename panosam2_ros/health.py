"""What the node knows of its own condition, and what /diagnostics says of it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from panosam2_core import ObjectState
from panosam2_ros.camera_info import CameraInfoInput
from panosam2_ros.diagnostics import ERROR, WARN, Report
from panosam2_ros.image_input import ImageInput
from panosam2_ros.stream import Outcome
from panosam2_ros.worker import Counts

ASPECT_TOLERANCE = 0.05


class Health:
    """Collects figures; written by the worker's thread, read by the executor's."""

    def __init__(self) -> None:
        self.last_error = ""
        self.failure = ""  # of the newest frame; empty when it went well
        self.failures = 0
        self.paused = False
        self.model: dict[str, Any] = {}
        self._finished: deque[float] = deque(maxlen=60)
        self._latencies: deque[float] = deque(maxlen=200)
        self._objects: Mapping[int, tuple[ObjectState, float]] = {}
        self._first_memory_mb: float | None = None

    def start(self) -> None:
        """Begins anew, when the node becomes active or stops being so."""
        self.paused = False
        self._finished.clear()
        self._latencies.clear()
        self._objects = {}
        self.failure = ""
        self._first_memory_mb = None

    def finished(self, outcome: Outcome, latency_ms: float) -> None:
        """Takes in a frame whose results are out.

        Args:
            outcome: Of the frame.
            latency_ms: From the image's stamp until now.
        """
        if outcome.is_new:  # the age of a picture that stands says nothing about speed
            self._finished.append(time.monotonic())
            self._latencies.append(latency_ms)
        self.failure = ""
        found = outcome.result.objects if outcome.result else {}
        self._objects = {i: (outcome.states[i], o.visibility) for i, o in found.items()}

    def failed(self, text: str) -> None:
        """Takes in a frame that could not be worked on.

        Args:
            text: Why, and what can be done.
        """
        self.failure = self.last_error = text
        self.failures += 1

    def fps(self) -> float:
        """Results per second until now, so that the rate falls when no more come."""
        if len(self._finished) < 2:
            return 0.0
        return (len(self._finished) - 1) / max(time.monotonic() - self._finished[0], 1e-6)

    def reports(
        self,
        counts: Counts | None,
        source: ImageInput | None,
        camera_info: CameraInfoInput | None,
        values: Mapping[str, Any],
        device: str,
    ) -> list[Report]:
        """What goes out on /diagnostics.

        Args:
            counts: Of the worker, None while the node is not active.
            source: The input, likewise.
            camera_info: Likewise.
            values: Parameters by name.
            device: That the model is on; "none" without a model.

        Returns:
            One report per subject.
        """
        return [
            self._tracker(counts, source, values, loaded=device != "none"),
            _input(source, camera_info, values),
            self._gpu(device, counts),
            Report("model", self.model or {"variant": values["model.variant"]}),
            self._object_report(),
        ]

    def _tracker(
        self,
        counts: Counts | None,
        source: ImageInput | None,
        values: Mapping[str, Any],
        *,
        loaded: bool,
    ) -> Report:
        median, tail = _percentiles(self._latencies)
        received = counts.received if counts else 0
        state = "paused" if self.paused else "degraded" if self.failure else "active"
        facts: dict[str, Any] = {
            "state": "not active" if counts is None else state,
            "objects": len(self._objects),
            "fps": self.fps(),
            "latency_ms_p50": median,
            "latency_ms_p95": tail,
            "received": received,
            "processed": counts.processed if counts else 0,
            "dropped": counts.dropped if counts else 0,
            "drop_ratio": counts.dropped / received if counts and received else 0.0,
            "last_frame_age_ms": source.age_s * 1e3 if source else math.nan,
            "failures": self.failures,
            "last_error": self.last_error,
        }
        slow = tail > values["diagnostics.max_latency_ms"]
        low = not self.paused and 0 < self.fps() < values["diagnostics.min_rate_hz"]
        return (
            Report("tracker", facts)
            .check(slow, WARN, "results are late; use a GPU or a smaller model")
            .check(low, WARN, "few results per second; unless the camera is slow, use a GPU")
            .check(bool(self.failure), ERROR, self.failure)
            .check(not loaded and bool(self.last_error), ERROR, self.last_error)
        )

    def _gpu(self, device: str, counts: Counts | None) -> Report:
        if not device.startswith("cuda"):
            facts: dict[str, Any] = {"device": device}
            slow = "runs on the CPU; a GPU is several times faster"
            return Report("gpu", facts).check(device == "cpu", WARN, slow)
        now = gpu_memory_mb(device)
        if self._first_memory_mb is None and counts and counts.processed > 100:
            self._first_memory_mb = now
        begun = self._first_memory_mb
        frames = counts.processed if counts else 0
        facts = {
            "device": device,
            "memory_allocated_mb": now,
            "peak_mb": torch.cuda.max_memory_allocated(device) / 2**20,
            "growth_mb_per_1k_frames": 0.0 if begun is None else (now - begun) / frames * 1e3,
        }
        return Report("gpu", facts)

    def _object_report(self) -> Report:
        facts = {
            str(i): f"{state.name.lower()} {visibility:.2f}"
            for i, (state, visibility) in self._objects.items()
        }
        return Report("objects", facts)


def gpu_memory_mb(device: str) -> float:
    """Memory that the model and its state take.

    Args:
        device: Of the model.

    Returns:
        Megabytes on the GPU; 0 without one.
    """
    return torch.cuda.memory_allocated(device) / 2**20 if device.startswith("cuda") else 0.0


def shape_hint(size_hw: tuple[int, int] | None, values: Mapping[str, Any]) -> str:
    """Says what to do when the images do not have the shape of a whole panorama.

    Args:
        size_hw: (height, width) of the images, None if there was none.
        values: Parameters by name.

    Returns:
        The hint; empty if all is well.
    """
    whole = values["projection"] == "equirectangular" and not values.get("crop")
    whole = whole and values["hfov_deg"] == 360 and values["vfov_deg"] == 180
    if size_hw is None or not whole:
        return ""
    height, width = size_hw
    if height and abs(width / (2 * height) - 1) <= ASPECT_TOLERANCE:
        return ""
    return (
        f"the images are {width}x{height}, but a whole equirectangular panorama is twice as wide "
        "as high; set projection:=perspective for an ordinary camera, hfov_deg or vfov_deg for a "
        "part of a panorama, or let the driver stitch (two fisheye circles are no panorama)"
    )


def _input(
    source: ImageInput | None, camera_info: CameraInfoInput | None, values: Mapping[str, Any]
) -> Report:
    if source is None or camera_info is None:
        return Report("input", {})
    nobody = f"no camera publishes {source.topic}; remap the input `image` to your camera's"
    starving = source.starvation
    shape = shape_hint(source.size_hw, values)
    lonely = not source.publishers
    size = "" if source.size_hw is None else f"{source.size_hw[1]}x{source.size_hw[0]}"
    other = camera_info.fault(source.size_hw)
    hint = nobody if lonely else starving or other or shape
    facts = {
        "topic": source.topic,
        "encoding": source.encoding,
        "size": size,
        "frame_id": source.frame_id,
        "publishers": source.publishers,
        "offered_reliability": source.offered_reliability,
        "reliability": source.used_reliability,
        "incompatible_qos_count": source.incompatible_count,
        "lost": source.lost_count,
        "rate_hz": source.rate_hz,
        "stamp_skew_ms": source.stamp_skew_ms,
        "camera_info": camera_info.summary,
        "hint": hint,
    }
    return (
        Report("input", facts)
        .check(lonely, WARN, nobody)
        .check(bool(starving), WARN, starving)
        .check(bool(other), WARN, other)
        .check(bool(shape), WARN, shape)
    )


def _percentiles(latencies_ms: deque[float]) -> tuple[float, float]:
    if not latencies_ms:
        return 0.0, 0.0
    median, tail = np.percentile(list(latencies_ms), (50, 95))
    return float(median), float(tail)
