#!/usr/bin/env python3
"""Fetch free sprites and backgrounds for training into the asset cache.

Sources, both through the ordinary ``npm pack`` client:
  * ``@lobehub/fluent-emoji-3d`` - Fluent emoji drawings, RGBA webp (MIT);
  * ``@pmndrs/assets`` - panoramic light probes from Poly Haven, float EXR (CC0-1.0).

The demo, the tests and the fixed test split need none of this. Decoding EXR takes the PyPI
package ``OpenEXR`` and decoding webp takes ``opencv-python-headless``; both are needed here only.
Usage: ``python scripts/fetch_assets.py [--out DIR] [--size 160]``.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from panosam2_core.data.assets import CACHE_VERSION, cache_dir, split_of  # noqa: E402
from panosam2_core.data.rng import StableRng  # noqa: E402

log = logging.getLogger("fetch_assets")
U8 = NDArray[np.uint8]

SPRITE_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
BACKGROUND_PACKAGE = "@pmndrs/assets@1.7.0"
SOURCES = [
    {"package": SPRITE_PACKAGE, "licence": "MIT", "what": "Fluent emoji sprites"},
    {"package": BACKGROUND_PACKAGE, "licence": "CC0-1.0", "what": "Poly Haven HDRIs"},
]
# Skin tones, hair colours, gender signs, joiners: what makes a variant of one drawing.
VARIANT = re.compile(r"^(1f3f[b-f]|200d|fe0f|2640|2642|1f9b[0-3])$")
VAL_BACKGROUNDS, TEST_BACKGROUNDS = 2, 3


def npm_pack(package: str, into: Path) -> Path:
    """Download one npm package and unpack it; return the folder with its files."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm was not found; install Node.js, then run this again")
    into.mkdir(parents=True)
    command = [npm, "pack", package, "--silent", "--pack-destination", str(into)]
    subprocess.run(command, check=True, cwd=into, stdout=subprocess.DEVNULL)
    with tarfile.open(next(into.glob("*.tgz"))) as archive:
        archive.extractall(into, filter="data")
    return into / "package"


def group_of(stem: str) -> str:
    """Return the drawing's group: its first code point, shared by all variants of it."""
    parts = [p for p in stem.split("-") if not VARIANT.match(p)]
    return parts[0] if parts else stem


def fit_sprite(rgba: U8, size: int) -> U8 | None:
    """Crop a drawing to its outline and fit it in a square canvas; None if it is too thin."""
    # Fluent drawings have half-clear glows; a hard outline makes "where is it" well defined.
    alpha = np.clip((rgba[..., 3].astype(np.float32) / 255.0 - 0.3) / 0.4, 0.0, 1.0)
    rows, columns = np.nonzero(alpha.max(1) > 0.5)[0], np.nonzero(alpha.max(0) > 0.5)[0]
    if len(rows) == 0 or float((alpha > 0.5).mean()) < 0.12:
        return None
    image = np.dstack([rgba[..., :3].astype(np.float32) * alpha[..., None], alpha * 255.0])
    image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = (size - 4) / max(image.shape[:2])
    shape = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    image = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
    canvas = np.zeros((size, size, 4), dtype=np.float32)
    top, left = (size - shape[1]) // 2, (size - shape[0]) // 2
    canvas[top : top + shape[1], left : left + shape[0]] = image
    canvas[..., :3] /= np.maximum(canvas[..., 3:] / 255.0, 1e-3)
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def read_sprites(folder: Path, size: int, per_group: int) -> tuple[U8, list[dict[str, str]]]:
    """Decode the emoji, at most ``per_group`` variants of one drawing."""
    taken: dict[str, int] = {}
    sprites, entries = [], []
    files = sorted(folder.glob("assets/*.webp"))
    for number, path in enumerate(files):
        group = group_of(path.stem)
        if taken.get(group, 0) >= per_group:
            continue
        raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if raw is None or raw.ndim != 3 or raw.shape[2] != 4:
            continue
        sprite = fit_sprite(np.ascontiguousarray(raw[..., [2, 1, 0, 3]], dtype=np.uint8), size)
        if sprite is None:
            continue
        taken[group] = taken.get(group, 0) + 1
        sprites.append(sprite)
        entries.append({"name": path.stem, "group": group, "split": split_of(group)})
        if number % 500 == 0:
            log.info("sprites: %d of %d files", number, len(files))
    return np.stack(sprites), entries


def tone_map(radiance: NDArray[np.float32]) -> U8:
    """Map linear radiance (H, W, 3) to display RGB: exposure by median, soft shoulder, gamma."""
    luminance = radiance @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    exposed = radiance * (0.35 / max(float(np.median(luminance)), 1e-4))
    shown = (exposed * (1.0 + exposed / 16.0)) / (1.0 + exposed)
    return np.asarray(np.clip(shown, 0.0, 1.0) ** (1 / 2.2) * 255.0 + 0.5).astype(np.uint8)


def read_backgrounds(folder: Path, work: Path) -> tuple[U8, list[dict[str, str]]]:
    """Decode the light probes, which the package wraps as base64 in JavaScript modules."""
    import OpenEXR  # heavy and needed here only

    images, names = [], []
    for path in sorted(folder.glob("hdri/*.exr.js")):
        found = re.search(r"base64,([A-Za-z0-9+/=]+)", path.read_text(encoding="ascii"))
        if not found:
            continue
        plain = work / "probe.exr"
        plain.write_bytes(base64.b64decode(found.group(1)))
        with OpenEXR.File(str(plain)) as opened:
            pixels = np.array(opened.channels()["RGB"].pixels, dtype=np.float32)
        images.append(tone_map(np.nan_to_num(pixels, posinf=65504.0)))
        names.append(path.name.removesuffix(".exr.js"))
    order = sorted(names, key=lambda n: StableRng("background", n).uniform())
    held = dict.fromkeys(order[:VAL_BACKGROUNDS], "val")
    held |= dict.fromkeys(order[VAL_BACKGROUNDS : VAL_BACKGROUNDS + TEST_BACKGROUNDS], "test")
    return np.stack(images), [{"name": n, "split": held.get(n, "train")} for n in names]


def main() -> int:
    """Fill the cache; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=cache_dir(), help="cache folder")
    parser.add_argument("--size", type=int, default=160, help="side of a sprite in pixels")
    parser.add_argument("--per-group", type=int, default=3, help="variants kept of one drawing")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        log.info("fetching %s", SPRITE_PACKAGE)
        emoji = npm_pack(SPRITE_PACKAGE, work / "sprites")
        sprites, sprite_entries = read_sprites(emoji, options.size, options.per_group)
        log.info("fetching %s", BACKGROUND_PACKAGE)
        probes = npm_pack(BACKGROUND_PACKAGE, work / "backgrounds")
        backgrounds, background_entries = read_backgrounds(probes, work)
    np.save(options.out / "sprites.npy", sprites)
    np.save(options.out / "backgrounds.npy", backgrounds)
    index = {"version": CACHE_VERSION, "sources": SOURCES}
    body = {**index, "sprites": sprite_entries, "backgrounds": background_entries}
    (options.out / "index.json").write_text(json.dumps(body, indent=1), encoding="utf-8")
    log.info("%d sprites and %d backgrounds in %s", len(sprites), len(backgrounds), options.out)
    log.info("next: use WorldConfig(assets='cached')")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
