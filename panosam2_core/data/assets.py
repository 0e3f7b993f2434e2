"""Sprites and backgrounds of the synthetic world, disjoint between the splits.

Two sources: procedural assets (always there, made from seeds that carry the split's name) and an
optional cache of free third-party material that ``scripts/fetch_assets.py`` fills.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from panosam2_core.data import panoramas, procedural
from panosam2_core.data.rng import StableRng
from panosam2_core.errors import ConfigError

log = logging.getLogger(__name__)

Split = Literal["train", "val", "test", "demo"]
AssetMode = Literal["builtin", "cached"]
U8 = NDArray[np.uint8]

SPLITS: tuple[Split, ...] = ("train", "val", "test", "demo")
CACHE_VERSION = 1
PROCEDURAL_SPRITES: dict[Split, int] = {"train": 2000, "val": 200, "test": 400, "demo": 100}
PROCEDURAL_PANORAMAS: dict[Split, int] = {"train": 48, "val": 8, "test": 48, "demo": 8}
COVER_SHAPES = ("disc", "slab")
"""Shape families without holes or notches, fit to hide another object completely."""


def cache_dir() -> Path:
    """Return the asset cache: ``$PANOSAM2_ASSETS``, else ``~/.cache/panosam2/assets``."""
    named = os.environ.get("PANOSAM2_ASSETS")
    return Path(named) if named else Path.home() / ".cache" / "panosam2" / "assets"


def split_of(group: str) -> Split:
    """Assign a named asset to train (80 %), val (10 %) or test (10 %) by a hash of its group.

    Variants of one drawing (skin tones, genders) share a group, so none leaks across splits.
    """
    part = int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "little") / 2**32
    return "train" if part < 0.8 else "val" if part < 0.9 else "test"


@dataclass(frozen=True)
class CachedAssets:
    """The opened asset cache.

    Attributes:
        sprites: (N, S, S, 4) uint8 RGBA, memory-mapped.
        backgrounds: (M, H, 2H, 3) uint8 RGB equirectangular, memory-mapped.
        sprite_rows: Rows of ``sprites`` by split.
        background_rows: Rows of ``backgrounds`` by split.
    """

    sprites: U8
    backgrounds: U8
    sprite_rows: dict[Split, tuple[int, ...]]
    background_rows: dict[Split, tuple[int, ...]]


def _rows(entries: list[dict[str, str]]) -> dict[Split, tuple[int, ...]]:
    """Return the row numbers of an index by split."""
    return {s: tuple(i for i, e in enumerate(entries) if e["split"] == s) for s in SPLITS}


@functools.lru_cache(maxsize=4)
def open_cache(folder: Path) -> CachedAssets:
    """Open the asset cache.

    Args:
        folder: Directory that ``scripts/fetch_assets.py`` filled.

    Raises:
        ConfigError: The cache is missing or of another version.
    """
    mend = "run `python scripts/fetch_assets.py`, or choose assets='builtin'"
    index_path = folder / "index.json"
    if not index_path.is_file():
        raise ConfigError(f"expected fetched assets in {folder}, found none; {mend}")
    index = json.loads(index_path.read_text(encoding="utf-8"))
    if index.get("version") != CACHE_VERSION:
        raise ConfigError(
            f"expected asset cache version {CACHE_VERSION}, got {index.get('version')}; {mend}"
        )
    return CachedAssets(
        sprites=np.load(folder / "sprites.npy", mmap_mode="r"),
        backgrounds=np.load(folder / "backgrounds.npy", mmap_mode="r"),
        sprite_rows=_rows(index["sprites"]),
        background_rows=_rows(index["backgrounds"]),
    )


@functools.lru_cache(maxsize=512)
def _procedural_sprite(seed: str, shape: str | None) -> U8:
    return procedural.make_sprite(seed, shape)


@functools.lru_cache(maxsize=64)
def _procedural_panorama(seed: str, height: int) -> U8:
    return panoramas.make_panorama(seed, (height, 2 * height))


class AssetLibrary:
    """Draws and loads assets of one split.

    Assets are named by short references, e.g. ``proc:train/17``, ``proc:train/17#disc`` or
    ``file:123``, so that a scene is a plain record.

    Args:
        mode: ``"builtin"`` (procedural only) or ``"cached"`` (mixed with the fetched ones).
        split: Which assets may be drawn.
        sprite_share: Chance in [0, 1] that a drawn sprite is a fetched one.
        background_share: Chance in [0, 1] that a drawn background is a fetched one.

    Raises:
        ConfigError: The mode is unknown, or the cache was asked for and is not there.
    """

    def __init__(
        self, mode: str, split: Split, sprite_share: float = 0.6, background_share: float = 0.5
    ) -> None:
        if mode not in ("builtin", "cached"):
            raise ConfigError(f"expected assets 'builtin' or 'cached', got {mode!r}; pick one")
        self.split: Split = split
        self._cached = open_cache(cache_dir()) if mode == "cached" else None
        self._sprite_share = sprite_share
        self._background_share = background_share

    def draw_sprite(self, rng: StableRng, cover: bool = False) -> str:
        """Draw a sprite reference; ``cover`` asks for a convex opaque shape."""
        rows = self._cached.sprite_rows[self.split] if self._cached else ()
        fetched = rng.chance(self._sprite_share)
        if rows and fetched and not cover:
            return f"file:{rng.choice(rows)}"
        number = rng.integer(0, PROCEDURAL_SPRITES[self.split] - 1)
        shape = f"#{rng.choice(COVER_SHAPES)}" if cover else ""
        return f"proc:{self.split}/{number}{shape}"

    def draw_background(self, rng: StableRng) -> str:
        """Draw a background reference."""
        rows = self._cached.background_rows[self.split] if self._cached else ()
        fetched = rng.chance(self._background_share)
        if rows and fetched:
            return f"file:{rng.choice(rows)}"
        return f"proc:{self.split}/{rng.integer(0, PROCEDURAL_PANORAMAS[self.split] - 1)}"

    def sprite(self, reference: str) -> U8:
        """Load a sprite as (S, S, 4) uint8 RGBA, straight alpha."""
        kind, name = reference.split(":", 1)
        if kind == "file":
            return np.asarray(self._need_cache().sprites[int(name)])
        seed, _, shape = name.partition("#")
        return _procedural_sprite(seed, shape or None)

    def panorama(self, reference: str, height: int) -> U8:
        """Load a background as (H', 2H', 3) uint8 RGB, H' near ``height`` and at least 256."""
        kind, name = reference.split(":", 1)
        if kind == "file":
            return np.asarray(self._need_cache().backgrounds[int(name)])
        return _procedural_panorama(name, 256 if height <= 256 else 512)

    def _need_cache(self) -> CachedAssets:
        if self._cached is None:
            raise ConfigError(
                "expected a procedural asset, got a fetched one; open the library with 'cached'"
            )
        return self._cached
