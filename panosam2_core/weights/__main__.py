"""Command line about weight files: ``python -m panosam2_core.weights COMMAND``.

list says which files there are and where to get them, where does so for one variant, verify reads
a file and says what it is and what is wrong with it, convert makes a .safetensors file of it that
knows its network. Nothing is downloaded, and nothing in a file is run.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from rich.console import Console
from torch import Tensor

from panosam2_core.build import (
    NEW_PREFIXES,
    VARIANTS,
    build_model,
    load_state,
    shipped_weights,
    stored_config,
)
from panosam2_core.config import ModelConfig
from panosam2_core.errors import CheckpointError, PanoSAM2Error
from panosam2_core.key_report import KeyReport, compare_keys
from panosam2_core.official import OFFICIAL_FILES, official_file
from panosam2_core.weight_file import read_weights, write_weights

SHOWN = 5  # names per fault; a wrong file has hundreds


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: command line without the program; ``None``: the process's.

    Returns:
        Exit code: 0 done, 1 failed with a message.
    """
    args = _parse(argv)
    commands = {
        "list": lambda: _list(),
        "where": lambda: _where(args.variant),
        "verify": lambda: _verify(args.file),
        "convert": lambda: _convert(args.file, args.out),
    }
    try:
        return commands[args.command]()
    except (PanoSAM2Error, OSError) as error:
        _say(f"error: {error}", Console(stderr=True))
        return 1


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="panosam2_core.weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit code: 0 done, 1 failed with a message or a file that does not fit, 2 usage.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="all variants, with sizes, checksums and addresses")
    where = commands.add_parser("where", help="where a variant's file is, or how to get it")
    where.add_argument("variant", choices=VARIANTS)
    verify = commands.add_parser("verify", help="what a file is, and whether it loads")
    verify.add_argument("file", type=Path, metavar="FILE")
    convert = commands.add_parser("convert", help="make a .safetensors file of Meta's .pt")
    convert.add_argument("file", type=Path, metavar="FILE")
    convert.add_argument("out", type=Path, metavar="OUT.safetensors")
    return parser.parse_args(argv)


def _list() -> int:
    nano = shipped_weights("nano")
    count = sum(tensor.numel() for tensor in read_weights(nano)[0].values())
    _say(_row("nano", "comes along", nano.stat().st_size, count))
    _say(f"          {nano}")
    for file in OFFICIAL_FILES:
        _say(_row(file.variant, f"SAM {file.release}", file.size, file.parameters))
        _say(f"          {file.address}")
        _say(f"          sha256 {file.sha256}")
    return 0


def _row(variant: str, origin: str, size: int | None, parameters: int) -> str:
    shown = "size not known" if size is None else f"{size / 1e6:.1f} MB"
    return f"{variant:<9} {origin:<12} {shown:>15} {parameters / 1e6:>8.1f} M parameters"


def _where(variant: str) -> int:
    if variant == "nano":
        _say(str(shipped_weights(variant)))
        return 0
    file = official_file(variant)
    _say(f"{variant} is Meta's {file.name}. To download it and see that it arrived whole:")
    _say(f"  curl -fLO {file.address}")
    _say(f"  python -m panosam2_core.weights verify {file.name}")
    return 0


def _verify(path: Path) -> int:
    state, config = _read(path)
    report = compare_keys(build_model(config).state_dict(), state, NEW_PREFIXES)
    _say(f"{path}: {_title(config)}")
    _say(f"  {_origin(path, config)}")
    _say_report(report)
    _say("it loads" if report.fits else "it does not load: see above, and fetch it again")
    return 0 if report.fits else 1


def _convert(path: Path, out: Path) -> int:
    if out.suffix != ".safetensors":
        raise CheckpointError(f"the name of the new file must end in .safetensors, got {out}")
    if not out.parent.is_dir():
        raise CheckpointError(f"folder {out.parent} does not exist")
    state, config = _read(path)
    load_state(build_model(config), state, source=str(path))
    notes = {"converted_from": path.name, "converted_from_sha256": _sha256(path)}
    write_weights(out, state, config, notes)
    _say(f"wrote {out}: {_title(config)}, {len(state)} tensors")
    return 0


def _read(path: Path) -> tuple[dict[str, Tensor], ModelConfig]:
    state, metadata = read_weights(path)
    return state, stored_config(state, metadata, source=str(path))


def _title(config: ModelConfig) -> str:
    return "nano" if config.variant == "nano" else f"{config.variant} of SAM {config.release}"


def _origin(path: Path, config: ModelConfig) -> str:
    found = _sha256(path)
    names = {file.sha256: f", which is Meta's {file.name}" for file in OFFICIAL_FILES}
    other = "" if config.variant == "nano" else ", which none of Meta's files has"
    return f"sha256 {found}{names.get(found, other)}"


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say_report(report: KeyReport) -> None:
    _say(f"  loaded: {len(report.loaded)}")
    parts = ", ".join(sorted({key.split(".")[0] for key in report.new}))
    _say(f"  new, starting as identity: {len(report.new)}{f' ({parts})' if parts else ''}")
    for what, keys in report.faults.items():
        more = f", and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
        _say(f"  {what}: {len(keys)} ({', '.join(keys[:SHOWN])}{more})")


def _say(text: str, console: Console | None = None) -> None:
    """Prints what may hold brackets and long paths as it is."""
    (console or Console()).print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
