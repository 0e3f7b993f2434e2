"""Plan of one synthetic clip: camera path, objects in 3-D, light; plain numbers, no pixels.

Frames of reference. World and camera axes are x right, y down, z forward (camera frame of
`panosam2_core.geometry.erp`); ``world = R(yaw, pitch, roll) @ camera``. Lengths are metres,
angles radians, time is counted in frames. Everything is computed in float64 from a
`StableRng`, so a plan is the same at every resolution and on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from panosam2_core.data.assets import AssetLibrary, Split
from panosam2_core.data.rng import StableRng
from panosam2_core.errors import ConfigError

F64 = NDArray[np.float64]
Role = Literal["target", "occluder", "lookalike", "other"]

COVER_LIMIT = math.radians(34.0)
"""Largest angular radius of an object that hides the target completely."""
WORLD_VERSION = 1
"""Raised whenever the same seed would give another scene."""


@dataclass(frozen=True)
class WorldConfig:
    """What a synthetic world contains. Speeds are per frame; a stride of k multiplies them by k.

    Attributes:
        size_hw: (height, width) of the frames in pixels, width = 2 * height.
        frames: Frames of one clip.
        objects: Fewest and most objects of one clip, target included.
        angular_size_deg: Range of an object's longer side, log-uniform, in degrees.
        max_latitude_deg: Bound of an object's latitude.
        object_speed_deg: Largest own speed of an object, degrees per frame.
        yaw_speed_deg: Largest yaw speed of the camera, degrees per frame.
        tilt_deg: Largest camera pitch and roll.
        translation_m: Amplitude of the camera's path; objects stand 2.5 to 9 m away.
        p_seam: Chance that the target crosses the seam; otherwise it stays clear of it.
        p_occlusion: Chance that the target is fully occluded once.
        occlusion_frames: Fewest and most frames of that full occlusion.
        p_lookalike: Chance that a copy of the target moves near it.
        p_motion_blur: Chance that a clip has motion blur (three times the cost).
        exposure: Amplitude of the exposure drift (share of the brightness).
        noise: Largest standard deviation of the sensor noise, in [0, 1] units.
        warp: Largest amplitude of the non-rigid deformation, share of the object's half side.
        spin_deg: Largest in-plane spin of an object, degrees per frame.
        p_upright: Chance that an object keeps upright (as people and cars do).
        assets: ``"builtin"`` (procedural) or ``"cached"`` (mixed with fetched ones).
        p_cached_sprite: Chance of a fetched sprite when ``assets`` is ``"cached"``.
        p_cached_background: Chance of a fetched background when ``assets`` is ``"cached"``.
    """

    size_hw: tuple[int, int] = (512, 1024)
    frames: int = 60
    objects: tuple[int, int] = (2, 6)
    angular_size_deg: tuple[float, float] = (8.0, 70.0)
    max_latitude_deg: float = 75.0
    object_speed_deg: float = 6.0
    yaw_speed_deg: float = 8.0
    tilt_deg: float = 10.0
    translation_m: float = 0.35
    p_seam: float = 0.5
    p_occlusion: float = 1.0 / 3.0
    occlusion_frames: tuple[int, int] = (5, 20)
    p_lookalike: float = 1.0 / 3.0
    p_motion_blur: float = 0.25
    exposure: float = 0.15
    noise: float = 0.03
    warp: float = 0.07
    spin_deg: float = 3.0
    p_upright: float = 0.6
    assets: str = "builtin"
    p_cached_sprite: float = 0.6
    p_cached_background: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: A value is out of range.
        """
        height, width = self.size_hw
        if width != 2 * height or height < 32:
            raise ConfigError(f"expected size_hw (h, 2h) with h >= 32, got {self.size_hw}")
        if self.frames < 1:
            raise ConfigError(f"expected frames >= 1, got {self.frames}")
        if not 1 <= self.objects[0] <= self.objects[1] <= 250:
            raise ConfigError(f"expected 1 <= objects[0] <= objects[1] <= 250, got {self.objects}")
        low, high = self.angular_size_deg
        if not 0.0 < low <= high <= 90.0:
            raise ConfigError(f"expected 0 < low <= high <= 90 degrees, got {(low, high)}")


@dataclass(frozen=True)
class ClipPlan:
    """What is demanded of one clip.

    Attributes:
        key: Name of its random stream.
        seam: The target crosses the seam.
        occlusion: The target is fully occluded once.
        lookalike: A copy of the target moves near it.
    """

    key: str
    seam: bool
    occlusion: bool
    lookalike: bool


@dataclass(frozen=True)
class Outline:
    """Extents of a sprite's silhouette on its canvas [-1, 1]^2.

    Attributes:
        half_x: Largest absolute x inside.
        half_y: Largest absolute y inside.
        outer: Largest distance from the centre inside.
        inner: Radius of the largest centred disc that is all inside.
    """

    half_x: float
    half_y: float
    outer: float
    inner: float


def outline_of(rgba: NDArray[np.uint8]) -> Outline:
    """Measure a sprite (S, S, 4) whose alpha above one half is its silhouette."""
    size = rgba.shape[0]
    axis = (np.arange(size) + 0.5) / size * 2.0 - 1.0
    inside = rgba[..., 3] > 127
    radius = np.hypot(axis[:, None], axis[None, :])
    half_x = float(np.abs(axis[inside.any(0)]).max(initial=0.1))
    half_y = float(np.abs(axis[inside.any(1)]).max(initial=0.1))
    outer = float(radius[inside].max(initial=0.1))
    return Outline(half_x, half_y, outer, float(radius[~inside].min(initial=1.0)))


@dataclass(frozen=True)
class SceneObject:
    """One object: a deformable textured sheet in 3-D that faces the camera up to a tilt.

    Attributes:
        object_id: Label value, 1 or more.
        role: Why it is there.
        sprite: Asset reference.
        mirror: Sprite flipped left to right.
        colour: (3, 3) matrix applied to the sprite's RGB.
        half_x: Metres from the canvas centre to its side.
        half_y: Metres from the canvas centre to its top.
        reach: Metres; radius of a ball about the centre that holds the object.
        centre: (T, 3) world position in metres.
        spin: (T,) in-plane angle in radians.
        tilt: (T, 2) out-of-plane angles in radians.
        warp: Deformation amplitude, spatial frequency, speed (per frame), two phases.
        shade: Slopes of the brightness along the object's x and y.
        gone: First and last frame on which it is not there at all, or None.
    """

    object_id: int
    role: Role
    sprite: str
    mirror: bool
    colour: F64
    half_x: float
    half_y: float
    reach: float
    centre: F64
    spin: F64
    tilt: F64
    warp: tuple[float, float, float, float, float]
    shade: tuple[float, float]
    gone: tuple[int, int] | None = None

    def there(self, time: float) -> bool:
        """Tell whether the object is there at a fractional frame."""
        return self.gone is None or not self.gone[0] - 0.5 <= time < self.gone[1] + 0.5


@dataclass(frozen=True)
class Scene:
    """One planned clip; ``objects[0]`` is the target.

    Attributes:
        frames: Number of frames T.
        angles: (T, 3) camera yaw, pitch, roll in radians, unwrapped.
        position: (T, 3) camera position in metres.
        objects: The objects; depth decides who hides whom.
        background: Asset reference.
        background_turn: Yaw of the background in radians.
        background_radius: Metres to the background (parallax).
        gain: (T, 3) exposure and white balance per channel.
        noise: Standard deviation of the sensor noise in [0, 1] units.
        blur: Shutter time in frames, 0 for none.
        occlusion: Planned full occlusion of the target, (first, last) frame, or None.
        key: Name of the random stream the scene was made from.
    """

    frames: int
    angles: F64
    position: F64
    objects: tuple[SceneObject, ...]
    background: str
    background_turn: float
    background_radius: float
    gain: F64
    noise: float
    blur: float
    occlusion: tuple[int, int] | None
    key: str


@dataclass
class _Draft:
    """Choices of one object before its path is known."""

    role: Role
    sprite: str
    colour: F64
    aspect: float
    size: float
    distance: float
    mirror: bool
    outline: Outline
    spin: F64
    tilt: F64
    warp: tuple[float, float, float, float, float]
    half: float = field(init=False)

    def __post_init__(self) -> None:
        wide = max(self.outline.half_x * self.aspect, self.outline.half_y / self.aspect)
        self.half = self.distance * math.tan(self.size / 2.0) / wide

    @property
    def reach(self) -> float:
        stretch = max(self.aspect, 1.0 / self.aspect)
        return self.half * stretch * (self.outline.outer + 1.5 * self.warp[0])

    @property
    def radius(self) -> float:
        """Largest angular radius over the clip (distance shrinks by at most 15 %)."""
        return math.asin(min(0.95, self.reach / (0.85 * self.distance)))


def _unit(v: F64) -> F64:
    return np.asarray(v / np.linalg.norm(v, axis=-1, keepdims=True))


def _direction(lon: float, lat: float) -> F64:
    return np.array([math.cos(lat) * math.sin(lon), -math.sin(lat), math.cos(lat) * math.cos(lon)])


def _longitude(ray: F64) -> F64:
    return np.unwrap(np.arctan2(ray[..., 0], ray[..., 2]))


def _tangents(ray: F64) -> tuple[F64, F64]:
    """Return unit east and north (T, 3) at rays (T, 3) away from the poles."""
    east = _unit(np.stack([ray[:, 2], np.zeros(len(ray)), -ray[:, 0]], axis=-1))
    return east, np.asarray(np.cross(ray, east), dtype=np.float64)


def _beside(ray: F64, offset: F64, bearing: F64) -> F64:
    """Return rays at an angular ``offset`` (T,) from ``ray`` toward ``bearing`` (0 = east)."""
    east, north = _tangents(ray)
    side = np.cos(bearing)[:, None] * east + np.sin(bearing)[:, None] * north
    return np.asarray(np.cos(offset)[:, None] * ray + np.sin(offset)[:, None] * side)


def _wave(rng: StableRng, frames: int, slowest: float = 150.0, fastest: float = 35.0) -> F64:
    """Return a smooth signal (T,) in [-1, 1]: two sinusoids."""
    t = np.arange(frames)
    total = np.zeros(frames)
    for weight in (0.65, 0.35):
        rate = 2 * np.pi / rng.uniform(fastest, slowest)
        total += weight * np.sin(rate * t + rng.uniform(0.0, 2 * np.pi))
    return total


def _recolour(rng: StableRng, strength: float = 1.0) -> F64:
    """Return a random colour matrix: hue turn about grey, saturation, brightness."""
    angle = strength * rng.uniform(-0.7, 0.7)
    saturation = 1.0 + strength * rng.uniform(-0.4, 0.3)
    light = 1.0 + strength * rng.uniform(-0.3, 0.2)
    grey = np.full((3, 3), 1.0 / 3.0)
    cross = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3.0)
    turn = grey + saturation * (math.cos(angle) * (np.eye(3) - grey) + math.sin(angle) * cross)
    return np.asarray(light * turn)


class _Planner:
    """Builds one scene; a class only because the steps share their inputs."""

    def __init__(self, config: WorldConfig, plan: ClipPlan, library: AssetLibrary) -> None:
        self.config, self.plan, self.library = config, plan, library
        self.rng = StableRng("world", WORLD_VERSION, plan.key)
        self.frames = config.frames
        self.drafts = 0
        self.limit = math.radians(config.max_latitude_deg)

    def draft(self, role: Role, size: float, distance: float, cover: bool = False) -> _Draft:
        """Draw the looks of one object."""
        self.drafts += 1
        rng, config = self.rng.child(f"draft{self.drafts}"), self.config
        sprite = self.library.draw_sprite(rng, cover)
        upright = rng.chance(config.p_upright)
        turn = math.radians(rng.uniform(-1, 1) * config.spin_deg)
        spin: F64 = np.arange(self.frames, dtype=np.float64) * turn
        spin = np.asarray(spin + rng.uniform(0, 2 * np.pi))
        if upright:
            spin = 0.15 * _wave(rng, self.frames)
        tilt = np.stack([rng.uniform(0.1, 0.5) * _wave(rng, self.frames) for _ in "xy"], axis=-1)
        amplitude = 0.0 if cover else rng.uniform(0.0, 1.0) * config.warp
        first, second = (float(p) for p in rng.uniforms(2, 0.0, 2 * np.pi))
        warp = (amplitude, rng.uniform(1.5, 4.0), rng.uniform(0.05, 0.4), first, second)
        aspect = 1.0 if cover or rng.chance(0.4) else rng.log_uniform(0.75, 1.33)
        return _Draft(
            role=role,
            sprite=sprite,
            colour=_recolour(rng),
            aspect=aspect,
            size=size,
            distance=distance,
            mirror=rng.chance(0.5),
            outline=outline_of(self.library.sprite(sprite)),
            spin=spin,
            tilt=np.zeros_like(tilt) if cover else tilt,
            warp=warp,
        )

    def size(self, high_deg: float = 90.0) -> float:
        """Draw an angular size in radians, at most ``high_deg``."""
        low, high = self.config.angular_size_deg
        return math.radians(self.rng.log_uniform(low, max(low, min(high, high_deg))))

    def wander(self, start: F64) -> F64:
        """Return a free path (T, 3) of unit directions: great circles that bend and bounce."""
        rng = self.rng
        speed = math.radians(self.config.object_speed_deg) * rng.uniform(0.03, 1.0)
        pace = speed * (0.75 + 0.25 * _wave(rng, self.frames))
        heading = rng.uniform(0, 2 * np.pi) + 0.8 * _wave(rng, self.frames)
        out = np.empty((self.frames, 3))
        here, flip = start, 1.0
        for t in range(self.frames):
            out[t] = here
            angle = np.array([heading[t]])
            bearing = np.arctan2(flip * np.sin(angle), np.cos(angle))
            there = _beside(here[None], np.array([pace[t]]), bearing)[0]
            if abs(math.asin(max(-1.0, min(1.0, there[1])))) > self.limit:
                flip = -flip
                there = _beside(here[None], np.array([pace[t]]), -bearing)[0]
            here = there / np.linalg.norm(there)
        return out

    def start(self) -> F64:
        """Draw a start direction; latitudes are uniform on the sphere's area within bounds."""
        top = math.sin(self.limit)
        return _direction(self.rng.uniform(-np.pi, np.pi), math.asin(self.rng.uniform(-top, top)))

    def depth(self, draft: _Draft) -> F64:
        """Return a distance (T,) that breathes by at most 15 %."""
        return draft.distance * (1.0 + 0.15 * _wave(self.rng, self.frames))

    def cover_path(self, ray: F64, target: _Draft) -> tuple[_Draft, F64, tuple[int, int]]:
        """Plan an occluder: its looks, its rays (T, 3), the hidden frames (first, last)."""
        rng, frames = self.rng, self.frames
        low, high = self.config.occlusion_frames
        count = max(1, min(rng.integer(low, high), int(frames * 0.4)))
        first = min(max(1, int(rng.uniform(0.35, 0.6) * frames)), frames - count)
        beta = min(target.radius * rng.uniform(1.25, 1.6) + 0.02, COVER_LIMIT * 1.25)
        distance = target.distance * rng.uniform(0.45, 0.6)
        draft = self.draft("occluder", 0.5, distance, cover=True)
        # The inner disc must cover the target even when the depth breathes outward.
        draft.half = 1.16 * distance * math.tan(beta) / draft.outline.inner
        slack = max(beta - target.radius, 0.004) * 0.9
        t = np.arange(frames) - (first + (count - 1) / 2.0)
        edge = count / 2.0
        inside = slack * np.minimum(np.abs(t) / edge, 1.0)
        lead = max(first - 1.0, 1.0)
        far = max(2.6 * target.radius + slack, 0.05) * 1.35 / lead
        fast = max(far, slack / edge, math.radians(rng.uniform(1.0, 3.0)))
        offset = np.sign(t) * np.minimum(inside + fast * np.maximum(np.abs(t) - edge, 0.0), 2.4)
        bearing = np.full(frames, rng.uniform(-0.5, 0.5) + (np.pi if rng.chance(0.5) else 0.0))
        return draft, _beside(ray, offset, bearing), (first, first + count - 1)

    def twin_path(self, ray: F64, target: _Draft) -> tuple[_Draft, F64]:
        """Plan a look-alike: a copy of the target that moves near it."""
        rng = self.rng
        twin = self.draft("lookalike", target.size, target.distance * rng.uniform(0.9, 1.2))
        jitter = np.eye(3) if rng.chance(0.5) else _recolour(rng, 0.15)
        copy = _Draft(
            role="lookalike",
            sprite=target.sprite,
            colour=jitter @ target.colour,
            aspect=target.aspect,
            size=target.size * rng.uniform(0.85, 1.1),
            distance=twin.distance,
            mirror=target.mirror if rng.chance(0.7) else not target.mirror,
            outline=target.outline,
            spin=target.spin + rng.uniform(-0.3, 0.3),
            tilt=twin.tilt,
            warp=target.warp[:3] + twin.warp[3:],
        )
        gap = (target.radius + copy.radius) * (1.35 + 0.3 * _wave(rng, self.frames)) + 0.05
        bearing = rng.uniform(0, 2 * np.pi) + 0.8 * _wave(rng, self.frames)
        return copy, _beside(ray, np.minimum(gap, 2.6), bearing)

    def camera(self) -> tuple[F64, F64]:
        """Return angles (T, 3) without the yaw's start value and position (T, 3)."""
        rng, config = self.rng, self.config
        top = math.radians(config.yaw_speed_deg)
        rate = top * (rng.sign() * rng.uniform(0.0, 0.75) + 0.25 * _wave(rng, self.frames))
        yaw = np.cumsum(rate) - rate[0]
        lean = math.radians(config.tilt_deg)
        pitch = lean * rng.uniform() * _wave(rng, self.frames)
        roll = lean * rng.uniform() * _wave(rng, self.frames)
        scale = np.array([1.0, 0.3, 1.0]) * config.translation_m * rng.uniform(0.2, 1.0)
        path = np.stack([_wave(rng, self.frames) for _ in range(3)], axis=-1) * scale
        return np.stack([yaw, pitch, roll], axis=-1), path

    def aim(self, angles: F64, ray: F64, radius: float) -> F64:
        """Choose the camera's yaw so that the target does, or does not, cross the seam."""
        lon, yaw = _longitude(ray), angles[:, 0].copy()
        rng = self.rng
        if self.plan.seam:
            at = int(rng.uniform(0.2, 0.8) * self.frames)
            yaw += lon[at] - yaw[at] - rng.sign() * np.pi
        else:
            lat = np.abs(np.arcsin(np.clip(ray[:, 1], -1, 1))).max() + math.radians(4.0)
            spread = math.sin(radius) / max(math.cos(min(lat, 1.55)), 1e-3)
            half = math.asin(spread) if spread < 1.0 else np.pi
            room = max(np.pi - half - math.radians(14.0), 0.02)
            for slow in (1.0, 0.7, 0.4, 0.2, 0.1, 0.0):
                relative = lon - slow * yaw
                if np.ptp(relative) < 2 * room:
                    yaw = slow * yaw
                    break
            else:
                yaw = lon - lon[0]
                relative = lon - yaw
            free = room - np.ptp(relative) / 2.0
            yaw = yaw + (relative.max() + relative.min()) / 2.0 + rng.uniform(-0.9, 0.9) * free
        return np.stack([yaw, angles[:, 1], angles[:, 2]], axis=-1)

    def freeze(self, number: int, draft: _Draft, centre: F64) -> SceneObject:
        """Turn a draft and its path into a scene object."""
        slope = self.rng.uniforms(2, -0.35, 0.35)
        return SceneObject(
            object_id=number,
            role=draft.role,
            sprite=draft.sprite,
            mirror=draft.mirror,
            colour=draft.colour,
            half_x=draft.half * draft.aspect,
            half_y=draft.half / draft.aspect,
            reach=draft.reach,
            centre=centre,
            spin=draft.spin,
            tilt=draft.tilt,
            warp=draft.warp,
            shade=(float(slope[0]), float(slope[1])),
        )

    def companions(
        self, path: F64, ray: F64, target: _Draft
    ) -> tuple[list[tuple[_Draft, F64]], tuple[int, int] | None]:
        """Plan the occluder and the look-alike; return (draft, world path) pairs."""
        out: list[tuple[_Draft, F64]] = []
        hidden: tuple[int, int] | None = None
        if self.plan.occlusion:
            cover, way, hidden = self.cover_path(ray, target)
            out.append((cover, path + way * cover.distance))
        if self.plan.lookalike:
            twin, way = self.twin_path(ray, target)
            out.append((twin, path + way * self.depth(twin)[:, None]))
        return out, hidden

    def others(self, count: int, ray: F64, target: _Draft) -> list[tuple[_Draft, F64]]:
        """Plan free objects that leave the target clear in the first frame."""
        out = []
        for number in range(count):
            draft = self.draft("other", self.size(), self.rng.uniform(2.5, 9.0))
            keep = target.radius + draft.radius + 0.03
            start, best = self.start(), -1.0
            for _ in range(12):
                trial = self.start()
                gap = math.acos(max(-1.0, min(1.0, float(trial @ ray[0]))))
                if gap > best:
                    start, best = trial, gap
                if best > keep:
                    break
            if best < keep and draft.distance < target.distance:
                draft.half *= 1.5 * target.distance / draft.distance
                draft.distance = 1.5 * target.distance
            out.append((draft, self.wander(start) * self.depth(draft)[:, None]))
            self.rng = self.rng.child(number)
        return out

    def build(self) -> Scene:
        """Plan the whole clip."""
        rng, config, plan = self.rng, self.config, self.plan
        special = int(plan.occlusion) + int(plan.lookalike)
        count = max(rng.integer(*config.objects), 1 + special)
        limit = math.degrees(COVER_LIMIT) if plan.occlusion else 90.0
        target = self.draft("target", self.size(limit), rng.uniform(4.0, 6.0))
        angles, path = self.camera()
        world = self.wander(self.start()) * self.depth(target)[:, None]
        ray = _unit(world - path)
        pairs = [(target, world)]
        extra, hidden = self.companions(path, ray, target)
        pairs += extra + self.others(count - 1 - special, ray, target)
        angles = self.aim(angles, ray, target.radius)
        rng = self.rng
        tint = 1.0 + rng.uniforms(3, -0.06, 0.06)
        gain = tint * np.exp(config.exposure * _wave(rng, self.frames))[:, None]
        return Scene(
            frames=self.frames,
            angles=angles,
            position=path,
            objects=tuple(self.freeze(i + 1, d, c) for i, (d, c) in enumerate(pairs)),
            background=self.library.draw_background(rng.child("background")),
            background_turn=rng.uniform(0, 2 * np.pi),
            background_radius=rng.uniform(12.0, 40.0),
            gain=gain,
            noise=config.noise * rng.uniform(),
            blur=rng.uniform(0.3, 0.7) if rng.chance(config.p_motion_blur) else 0.0,
            occlusion=hidden,
            key=plan.key,
        )


def draw_plan(config: WorldConfig, split: Split, index: int) -> ClipPlan:
    """Draw what clip ``index`` of a split demands, from the config's chances."""
    rng = StableRng("plan", WORLD_VERSION, split, index)
    seam, occlusion, lookalike = (float(u) for u in rng.uniforms(3))
    room = config.objects[1] - 1
    covered = occlusion < config.p_occlusion and room >= 1
    return ClipPlan(
        key=f"{split}/{index}",
        seam=seam < config.p_seam,
        occlusion=covered,
        lookalike=lookalike < config.p_lookalike and room >= 1 + int(covered),
    )


def build_scene(config: WorldConfig, plan: ClipPlan, library: AssetLibrary) -> Scene:
    """Plan one clip; equal arguments give equal scenes."""
    return _Planner(config, plan, library).build()
