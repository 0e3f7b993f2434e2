"""What a file is that was given as weights: which network's, and what else if none's."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path

# The number of blocks in the image trunk tells SAM2's variants apart.
_TRUNK_BLOCKS = {12: "hiera_t", 16: "hiera_s", 24: "hiera_b+", 48: "hiera_l"}
_TRUNK_PREFIX = "image_encoder.trunk.blocks."
# SAM 2.0 has none of these.
_SINCE_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias")
_BEGINNINGS = {
    b"<": "an HTML or XML page; the download was redirected or refused, fetch it again",
    b"version https://git-lfs": "a Git LFS pointer; `git lfs pull` fetches the file itself",
    b"{": "a JSON text",
}


def identify_file(path: Path) -> str:
    """Say what a file is that cannot be read as weights.

    Args:
        path: an existing file.

    Returns:
        A phrase such as "a Git LFS pointer; ...", empty when nothing is known.
    """
    try:
        with open(path, "rb") as file:
            begin = file.read(64)
    except OSError as error:  # the disk fails, or the file is somebody else's
        return f"it cannot be read: {error.strerror}"
    text = begin.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        return "an empty file"
    if begin.startswith(b"PK\x03\x04"):
        return _identify_zip(path)
    # The length of the header in 8 bytes, the upper ones zero as in no text; then its JSON.
    if begin[4:9] == b"\0\0\0\0{":
        return _identify_safetensors(path, int.from_bytes(begin[:8], "little"))
    return next((what for head, what in _BEGINNINGS.items() if text.startswith(head)), "")


def identify_network(keys: Collection[str]) -> tuple[str, str] | None:
    """Say which of our variants a state dict belongs to.

    Args:
        keys: its names.

    Returns:
        Variant and release of SAM2, for example ``("hiera_t", "2.1")``; ``None``: none of ours.
    """
    keys = [name for name in keys if isinstance(name, str)]
    if any(name.startswith("image_encoder.trunk.stem") for name in keys):
        return "nano", "2.1"
    start = len(_TRUNK_PREFIX)
    blocks = {name[start:].split(".")[0] for name in keys if name.startswith(_TRUNK_PREFIX)}
    variant = _TRUNK_BLOCKS.get(len(blocks))
    release = "2.1" if any(name in keys for name in _SINCE_2_1) else "2.0"
    return (variant, release) if variant else None


def identify_state(keys: Collection[str]) -> str:
    """Say which network a state dict belongs to, in words.

    Args:
        keys: its names.

    Returns:
        A phrase such as "hiera_t of SAM 2.0" or "SAM 1, ...", empty when nothing is known.
    """
    keys = [name for name in keys if isinstance(name, str)]
    ours = identify_network(keys)
    if ours:
        return ours[0] if ours[0] == "nano" else "{} of SAM {}".format(*ours)
    if any(name.startswith("image_encoder.blocks.") for name in keys):
        return "SAM 1, which has no memory"
    if any(name.startswith("vision_encoder.") for name in keys):
        return "a conversion for Hugging Face's transformers, which names its tensors differently"
    return ""


def _identify_zip(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        return "a torch file whose end is missing; the download broke off, fetch it again"
    if path.suffix == ".safetensors":
        return "a torch file; its name must end in .pt"
    return ""


def _identify_safetensors(path: Path, header_size: int) -> str:
    if path.suffix != ".safetensors":
        return "a safetensors file; its name must end in .safetensors"
    if path.stat().st_size < 8 + header_size:
        return "a safetensors file of which the most part is missing; fetch it again"
    return "a safetensors file that is cut short or damaged; fetch it again"
