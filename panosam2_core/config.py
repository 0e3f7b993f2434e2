"""Settings as frozen dataclasses: the only place where defaults live."""

from __future__ import annotations

import math
from dataclasses import dataclass

from panosam2_core.errors import ConfigError
from panosam2_core.field_of_view import FieldOfView


@dataclass(frozen=True)
class ModelConfig:
    """What a network is built from. Saved beside its weights.

    Attributes:
        variant: ``nano``, ``hiera_t``, ``hiera_s``, ``hiera_b+`` or ``hiera_l``.
        release: of SAM2 whose parts are built, ``2.1`` or ``2.0``. In 2.0 object pointers have no
            time code, and the memory of an absent object has no mark. ``nano`` is built as 2.1.
        input_size: (height, width) the network sees, multiples of 32. Any frame is resized to it.
        width: channels of the memory-conditioned feature (SAM2: 256).
        memory_dim: channels of a memory map (SAM2: 64); ``width`` must be a multiple of it.
        attention_layers: layers of memory attention (SAM2: 4).
        attention_mlp: hidden width of the memory-attention MLPs (SAM2: 2048).
        decoder_mlp: hidden width of the decoder's token MLPs (SAM2: 2048).
        pc_blocks: panoramic convolutions before the decoder (paper 3.1).
        previous_mask: the last frame's mask guides the decoder (paper 3.1). Without both: SAM2's
            decoder.
        long_memory: the long-short memory module (paper 3.2). Off: SAM2's tokens.
        pseudo_frames: what that module makes: ``long``, a pseudo memory map per long-term frame,
            or ``short``, one per short-term frame. The paper's text allows both; ``long`` needs
            a third of the tokens.
        yaw_true: position codes that do not know the absolute yaw: sine codes and Hiera's
            background code constant in x, harmonic RoPE in x, and a decoder code centred on each
            object. On closed panoramas Hiera's patches are circular, too. Rolling a closed
            panorama by :attr:`yaw_step` then rolls the masks. Paper silent; chosen because a
            network trained this way from the start cannot tell where the seam is. Off by default
            for SAM2's own weights, which were trained with absolute codes.
        num_memory_maps: prompted map plus recent maps that memory attention sees (SAM2: 7).
        num_pointers: object pointers that memory attention sees (SAM2: 16).
    """

    variant: str = "nano"
    release: str = "2.1"
    input_size: tuple[int, int] = (256, 512)
    width: int = 128
    memory_dim: int = 64
    attention_layers: int = 2
    attention_mlp: int = 512
    decoder_mlp: int = 512
    pc_blocks: bool = True
    previous_mask: bool = True
    long_memory: bool = True
    pseudo_frames: str = "long"
    yaw_true: bool = True
    num_memory_maps: int = 7
    num_pointers: int = 16

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ConfigError: for a size the network cannot be built with.
        """
        check_input_size(self.input_size)
        if self.release not in ("2.0", "2.1"):
            raise ConfigError(f"release of SAM2 must be 2.0 or 2.1, got {self.release!r}")
        if self.pseudo_frames not in ("long", "short"):
            raise ConfigError(f"pseudo_frames must be long or short, got {self.pseudo_frames!r}")
        if self.width % self.memory_dim or self.width % 8:
            raise ConfigError(
                f"width must be a multiple of 8 and of memory_dim={self.memory_dim}, "
                f"got {self.width}"
            )

    @property
    def yaw_step(self) -> int:
        """Pixels of the input by which a yaw-true network can be rolled; divides its width.

        ``nano``: its coarsest stride. Hiera: its widest attention window, 14 cells of stride 16
        (``hiera_l``: 16), and no window is padded then.
        """
        return {"nano": 32, "hiera_l": 256}.get(self.variant, 224)


PROMPT_VIEWS = ("sphere", "auto")
VIEWS = ("auto", "sphere", "centred", "local")


@dataclass(frozen=True)
class TrackerConfig:
    """How one stream is followed.

    Attributes:
        pano: the frames are equirectangular panoramas. Off: of an ordinary camera, and results
            have no directions.
        hfov_deg: degrees that the columns of a panorama span, in (0, 360]. Under 360 the left
            and right edges do not meet.
        vfov_deg: degrees that the rows of a panorama span, in (0, 180]. ``None``: 180, or where
            ``hfov_deg`` is under 360, a row as much as a column. A panorama that does not show
            the whole sphere is not cut into views: ``view`` and ``prompt_view`` are as ``sphere``
            then (``centred`` only needs edges that meet), and there is no motion gate.
        middle_lat_deg: latitude of the middle row of a panorama, up-positive; 0: the horizon.
        mask_threshold: logit above which a pixel belongs to an object.
        occluded_below: visibility (0..1) under which an object counts as not visible.
        lost_after_frames: frames out of sight after which an occluded object counts as lost.
        max_objects: upper bound on objects in one stream.
        max_prompted: prompted frames kept per object; the first one and the newest ones stay.
        short_frames: recent frames looked back on per step besides the prompted ones; at most as
            many as the network knows time codes for, :attr:`ModelConfig.num_memory_maps` less the
            prompted one's, and ``None``: so many (SAM2: 6). What is older can be long-term frames.
        long_frames: long-term frames drawn per step (paper: N_l = 2); 0 switches LSMM off.
        long_capacity: entries of the long-term bank per object.
        long_spacing: least distance in frames between two drawn long-term frames in the
            deterministic mode. Paper silent; chosen so that the draws differ in appearance.
        half_maps: store memory maps in bfloat16, as SAM2 does; halves the state.
        view: what the network is shown of a closed panorama: ``sphere``, always the whole of it,
            as the camera gives it; ``centred``, the whole, turned so that the objects are away
            from its edges (:mod:`panosam2_core.centring`; an object's mask then hangs on the
            company, which decides on the turn); ``local``, small objects in a crop of their own
            that follows them; ``auto``, likewise, and what gets lost in its crop is searched for
            everywhere (:mod:`panosam2_core.zoom`). Both cut the panorama once per stream, where
            its first frame is darkest.
        max_local_views: objects that are followed in crops at a time; each costs an encoding per
            frame. Further ones are followed on the panorama.
        search_looks: encodings per frame for all objects together that are lost and searched for
            (``view: auto``, :mod:`panosam2_core.search`). More find them sooner, and a frame takes
            longer meanwhile. An object that has no look on a frame is reported as hidden, with a
            visibility of 0.
        prompt_view: where clicks and boxes that say what an object is are resolved on closed
            panoramas: ``sphere``, the whole panorama, or ``auto``, a view about them where the
            object is small (:mod:`panosam2_core.prompt_view`).
        motion_gate_deg: degrees that an object can move on the sphere from one frame to the next,
            the camera's own turning included. On closed panoramas, what a mask shows beyond that
            is left out unless it hangs together with what is within; 0 switches this off. Paper
            silent; see :mod:`panosam2_core.motion`.
        least_score: share of an object's usual predicted IoU that a mask must have in a local
            view; under it the object counts as hidden. 0: believe every mask. Paper silent; chosen
            because what covers an object is taken for it else, with a score that drops.
        most_growth: factor by which the solid angle of a mask may exceed what is usual for its
            object in a local view; beyond it the object counts as hidden. 0: any. Paper silent;
            chosen because an object that is covered by a larger one seems to grow.
        least_likeness: likeness of colours (0..1, :mod:`panosam2_core.likeness`) to those that its
            object is known to have, under which a mask of a panorama or local view counts as
            hidden. 0: colours are not compared, not in searches either. Paper silent; chosen
            because the network takes something else for an object that has left.
        remember_hidden: keep frames in memory on which the object was not seen, as SAM2 does. Off:
            only what was seen is remembered (as in DAM4SAM).
        anchors: frames per memory that are kept for long because something else could have been
            taken for the object there, and was not (:mod:`panosam2_core.anchors`); 0: none. Read
            like prompted frames, and as costly.
        seed: ``None``: deterministic draws. A number: the paper's Algorithm 1, seeded.
    """

    pano: bool = True
    hfov_deg: float = 360.0
    vfov_deg: float | None = None
    middle_lat_deg: float = 0.0
    mask_threshold: float = 0.0
    occluded_below: float = 0.5
    lost_after_frames: int = 60
    max_objects: int = 64
    max_prompted: int = 4
    short_frames: int | None = None
    long_frames: int = 2
    long_capacity: int = 512
    long_spacing: int = 8
    half_maps: bool = True
    view: str = "auto"
    max_local_views: int = 4
    search_looks: int = 1
    prompt_view: str = "auto"
    motion_gate_deg: float = 12.0
    least_score: float = 0.5
    most_growth: float = 2.0
    least_likeness: float = 0.5
    remember_hidden: bool = False
    anchors: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: naming the field, its range and the value.
        """
        for name, known in {"prompt_view": PROMPT_VIEWS, "view": VIEWS}.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.seed is not None and self.seed < 0:
            raise ConfigError(f"seed must be None or at least 0, got {self.seed}")
        if not math.isfinite(self.mask_threshold):
            raise ConfigError(f"mask_threshold must be finite, got {self.mask_threshold}")
        if not 0 < self.hfov_deg <= 360:
            raise ConfigError(f"hfov_deg must be in (0, 360], got {self.hfov_deg}")
        self._check_rows()
        if self.short_frames is not None and not 1 <= self.short_frames <= 16:
            raise ConfigError(f"short_frames must be in [1, 16], got {self.short_frames}")
        ranges = {
            "occluded_below": (0.0, 1.0),
            "motion_gate_deg": (0.0, 180.0),
            "least_score": (0.0, 1.0),
            "most_growth": (0.0, 1000.0),
            "least_likeness": (0.0, 1.0),
            "lost_after_frames": (0, 10**9),
            "max_objects": (1, 1024),
            "max_local_views": (1, 1024),
            "search_looks": (1, 16),
            "max_prompted": (1, 64),
            "anchors": (0, 16),
            "long_frames": (0, 8),
            "long_capacity": (1, 10**6),
            "long_spacing": (1, 10**6),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} must be in [{low}, {high}], got {getattr(self, name)}")

    def _check_rows(self) -> None:
        vfov, middle = self.vfov_deg, self.middle_lat_deg
        if vfov is not None and not 0 < vfov <= 180:
            raise ConfigError(f"vfov_deg must be in (0, 180], got {vfov}")
        if not abs(middle) + (vfov or 0) / 2 <= 90 + 1e-6:
            raise ConfigError(f"middle_lat_deg={middle} and vfov_deg={vfov} reach beyond a pole")

    @property
    def wraps(self) -> bool:
        """Whether the left and right edges of a frame meet."""
        return self.pano and self.fov.wraps

    @property
    def turns(self) -> bool:
        """Whether panoramas are turned."""
        return self.wraps and self.view == "centred"

    @property
    def zooms(self) -> bool:
        """Whether small objects are followed in crops."""
        return self.is_whole and self.view in ("local", "auto")

    @property
    def portrays(self) -> bool:
        """Whether it is kept how objects look, and compared."""
        return self.pano and self.least_likeness > 0

    @property
    def is_whole(self) -> bool:
        """Whether the frames show the whole sphere."""
        return self.pano and self.fov.is_whole

    @property
    def fov(self) -> FieldOfView:
        """The part of the sphere that a panorama shows."""
        vfov = None if self.vfov_deg is None else math.radians(self.vfov_deg)
        return FieldOfView(math.radians(self.hfov_deg), vfov, math.radians(self.middle_lat_deg))


def check_input_size(size_hw: tuple[int, int]) -> None:
    """Raise unless both sides are positive multiples of 32.

    Args:
        size_hw: (height, width) in pixels.

    Raises:
        ConfigError: naming the nearest size that works.
    """
    if any(side < 32 or side % 32 for side in size_hw):
        nearest = tuple(max(32, round(side / 32) * 32) for side in size_hw)
        raise ConfigError(
            f"input size must be multiples of 32 (height, width), got {tuple(size_hw)}; "
            f"nearest is {nearest}"
        )
