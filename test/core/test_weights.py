"""The command line about weight files, the key report, and how files are told apart."""

from __future__ import annotations

import dataclasses
import hashlib
from importlib import resources
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

import panosam2_core
from panosam2_core import CheckpointError, load_model
from panosam2_core.build import NEW_PREFIXES, VARIANTS, build_model, stored_config
from panosam2_core.identify import identify_network
from panosam2_core.key_report import compare_keys
from panosam2_core.official import OFFICIAL_FILES, OfficialFile
from panosam2_core.weight_file import config_from_metadata, config_to_metadata, read_weights
from panosam2_core.weights import __main__ as command

NANO = Path(panosam2_core.__file__).parent / "weights" / "nano.safetensors"


def meta_state(release: str) -> dict[str, Tensor]:
    """Random weights of Hiera-T under the names of Meta's file."""
    torch.manual_seed(1)
    model = build_model(dataclasses.replace(VARIANTS["hiera_t"], release=release))
    return {k: v for k, v in model.state_dict().items() if not k.startswith(NEW_PREFIXES)}


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("meta") / "sam2_hiera_tiny.pt"
    torch.save({"model": meta_state("2.0")}, path)
    return path


def zeros(*names: str, size: int = 1) -> dict[str, Tensor]:
    return {name: torch.zeros(size) for name in names}


def test_every_name_is_in_one_list_of_the_report() -> None:
    own = zeros("both", "gone", "part.a", "part.b", "half.a", "half.b") | zeros("wide", size=2)
    report = compare_keys(own, zeros("both", "wide", "extra", "half.a"), ("part.", "half."))
    assert report.loaded == ("both", "half.a")
    assert report.new == ("part.a", "part.b")
    assert report.missing == ("gone", "half.b"), "half a part is damage, not age"
    assert report.unexpected == ("extra",)
    assert report.reshaped == ("wide",)
    assert not report.fits
    assert set(report.faults) == {"missing", "unexpected", "of another shape"}


@pytest.mark.parametrize("file", OFFICIAL_FILES, ids=lambda file: file.name)
def test_meta_files_are_told_apart_by_their_names(file: OfficialFile) -> None:
    family = "sam2" if file.release == "2.0" else "sam2.1"
    yaml = resources.files("sam2") / "configs" / family / f"{family}_{file.variant}.yaml"
    config = OmegaConf.load(str(yaml)).model
    # The yaml of Hiera-B+ is silent where it is sam2's default.
    stages = config.image_encoder.trunk.get("stages", [2, 3, 16, 3])
    names = {f"image_encoder.trunk.blocks.{i}.norm1.weight" for i in range(sum(stages))}
    if config.get("no_obj_embed_spatial"):
        names.add("no_obj_embed_spatial")
    assert identify_network(names) == (file.variant, file.release)


def test_sizes_and_parameters_of_meta_files_belong_together() -> None:
    assert len({file.sha256 for file in OFFICIAL_FILES}) == len(OFFICIAL_FILES) == 8
    for file in OFFICIAL_FILES:
        assert len(bytes.fromhex(file.sha256)) == 32
        overhead = None if file.size is None else file.size - 4 * file.parameters
        assert overhead is None or 100_000 < overhead < 400_000, file.name
    new, old = OFFICIAL_FILES[:4], OFFICIAL_FILES[4:]
    since_2_1 = 64 + 256 * 64 + 64  # the mark of absent objects, the pointers' time code
    assert [b.parameters + since_2_1 for b in old] == [a.parameters for a in new]


@pytest.mark.parametrize("release", ["2.0", "2.1"])
def test_parameters_of_hiera_t_are_as_listed(release: str) -> None:
    listed = [f.parameters for f in OFFICIAL_FILES if f[:2] == ("hiera_t", release)]
    matrix = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"  # a buffer
    count = sum(tensor.numel() for key, tensor in meta_state(release).items() if key != matrix)
    assert [count] == listed


def test_converted_file_is_the_same_network(
    older: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "converted.safetensors"
    assert command.main(["convert", str(older), str(out)]) == 0
    assert "hiera_t of SAM 2.0" in capsys.readouterr().out
    theirs, (ours, metadata) = read_weights(older)[0], read_weights(out)
    assert config_from_metadata(metadata).release == "2.0"
    assert metadata["converted_from_sha256"] == hashlib.sha256(older.read_bytes()).hexdigest()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    model = load_model("hiera_t", checkpoint=out, device="cpu", input_size=(64, 64))
    assert model.no_obj_embed_spatial is None
    assert command.main(["verify", str(out)]) == 0
    assert list(tmp_path.iterdir()) == [out]


def test_convert_refuses_before_it_writes(
    older: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["convert", str(older), str(tmp_path / "a.pt")]) == 1
    assert "must end in .safetensors" in capsys.readouterr().err
    state = meta_state("2.0")
    del state["no_mem_embed"]
    broken, out = tmp_path / "broken.pt", tmp_path / "b.safetensors"
    torch.save({"model": state}, broken)
    assert command.main(["convert", str(broken), str(out)]) == 1
    assert "no_mem_embed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.pt"]


def test_verify_says_what_a_file_is(older: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["verify", str(older)]) == 0
    said = capsys.readouterr().out
    assert "hiera_t of SAM 2.0" in said
    assert "loaded: 468" in said
    assert "(lsmm, pano_decoder)" in said
    assert "none of Meta's files has" in said
    assert command.main(["verify", str(NANO)]) == 0
    assert "nano" in capsys.readouterr().out


def test_verify_knows_a_file_of_meta_by_its_checksum(
    older: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checksum = hashlib.sha256(older.read_bytes()).hexdigest()
    known = OFFICIAL_FILES[4]._replace(sha256=checksum)
    monkeypatch.setattr(command, "OFFICIAL_FILES", (known,))
    assert command.main(["verify", str(older)]) == 0
    assert f"{checksum}, which is Meta's sam2_hiera_tiny.pt" in capsys.readouterr().out


def test_verify_lists_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = meta_state("2.1")
    del state["obj_ptr_tpos_proj.weight"]  # of the three names that 2.0 lacks, two are left
    state |= zeros("no_mem_embed", "from_elsewhere")
    torch.save({"model": state}, tmp_path / "weights.pt")
    assert command.main(["verify", str(tmp_path / "weights.pt")]) == 1
    said = capsys.readouterr().out
    assert "hiera_t of SAM 2.1" in said
    assert "missing: 1 (obj_ptr_tpos_proj.weight)" in said
    assert "unexpected: 1 (from_elsewhere)" in said
    assert "of another shape: 1 (no_mem_embed)" in said


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"<html>404</html>", "HTML"), (b"version https://git-lfs.github.com/spec", "git lfs pull")],
)
def test_verify_fails_on_what_is_no_weight_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, told: str
) -> None:
    path = tmp_path / "sam2.1_hiera_tiny.pt"
    path.write_bytes(content)
    assert command.main(["verify", str(path)]) == 1
    assert told in capsys.readouterr().err


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    state, metadata = read_weights(NANO)
    name = "sam_mask_decoder.iou_token.weight"
    state[name] = torch.full_like(state[name], float("nan"))
    save_file(state, tmp_path / "nan.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match=f"not finite, e.g. in {name}"):
        load_model("nano", checkpoint=tmp_path / "nan.safetensors", device="cpu")


def test_names_that_are_no_text_and_pages_with_a_mark_are_told(tmp_path: Path) -> None:
    torch.save({"model": {1: torch.zeros(2)}}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match="no network that is known"):
        load_model("hiera_t", checkpoint=tmp_path / "odd.pt", device="cpu")
    (tmp_path / "page.pt").write_bytes(b"\xef\xbb\xbf<!DOCTYPE html><html></html>")
    with pytest.raises(CheckpointError, match="HTML"):
        load_model("hiera_t", checkpoint=tmp_path / "page.pt", device="cpu")


def test_list_and_where_name_every_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    listed = capsys.readouterr().out
    for file in OFFICIAL_FILES:
        assert file.address in listed
        assert file.sha256 in listed
    assert f"{NANO.stat().st_size / 1e6:.1f} MB" in listed
    assert command.main(["where", "nano"]) == 0
    assert Path(capsys.readouterr().out.strip()) == NANO
    assert command.main(["where", "hiera_b+"]) == 0
    address = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_base_plus.pt"
    assert f"curl -fLO {address}\n" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        command.main(["where", "hiera_xxl"])


def test_a_config_of_an_unknown_variant_is_refused() -> None:
    metadata = config_to_metadata(dataclasses.replace(VARIANTS["nano"], variant="pico"))
    with pytest.raises(CheckpointError, match="unknown variant 'pico'"):
        stored_config({}, metadata, source="a file")


def test_folders_are_named_for_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["convert", str(NANO), str(tmp_path / "no/nano.safetensors")]) == 1
    assert f"folder {tmp_path / 'no'} does not exist" in capsys.readouterr().err
    assert command.main(["verify", str(tmp_path)]) == 1
    assert f"{tmp_path} is a folder" in capsys.readouterr().err
