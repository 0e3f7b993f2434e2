"""Loading weights: what fits, and what the error says when it does not."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from panosam2_core import CheckpointError, ConfigError, ModelConfig, load_model
from panosam2_core.build import PRESETS, VARIANTS, build_model, resolve_precision
from panosam2_core.training.checkpoint import save_weights
from panosam2_core.weight_file import config_from_metadata, config_to_metadata, read_weights


def test_shipped_nano_is_small_half_precision_and_has_a_model_card() -> None:
    import panosam2_core

    folder = Path(panosam2_core.__file__).parent / "weights"
    weights, metadata = read_weights(folder / "nano.safetensors")
    assert os.path.getsize(folder / "nano.safetensors") < 16 * 2**20
    assert {t.dtype for t in weights.values()} == {torch.float16}
    assert int(metadata["steps"]) > 0
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert all(word in card for word in ("Data", "Steps", "Seed", "Limits", "ImageNet"))


def test_shipped_nano_loads_at_any_multiple_of_32() -> None:
    model = load_model("nano", device="cpu", input_size=(96, 192))
    assert model.input_size == (96, 192)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_sizes_and_names_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match="nearest is .96, 192"):
        load_model("nano", device="cpu", input_size=(100, 200))
    with pytest.raises(ConfigError, match="unknown variant 'huge'; known: nano"):
        load_model("huge")
    with pytest.raises(ConfigError, match="speed, balanced, quality, got 'fast'"):
        load_model("nano", device="cpu", input_size="fast")
    with pytest.raises(ConfigError, match="nearest is .96, 192"):
        load_model("nano", device="cpu", input_size="100x200")
    with pytest.raises(ConfigError, match="device must be"):
        load_model("nano", device="abacus")
    with pytest.raises(CheckpointError, match="needs checkpoint=PATH"):
        load_model("hiera_t")
    with pytest.raises(CheckpointError, match="no weight file at"):
        load_model("nano", checkpoint="nowhere.safetensors")


def test_files_that_are_not_weights_are_named(tmp_path: Path) -> None:
    html = tmp_path / "page.pt"
    html.write_text("<html>404</html>")
    truncated = tmp_path / "cut.safetensors"
    truncated.write_bytes(b"\x00" * 20)
    code = tmp_path / "code.pt"
    torch.save({"model": os.system}, code)
    for path in (html, truncated, code):
        with pytest.raises(CheckpointError, match=path.name) as caught:
            load_model("nano", checkpoint=path, device="cpu")
        assert "weights_only" not in str(caught.value)
    assert "more in it than tensors" in str(caught.value), "a whole file is not called cut short"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\n<!DOCTYPE html><html>404</html>", "an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b'{"abcd":{}}', "a JSON text"),
        (b"", "an empty file"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_what_came_in_place_of_weights_is_said(
    tmp_path: Path, content: bytes, told: str, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=told):
        load_model("nano", checkpoint=path, device="cpu")


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [
        ("weights.pt", 20_000, "a torch file whose end is missing"),
        ("weights.safetensors", 20_000, "a safetensors file that is cut short"),
        ("weights.safetensors", 40, "of which the most part is missing"),
    ],
)
def test_a_download_that_broke_off_is_said(
    tmp_path: Path, name: str, size: int, told: str
) -> None:
    path = tmp_path / name
    state = {"a": torch.zeros(10_000)}
    torch.save({"model": state}, path) if name.endswith(".pt") else save_file(state, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=told):
        load_model("nano", checkpoint=path, device="cpu")


def test_a_wrong_ending_is_said(tmp_path: Path) -> None:
    state = {"a": torch.zeros(10)}
    torch.save({"model": state}, tmp_path / "torch.safetensors")
    save_file(state, tmp_path / "safe.pt")
    for name, told in (
        ("torch.safetensors", r"end in \.pt"),
        ("safe.pt", r"end in \.safetensors"),
    ):
        with pytest.raises(CheckpointError, match=told):
            load_model("nano", checkpoint=tmp_path / name, device="cpu")


def test_weights_of_other_networks_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    sam1 = {"image_encoder.blocks.0.attn.rel_pos_h": torch.zeros(1)}
    trunk = {f"image_encoder.trunk.blocks.{i}.norm1.weight": torch.zeros(1) for i in range(12)}
    other = {"layer.weight": torch.zeros(1)}
    for state, told in (
        (sam1, "SAM 1, which has no memory"),
        ({"vision_encoder.a": torch.zeros(1)}, "Hugging Face"),
        (trunk, "'hiera_t', expected 'nano'"),
        (other, "no network that is known here"),
    ):
        torch.save({"model": state}, path)
        with pytest.raises(CheckpointError, match=f"holds .*{told}.*weights list"):
            load_model("nano", checkpoint=path, device="cpu")


def test_weights_of_another_variant_are_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(VARIANTS["nano"], width=64)
    model = build_model(config)
    path = tmp_path / "narrow.safetensors"
    save_weights(path, model, model.state_dict(), {})
    assert load_model("nano", checkpoint=path, device="cpu").config.width == 64
    with pytest.raises(CheckpointError, match="holds 'nano', expected 'hiera_t'"):
        load_model("hiera_t", checkpoint=path)


def test_model_config_survives_the_weight_file() -> None:
    config = ModelConfig(width=64, input_size=(64, 128), long_memory=False)
    assert config_from_metadata(config_to_metadata(config)) == config
    with pytest.raises(CheckpointError, match="no usable model config"):
        config_from_metadata({"config": "{}x"})


def test_presets_are_panoramas_that_the_trunk_divides_into_patches() -> None:
    for name, (height, width) in PRESETS.items():
        assert width == 2 * height
        assert load_model("nano", device="cpu", input_size=name).input_size == (height, width)
    assert load_model("nano", device="cpu", input_size="96x160").input_size == (96, 160)
    # Windows of 14 and 7 tokens at strides 16 and 32.
    assert all(side % 224 == 0 for side in PRESETS["speed"])


@pytest.mark.parametrize("has", [{}, {"avx512_bf16": True}, {"amx_bf16": True}])
def test_auto_takes_half_precision_where_the_cpu_multiplies_in_it(
    has: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    cpu = torch.device("cpu")
    expected = torch.bfloat16 if has else torch.float32
    assert resolve_precision("auto", cpu) == expected
    assert resolve_precision("float32", cpu) == torch.float32
