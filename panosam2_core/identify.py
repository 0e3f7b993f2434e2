"""What a file is that was given as weights: for errors that help."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

# Blocks and width of the image trunk tell SAM2's variants apart.
_TRUNK_BLOCKS = {12: "hiera_t", 16: "hiera_s", 24: "hiera_b+", 48: "hiera_l"}
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
    with open(path, "rb") as file:
        begin = file.read(64).lstrip()
    if not begin:
        return "an empty file"
    known = (text for head, text in _BEGINNINGS.items() if begin.startswith(head))
    zip_cut_short = "a torch file whose end is missing; the download broke off, fetch it again"
    return next(known, zip_cut_short if begin.startswith(b"PK\x03\x04") else "")


def identify_state(keys: Iterable[str]) -> str:
    """Say which network a state dict belongs to.

    Args:
        keys: its names.

    Returns:
        A variant's name or a phrase such as "SAM 1", empty when nothing is known.
    """
    names = set(keys)
    if any(name.startswith("image_encoder.blocks.") for name in names):
        return "SAM 1, which has no memory"
    if any(name.startswith("image_encoder.trunk.stem") for name in names):
        return "nano"
    prefix = "image_encoder.trunk.blocks."
    blocks = {name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)}
    variant = _TRUNK_BLOCKS.get(len(blocks), "")
    if variant and "obj_ptr_tpos_proj.weight" not in names:
        return f"{variant} of SAM 2.0 (expected SAM 2.1)"
    return variant
