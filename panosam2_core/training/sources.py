"""Where training clips come from: the synthetic world, recordings, and mixtures of both.

A source is an endless numbered series. The same number always gives the same clip, in whatever
process and after whatever interruption it is drawn.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from panosam2_core.data.augment import AugmentConfig, augment
from panosam2_core.data.clips import Clip, ClipFrame, DataError
from panosam2_core.data.synthetic import SyntheticWorld, WorldConfig

MIN_PIXELS = 96  # of the network's input; fewer are no fair prompt
ATTEMPTS = 20  # other clips that are tried when one begins without an object
LOSS_STRIDE = 2  # the loss is taken at half the frame's resolution
_CLIPS = 2**31 - 1  # synthetic ones there are


def choices(seed: int, purpose: str, number: int) -> np.random.Generator:
    """Random numbers for one purpose; those of another purpose do not hang on them.

    Args:
        seed: of the run.
        purpose: what they are for.
        number: of the clip or batch.

    Returns:
        The generator, the same for the same arguments.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), number])


class Drawn(NamedTuple):
    """A clip for training.

    Attributes:
        images: (T, 3, H, W) uint8.
        labels: (T, H, W) integer ids.
        ids: objects that are large enough on the first frame to be prompted, best first.
        name: of the clip and its frames, for error messages.
        skipped: what was broken and passed over on the way.
        closed: whether the frames are panoramas whose left and right edges meet.
    """

    images: Tensor
    labels: Tensor
    ids: tuple[int, ...]
    name: str
    skipped: tuple[str, ...] = ()
    closed: bool = True


class Source(Protocol):
    """An endless numbered series of clips."""

    def draw(self, number: int) -> Drawn:
        """Draw a clip.

        Args:
            number: 0, 1, 2, ...

        Returns:
            The clip, the same for the same number, with at least one object.

        Raises:
            DataError: when it cannot be read, naming the file.
        """


class SyntheticSource:
    """Clips of the synthetic world.

    Args:
        config: of the world.
        split: of the world.
        objects: most objects per clip.
        seed: of the choice of clips; runs of another seed see others.
    """

    def __init__(self, config: WorldConfig, split: str, objects: int, seed: int = 0) -> None:
        self.world = SyntheticWorld(config, split)  # type: ignore[arg-type]
        self.split, self.objects, self.seed = split, objects, seed

    def draw(self, number: int) -> Drawn:
        """Draw a clip, see :class:`Source`.

        Args:
            number: of the clip.

        Returns:
            The clip; of another number when in this one nothing can be prompted.

        Raises:
            DataError: when that is so twenty times.
        """
        generator = choices(self.seed, "synthetic clips", number)
        for _ in range(ATTEMPTS):
            index = int(generator.integers(_CLIPS))
            clip = self.world.clip(index)
            first = clip.frame(0).labels
            ids = sorted(_large(first, clip.object_ids), key=lambda i: i != clip.target_id)
            if ids:
                frames = list(clip)
                return Drawn(
                    torch.stack([frame.image for frame in frames]),
                    torch.stack([frame.labels for frame in frames]),
                    tuple(ids[: self.objects]),
                    f"{self.split} clip {index}",
                )
        raise DataError(
            f"{ATTEMPTS} synthetic clips began without an object of {MIN_PIXELS} pixels; let "
            "objects be larger (world.angular_size_deg)"
        )


class ClipSource:
    """Stretches of recorded clips, from any labelled frame on.

    Args:
        clips: of a dataset.
        frames: T of a stretch.
        step: (least, greatest) distance of its frames, in labelled frames of the clip.
        size: (height, width) that frames are brought to.
        objects: most objects per clip.
        augmentation: of each stretch.
        seed: of all choices.
        skip_broken: pass over what cannot be read.

    Raises:
        DataError: when no clip has ``frames`` labelled frames.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        frames: int,
        step: tuple[int, int],
        size: tuple[int, int],
        objects: int,
        augmentation: AugmentConfig,
        seed: int,
        skip_broken: bool = False,
    ) -> None:
        self.clips = [clip for clip in clips if len(clip.annotated) >= frames]
        if not self.clips:
            longest = max(clips, key=lambda clip: len(clip.annotated))
            raise DataError(
                f"expected clips with {frames} labelled frames; the longest of {len(clips)} is "
                f"{longest.name} with {len(longest.annotated)}. Lower the stage's frames"
            )
        self.annotated = [list(clip.annotated) for clip in self.clips]
        self.frames, self.step, self.size, self.objects = frames, step, size, objects
        self.augmentation, self.seed, self.skip_broken = augmentation, seed, skip_broken

    def draw(self, number: int) -> Drawn:
        """Draw a stretch, see :class:`Source`.

        Args:
            number: of the stretch.

        Returns:
            The stretch.

        Raises:
            DataError: when something cannot be read, or twenty stretches begin without an object.
        """
        generator = choices(self.seed, "recorded clips", number)
        skipped: list[str] = []
        for _ in range(ATTEMPTS):
            clip, indices = self._choose(generator)
            try:
                frames = list(clip.read(indices))
            except DataError as error:
                if not self.skip_broken:
                    raise
                skipped.append(str(error))
                continue
            images, labels = self._tensors(frames)
            images, labels = augment(images, labels, self.augmentation, generator)
            ids = _large(labels[0], torch.unique(labels[0]).tolist())
            if ids:
                chosen = generator.permutation(ids)[: self.objects].tolist()
                name = f"{clip.name} frames {frames[0].name} to {frames[-1].name}"
                return Drawn(images, labels, tuple(chosen), name, tuple(skipped))
        raise DataError(
            "; ".join(skipped[:1])
            or f"{clip.name}: {ATTEMPTS} stretches, the last one from frame {frames[0].name}, "
            f"began without an object of {MIN_PIXELS} pixels at {self.size[1]}x{self.size[0]}"
        )

    def _choose(self, generator: np.random.Generator) -> tuple[Clip, list[int]]:
        lengths = np.array([len(indices) for indices in self.annotated], np.float64)
        which = int(generator.choice(len(self.clips), p=lengths / lengths.sum()))
        indices = self.annotated[which]
        step = int(generator.integers(self.step[0], self.step[1] + 1))
        if self.frames > 1:
            step = min(step, (len(indices) - 1) // (self.frames - 1))
        start = int(generator.integers(len(indices) - (self.frames - 1) * step))
        return self.clips[which], [indices[start + i * step] for i in range(self.frames)]

    def _tensors(self, frames: Sequence[ClipFrame]) -> tuple[Tensor, Tensor]:
        size = self.size[::-1]
        images = [cv2.resize(f.rgb, size, interpolation=cv2.INTER_AREA) for f in frames]
        labels = [
            cv2.resize(np.asarray(f.labels, np.float32), size, interpolation=cv2.INTER_NEAREST)
            for f in frames
        ]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return pixels, torch.from_numpy(np.stack(labels)).to(torch.int32)


class Mixture:
    """Several sources, drawn from with given chances.

    Args:
        sources: at least one.
        weights: chances, up to a factor.
        seed: of the choices.
        block: clips in a row that come from the same source; those of a batch do.
    """

    def __init__(
        self, sources: Sequence[Source], weights: Sequence[float], seed: int, block: int = 1
    ) -> None:
        self.sources, self.seed, self.block = sources, seed, block
        self.shares = np.array(weights, np.float64) / sum(weights)

    def draw(self, number: int) -> Drawn:
        """Draw a clip, see :class:`Source`.

        Args:
            number: of the clip.

        Returns:
            The clip, of one of the sources.
        """
        generator = choices(self.seed, "mixture", number // self.block)
        return self.sources[generator.choice(len(self.sources), p=self.shares)].draw(number)


def _large(labels: Tensor, ids: Sequence[int]) -> list[int]:
    """Ids of objects that have so many pixels at the loss's resolution: a line has none there."""

    def pixels(object_id: int) -> int:
        share = F.avg_pool2d((labels == object_id)[None].float(), LOSS_STRIDE)
        return LOSS_STRIDE**2 * int((share > 0.5).sum())

    return [i for i in ids if i and pixels(i) >= MIN_PIXELS]
