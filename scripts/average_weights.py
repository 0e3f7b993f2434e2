"""Averages two weight files of one network, the second of which was trained from the first.

python scripts/average_weights.py first.safetensors second.safetensors --share 0.35 --out OUT
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import save_file

from panosam2_core.weight_file import config_from_metadata, read_weights


def average(first: Path, second: Path, share: float, out: Path) -> None:
    """Write ``(1 - share) * first + share * second``.

    Args:
        first: weights; their metadata goes into the result.
        second: weights of the same network.
        share: of the second, 0..1.
        out: safetensors file to write, in the first's precision.

    Raises:
        SystemExit: when the networks differ.
    """
    a, metadata = read_weights(first)
    b, other = read_weights(second)
    if config_from_metadata(metadata) != config_from_metadata(other) or a.keys() != b.keys():
        raise SystemExit(f"{first} and {second} are not weights of the same network")
    mean = {k: (a[k].float() * (1 - share) + b[k].float() * share).to(a[k].dtype) for k in a}
    save_file(mean, out, metadata=metadata)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, required=True, help="of the second, 0 to 1")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    average(args.first, args.second, args.share, args.out)
