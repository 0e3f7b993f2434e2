"""Command line: ``python -m panosam2_core.export --variant nano --out DIR``.

Writes the verbs of a network as ONNX files, one each, and manifest.json, which says what goes in
and out of each of them: names, shapes, types, units and where it comes from. Every file is run by
onnxruntime on the CPU and compared with torch; a difference above the limit is an error. Needs the
extra `export`: `pip install ".[export]"` in a checkout.

What is around the verbs stays with the caller: resizing pictures and masks, keeping the memory,
drawing long-term frames, the motion gate and local views.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from panosam2_core.build import PRESETS, load_model
from panosam2_core.errors import ConfigError, ExportError, PanoSAM2Error
from panosam2_core.graphs import (
    COUNTS,
    Condition,
    Graph,
    Remembered,
    full_memory,
    graphs,
    meaning,
    run,
    sample_frame,
    sample_memory,
)
from panosam2_core.model import PanoSAM2

MANIFEST = "manifest.json"
LIMIT = 1e-4  # of a difference, times the largest value where that is above 1
STEPS = {
    "a new object, one click": ["encode_image", "condition_new", "decode_point", "encode_memory"],
    "a new object, box or clicks": [
        "encode_image",
        "condition_new",
        "decode_points",
        "encode_memory",
    ],
    "a new object, its mask": ["encode_image", "decode_mask", "encode_memory"],
    "a known object": ["encode_image", "condition", "decode", "encode_memory"],
}


def main(argv: list[str] | None = None) -> int:
    """Export, or verify.

    Args:
        argv: command line without the program; ``None``: the process's.

    Returns:
        Exit code: 0 done and equal, 1 failed with a message.
    """
    args = _parse(argv)
    console = Console()
    try:
        model = load_model(
            args.variant,
            checkpoint=args.checkpoint,
            device="cpu",
            input_size=args.input_size,
            precision="float32",
        )
        if not args.verify:
            export(
                model,
                args.out,
                pano=not args.flat,
                full=args.full_memory,
                long_frames=args.long_frames,
            )
        for name, worst in verify(model, args.out, limit=args.limit):
            line = ", ".join(f"{output} {value:.1e}" for output, value in worst.items())
            console.print(f"{name}: {line}", highlight=False, markup=False, soft_wrap=True)
    except (PanoSAM2Error, OSError) as error:
        Console(stderr=True).print(
            f"error: {error}", highlight=False, markup=False, soft_wrap=True
        )
        return 1
    console.print(f"done: {args.out / MANIFEST}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="panosam2_core.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit code: 0 done and equal, 1 failed with a message, 2 wrong usage.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the files")
    parser.add_argument("--variant", default="nano", help="default: %(default)s")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="nano has its own")
    parser.add_argument(
        "--input-size", metavar="HxW", help=f"or {', '.join(PRESETS)}; default: the variant's"
    )
    parser.add_argument("--flat", action="store_true", help="for an ordinary camera")
    parser.add_argument(
        "--full-memory",
        action="store_true",
        help="fixed shapes: one prompted frame and a memory that is full, two points; "
        "default: any number of each",
    )
    parser.add_argument("--long-frames", type=int, default=2, help="N_l of LSMM; 0: off")
    parser.add_argument(
        "--verify", action="store_true", help="compare the files that are there, write nothing"
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT,
        help="largest difference, times the largest value where that is above 1 "
        "(default: %(default)s)",
    )
    return parser.parse_args(argv)


def export(
    model: PanoSAM2,
    out: Path,
    *,
    pano: bool = True,
    full: bool = False,
    long_frames: int = 2,
    names: Sequence[str] | None = None,
) -> None:
    """Write ONNX files and their manifest, which comes last: a folder without one is not whole.

    Args:
        model: float32 on the CPU, in evaluation mode.
        out: folder, made if need be.
        pano: circular columns.
        full: fixed shapes of a memory that is full.
        long_frames: N_l of the long-short memory module; 0: without.
        names: of the graphs; ``None``: all.

    Raises:
        ConfigError: for a number of long-term frames out of range.
        ExportError: without the packages for it.
    """
    _need("onnx", "onnxscript")
    if not 0 <= long_frames <= 8:
        raise ConfigError(f"long_frames must be in [0, 8], got {long_frames}")
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    manifest: dict[str, Any] = {
        "network": dataclasses.asdict(model.config) | {"input_size": list(model.input_size)},
        "pano": pano,
        "full_memory": full,
        "long_frames": long_frames,
        "torch": torch.__version__,
        "steps": STEPS,
        "graphs": {},
    }
    made = graphs(model, pano=pano, long_frames=long_frames)
    # Two prompted frames where there can be any number: torch takes one for a constant.
    filled = full_memory(model, prompted=1 if full else 2, long_frames=long_frames)
    for name, inputs, outputs in _chain(model, made, [filled]):
        if names is None or name in names:
            _write(made[name], out / f"{name}.onnx", inputs, outputs, fixed=full)
            manifest["graphs"][name] = _describe(made, name, inputs, outputs, fixed=full)
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def verify(
    model: PanoSAM2, out: Path, *, limit: float = LIMIT
) -> Iterator[tuple[str, dict[str, float]]]:
    """Compare exported files with torch.

    Graphs that take any number of remembered frames are compared with a full memory and with that
    of an object on its second frame.

    Args:
        model: that was exported.
        out: folder with a manifest.
        limit: of a difference, times the largest value where that is above 1.

    Yields:
        Per graph its name, and per output the largest difference.

    Raises:
        ExportError: when a file is missing or differs by more, naming it, or without the packages.
    """
    _need("onnxruntime")
    manifest = _read_manifest(out, model)
    pano, frames, full = (manifest[key] for key in ("pano", "long_frames", "full_memory"))
    made = graphs(model, pano=pano, long_frames=frames)
    fills = [full_memory(model, prompted=1, long_frames=frames)]
    if not full:
        fills += [Remembered(prompted=1, recent=0, pointers=0, drawn=0)]
    sessions: dict[str, Any] = {}
    for name, inputs, outputs in _chain(model, made, fills):
        if name not in manifest["graphs"]:
            continue
        if name not in sessions:
            sessions[name] = _session(out / f"{name}.onnx")
        worst = _differences(sessions[name], inputs, outputs)
        yield name, {key: difference for key, (difference, _) in worst.items()}
        for key, (difference, largest) in worst.items():
            allowed = limit * max(1.0, largest)
            if not difference <= allowed:  # not a number is no agreement
                raise ExportError(
                    f"{out / name}.onnx differs from torch in {key!r} by {difference:.3g}, "
                    f"allowed are {allowed:.3g}; export it again with these weights"
                )


def _need(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"this needs {' and '.join(missing)}, not installed here; "
            "in a checkout run pip install '.[export]', or make setup"
        )


def _read_manifest(out: Path, model: PanoSAM2) -> dict[str, Any]:
    path = out / MANIFEST
    if not path.is_file():
        raise ExportError(f"no {path}: nothing was exported there, or the export was cut short")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["network"]["variant"], tuple(manifest["network"]["input_size"])
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path} is no manifest of an export: {error}") from error
    wanted = model.config.variant, tuple(model.input_size)
    if found != wanted:
        raise ExportError(f"{out} holds {found}, expected {wanted}; give the same options again")
    return manifest


def _chain(
    model: PanoSAM2, made: Mapping[str, Graph], fills: Sequence[Remembered]
) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Tensor]]]:
    """Run a first and a second frame in torch; inputs and outputs of every graph."""
    values = sample_frame(model)
    for name, graph in made.items():
        for filled in fills if name == "condition" else fills[:1]:
            if name == "condition":
                values |= sample_memory(model, values, filled)
            # Not those of inference mode, which the exporter cannot take.
            inputs = {key: values[key].clone() for key in graph.signature.inputs}
            outputs = run(graph, list(inputs.values()))
            yield name, inputs, outputs
            values |= outputs


def _write(
    graph: Graph,
    path: Path,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    *,
    fixed: bool,
) -> None:
    """Export in the form that training runs: it writes nothing in place.

    What is computed from weights alone is then in the graph, and folded by the exporter and by
    whatever loads it.
    """

    def shapes(dims: Mapping[str, Any]) -> tuple[Any, ...]:
        first, *rest = ({1: dims[COUNTS[key]]} if key in COUNTS else None for key in inputs)
        return (first, tuple(rest)) if isinstance(graph, Condition) else (first, *rest)

    counts = set(COUNTS.values())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, inside torch
        warnings.filterwarnings("ignore", "# The axis name")  # that several inputs share one
        traced = torch.export.export(
            graph.eval(),
            tuple(inputs.values()),
            dynamic_shapes=None if fixed else shapes({c: torch.export.Dim(c) for c in counts}),
            strict=False,
        )
        program = torch.onnx.export(
            traced,
            dynamo=True,
            verbose=False,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=None if fixed else shapes({c: c for c in counts}),  # their names
        )
    program.save(path)  # type: ignore[union-attr]


def _describe(
    made: Mapping[str, Graph],
    name: str,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    *,
    fixed: bool,
) -> dict[str, Any]:
    """What the manifest says of a graph."""
    model = made[name].model

    def tensor(key: str, value: Tensor) -> dict[str, Any]:
        shape: list[int | str] = list(value.shape)
        if key in COUNTS and not fixed:
            shape[1] = COUNTS[key]
        dtype = str(value.dtype).removeprefix("torch.")
        return {"shape": shape, "dtype": dtype, "what": meaning(key, model)}

    def origin(key: str) -> list[str]:
        givers = [other for other, graph in made.items() if key in graph.signature.outputs]
        return givers or ["caller"]

    return {
        "file": f"{name}.onnx",
        "inputs": {k: tensor(k, v) | {"from": origin(k)} for k, v in inputs.items()},
        "outputs": {k: tensor(k, v) for k, v in outputs.items()},
    }


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each cause
        raise ExportError(f"onnxruntime cannot load {path}: {error}") from error


def _differences(
    session: Any, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> dict[str, tuple[float, float]]:
    """Largest difference and largest value of every output."""
    taken = [port.name for port in session.get_inputs()]
    found = session.run(list(outputs), {key: inputs[key].numpy() for key in taken})
    worst = {}
    for (key, expected), value in zip(outputs.items(), found, strict=True):
        difference = (torch.from_numpy(value) - expected).abs()
        worst[key] = float(difference.max()), float(expected.abs().max())
    return worst


if __name__ == "__main__":
    sys.exit(main())
