"""ONNX files compute what torch does; a stream runs with them and their manifest alone."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from panosam2_core.build import VARIANTS, build_model, load_model
from panosam2_core.errors import ExportError
from panosam2_core.export import MANIFEST, export, main, verify
from panosam2_core.memory.bank import LongTermEntry, ObjectMemory
from panosam2_core.model import PanoSAM2, PointPrompts
from panosam2_core.step import center_columns, observe, prompt_points, propagate

REASON = "not installed: pip install '.[export]'"
onnx = pytest.importorskip("onnx", reason=REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)
pytest.importorskip("onnxscript", reason=REASON)

SIZE = (64, 128)
OPTIONS = ["--input-size", "64x128"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of nano, any number of remembered frames; main compares every file with torch."""
    path = tmp_path_factory.mktemp("exported")
    assert main(["--out", str(path), *OPTIONS]) == 0
    return path


@pytest.fixture(scope="module")
def model() -> PanoSAM2:
    return load_model("nano", device="cpu", input_size=SIZE, precision="float32")


@pytest.mark.slow
def test_a_stream_runs_from_the_manifest_alone(folder: Path, model: PanoSAM2) -> None:
    """Four frames of one object, the long-term memory drawn upon on the last."""
    frames = torch.from_numpy(np.stack([picture(3 * t) for t in range(4)]))
    expected, theirs = in_torch(model, frames), OnnxStream(folder)
    assert all((logits > 0).any() for logits in expected), "an unseen object shows little"
    for t, logits in enumerate(expected):
        np.testing.assert_allclose(theirs.step(frames[t]), logits, atol=1e-4)


def picture(left: int) -> np.ndarray:
    """(3, 64, 128): a red square on noise."""
    drawn = np.random.default_rng(2).integers(60, 120, (3, 8, 16), dtype=np.uint8)
    drawn = drawn.repeat(8, 1).repeat(8, 2)
    drawn[:, 18:42, 28 + left : 52 + left] = np.array([220, 30, 30])[:, None, None]
    return drawn


def in_torch(model: PanoSAM2, frames: Tensor) -> list[np.ndarray]:
    """Mask logits per frame."""
    memory, found = ObjectMemory(), []
    for t, frame in enumerate(frames):
        with torch.inference_mode():
            features = model.encode_image(model.normalize(frame[None], pano=True), pano=True)
            if t == 0:
                click = PointPrompts(torch.tensor([[[40.0, 30.0]]]), torch.tensor([[1]]))
                decoded = prompt_points(model, features, click, pano=True)
            else:
                draws = [[LongTermEntry(1, memory.recent[0].pointer, 1.0)] if t == 3 else []]
                decoded = propagate(model, features, [memory], draws, t, pano=True)
            (seen,) = observe(model, features, decoded, t, prompted=t == 0, pano=True)
        (memory.remember_tracked if t else memory.remember_prompted)(seen.memory)
        memory.previous_mask, memory.center = seen.previous_mask, seen.center
        found.append(decoded.logits.numpy())
    return found


class OnnxStream:
    """One object, followed as the manifest says."""

    def __init__(self, folder: Path) -> None:
        self.manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        self.sessions = {
            name: onnxruntime.InferenceSession(folder / graph["file"])
            for name, graph in self.manifest["graphs"].items()
        }
        self.first: dict[str, np.ndarray] = {}
        self.tracked: list[dict[str, np.ndarray]] = []  # oldest first
        self.centers = np.array([40 * 8 // 128])

    def step(self, frame: Tensor) -> np.ndarray:
        """Mask logits."""
        values: dict[str, np.ndarray] = {"image": frame[None].numpy(), "centers": self.centers}
        if self.first:
            values |= self.remembered()
            steps = self.manifest["steps"]["a known object"]
        else:
            values["point"] = np.array([[[40, 30]]], np.float32)
            values["label"] = np.array([[1]], np.int32)
            steps = self.manifest["steps"]["a new object, one click"]
        for name in steps:
            values |= self.run(name, values)
        gated = torch.from_numpy(np.where(values["object_logit"] > 0, values["logits"], -1024.0))
        self.centers = center_columns(gated, 8, torch.from_numpy(self.centers)).numpy()
        if self.first:
            self.tracked.append(values)
        else:
            self.first = values
        return values["logits"]

    def run(self, name: str, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        graph = self.manifest["graphs"][name]
        found = self.sessions[name].run(None, {key: values[key] for key in graph["inputs"]})
        return dict(zip(graph["outputs"], found, strict=True))

    def remembered(self) -> dict[str, np.ndarray]:
        known, now = self.tracked, len(self.tracked) + 1
        drawn = [known[0]] if now == 3 else []
        newest = [frame["pointer"] for frame in reversed(known)]
        pointers = [self.first["pointer"], *[frame["pointer"] for frame in drawn], *newest]
        ages = [now, *[now - 1 for _ in drawn], *range(1, now)]
        empty = self.first["pointer"][:0]
        return {
            "prompted_maps": self.first["memory_map"][None],
            "recent_maps": np.concatenate(
                [self.first["memory_map"][:0], *[frame["memory_map"] for frame in known]]
            )[None],
            "recent_ages": np.arange(now - 1, 0, -1)[None],
            "recent_pointers": np.concatenate([empty, *[f["pointer"] for f in known]])[None],
            "long_pointers": np.concatenate([empty, *[f["pointer"] for f in drawn]])[None],
            "pointers": np.concatenate(pointers)[None],
            "pointer_ages": np.array([ages]),
            "previous_mask": (known[-1] if known else self.first)["mask_feature"],
        }


@pytest.mark.slow
def test_the_manifest_is_true_of_the_files(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    assert manifest["network"]["input_size"] == list(SIZE)
    assert {name for step in manifest["steps"].values() for name in step} == set(
        manifest["graphs"]
    )
    for graph in manifest["graphs"].values():
        session = onnxruntime.InferenceSession(folder / graph["file"])
        for ports, described in (
            (session.get_inputs(), graph["inputs"]),
            (session.get_outputs(), graph["outputs"]),
        ):
            assert [port.name for port in ports] == list(described)
            for port in ports:
                said = described[port.name]
                assert port.shape == said["shape"]
                assert port.type == f"tensor({said['dtype'].replace('float32', 'float')})"
        for key, said in graph["inputs"].items():
            for giver in said["from"]:
                assert giver == "caller" or key in manifest["graphs"][giver]["outputs"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["condition", "encode_image"])
def test_a_changed_weight_in_a_file_is_noticed(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / f"{name}.onnx"
    proto = onnx.load(path)
    weight = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] += 0.05
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(proto, path)
    capsys.readouterr()
    assert main(["--out", str(copy), *OPTIONS, "--verify"]) == 1
    assert f"{name}.onnx differs from torch" in capsys.readouterr().err


@pytest.mark.slow
def test_other_weights_than_those_exported_are_noticed(folder: Path) -> None:
    other = load_model("nano", device="cpu", input_size=SIZE, precision="float32")
    with torch.no_grad():
        other.sam_mask_decoder.iou_token.weight += 0.1
    with pytest.raises(ExportError, match=r"decode\w+.onnx differs from torch"):
        list(verify(other, folder))


@pytest.mark.slow
def test_not_a_number_is_a_difference(folder: Path) -> None:
    other = load_model("nano", device="cpu", input_size=SIZE, precision="float32")
    with torch.no_grad():
        other.image_encoder.trunk.stem.bias[0] = torch.nan
    with pytest.raises(ExportError, match="encode_image.onnx differs"):
        list(verify(other, folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--input-size", "96x128"], "expected ('nano', (96, 128)); give the same options"),
        (["--input-size", "64"], "input size must be HEIGHTxWIDTH"),
        ([*OPTIONS, "--checkpoint", "nowhere.safetensors"], "no weight file at nowhere"),
    ],
)
def test_what_does_not_fit_is_said(
    options: list[str], fault: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(folder), "--verify", *options]) == 1
    assert fault in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_that_is_not_whole_is_refused(
    folder: Path, model: PanoSAM2, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="nothing was exported there, or the export was cut"):
        list(verify(model, tmp_path))
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "encode_image.onnx").write_bytes(b"half a file")
    with pytest.raises(ExportError, match="onnxruntime cannot load"):
        list(verify(model, copy))


def test_missing_packages_are_named(
    model: PanoSAM2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = __import__("importlib.util").util.find_spec

    def without(name: str) -> Any:
        return None if name == "onnxscript" else real(name)

    monkeypatch.setattr("importlib.util.find_spec", without)
    with pytest.raises(ExportError, match=re.escape("needs onnxscript, not installed here")):
        export(model, tmp_path)


@pytest.mark.slow
def test_hiera_with_a_full_memory_of_fixed_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(VARIANTS["hiera_t"], input_size=SIZE)
    network = build_model(config).eval().requires_grad_(False)
    export(network, tmp_path, full=True, names=["encode_image", "condition"])
    worst = dict(verify(network, tmp_path))
    assert list(worst) == ["encode_image", "condition"]
    assert 0 < worst["condition"]["conditioned"] < 1e-5
    shapes = {
        port.name: port.shape
        for port in onnxruntime.InferenceSession(tmp_path / "condition.onnx").get_inputs()
    }
    assert shapes["recent_maps"] == [1, 6, 64, 4, 8]
    assert shapes["pointers"] == [1, 18, 256]
