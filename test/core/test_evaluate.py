"""Evaluation: what a perfect, an absent and a shifted answer score, on recordings of all kinds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recordings import Frames, scene, write_bag, write_davis

from panosam2_core.data.datasets import open_clips
from panosam2_core.evaluate import main
from panosam2_core.evaluation.episodes import recorded_episode
from panosam2_core.evaluation.predictors import FolderPredictor
from panosam2_core.evaluation.run import run_episode


@pytest.fixture(scope="module")
def frames() -> Frames:
    return scene()


@pytest.fixture
def dataset(frames: Frames, tmp_path: Path) -> Path:
    """Two clips; in the second one object 2 is out of sight on frames 2 and 3."""
    hidden = [
        (rgb, np.where((ids == 2) & (t in (2, 3)), 0, ids)) for t, (rgb, ids) in enumerate(frames)
    ]
    write_davis(tmp_path / "set", {"a": frames, "b": hidden})
    return tmp_path / "set"


def score(dataset: Path, predictions: Path, *more: str) -> dict:
    file = predictions.parent / "scores.json"
    command = ["--dataset", "folder", "--data", str(dataset), "--predictions", str(predictions)]
    assert main([*command, "--json", str(file), *more]) == 0
    result: dict = json.loads(file.read_text())
    return result


def test_the_truth_scores_full_points(dataset: Path) -> None:
    result = score(dataset, dataset / "Annotations")
    for key in ("j_and_f", "j", "f", "f_wrap", "j_sphere", "f_sphere", "mean_iou"):
        assert result[key] == 1.0, key
    assert (result["clips"], result["objects"]) == (2, 4)
    assert result["visible_recall"] == result["absent_recall"] == 1.0
    assert result["occlusion"]["objects"] == 1  # object 2 of clip b comes back
    assert result["large"]["objects"] == 4


def test_empty_answers_score_on_frames_without_the_object_only(dataset: Path) -> None:
    empty = dataset.parent / "empty"
    shutil.copytree(dataset / "Annotations", empty)
    for file in empty.rglob("*.png"):
        Image.fromarray(np.zeros((64, 128), np.uint8)).save(file)
    result = score(dataset, empty)
    # One of four objects is absent on two of its five frames; those count full.
    assert result["j"] == pytest.approx(2 / 5 / 4)
    assert result["visible_recall"] == 0.0
    assert result["absent_recall"] == 1.0


def test_a_yaw_turn_of_truth_and_answer_changes_no_wrapped_score(
    frames: Frames, tmp_path: Path
) -> None:
    def turned(shift: int) -> dict:
        folder = tmp_path / f"turned{shift}"
        clip = [(np.roll(rgb, shift, 1), np.roll(ids, shift, 1)) for rgb, ids in frames]
        write_davis(folder, {"a": clip})
        guess = folder / "guess"
        write_davis(guess, {"a": [(rgb, np.roll(ids, 3, 1)) for rgb, ids in clip]})
        return score(folder, guess / "Annotations")

    one, other = turned(0), turned(64)
    for key in ("j", "f_wrap", "j_sphere", "f_sphere"):
        assert other[key] == pytest.approx(one[key], abs=1e-9), key
        assert 0.1 < one[key] < 1, key


def test_groups_and_the_mean_over_seen_and_unseen(dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / "groups.json"
    file.write_text('{"seen": ["a"], "unseen": ["b/2"]}')
    broken = tmp_path / "broken"
    shutil.copytree(dataset / "Annotations", broken)
    for png in (broken / "b").glob("*.png"):
        Image.fromarray(np.zeros((64, 128), np.uint8)).save(png)
    result = score(dataset, broken, "--groups", str(file))
    assert (result["seen"]["objects"], result["unseen"]["objects"]) == (2, 1)
    assert result["seen"]["j_and_f"] == 1.0
    assert result["unseen"]["j"] == pytest.approx(2 / 5)
    parts = [result[g][k] for g in ("seen", "unseen") for k in ("j", "f")]
    assert result["overall"] == pytest.approx(np.mean(parts))
    file.write_text('{"seam": []}')
    command = ["--dataset", "folder", "--data", str(dataset), "--predictions", str(broken)]
    assert main([*command, "--groups", str(file)]) == 1


def test_an_object_is_scored_from_the_frame_after_its_first_label(
    frames: Frames, tmp_path: Path
) -> None:
    late = [(rgb, np.where((ids == 2) & (t < 3), 0, ids)) for t, (rgb, ids) in enumerate(frames)]
    write_davis(tmp_path, {"a": late})
    (clip,) = open_clips(tmp_path)
    row = run_episode(FolderPredictor(tmp_path / "Annotations"), recorded_episode(clip))
    assert {i: len(s.agreement) for i, s in row.scores.items()} == {1: 5, 2: 2}


def test_a_missing_or_misfit_prediction_is_named(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guess = dataset.parent / "guess"
    shutil.copytree(dataset / "Annotations", guess)
    (guess / "b/00004.png").unlink()
    command = ["--dataset", "folder", "--data", str(dataset), "--predictions", str(guess)]
    assert main(command) == 1
    assert "expected the prediction" in capsys.readouterr().err
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(guess / "b/00004.png")
    assert main(command) == 1
    assert "labels of 64x32 pixels for a frame of 128x64" in capsys.readouterr().err
    assert main(["--dataset", "folder"]) == 1
    assert "needs --data" in capsys.readouterr().err


def test_data_is_never_passed_over(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks, file = dataset / "Annotations", dataset.parent / "scores.json"
    command = ["--data", str(dataset), "--predictions", str(masks), "--json", str(file)]
    assert main(command) == 0
    result = json.loads(file.read_text())
    assert (result["dataset"], result["clips"]) == ("auto", 2)
    assert main([*command, "--dataset", "synthetic"]) == 1
    assert "takes no --data" in capsys.readouterr().err


def test_a_tracker_on_a_bag_writes_results_that_score_the_same(
    frames: Frames, tmp_path: Path
) -> None:
    write_bag(tmp_path / "bag", frames)
    common = ["--dataset", "auto", "--data", str(tmp_path / "bag")]
    results, one, page = tmp_path / "results", tmp_path / "one.json", tmp_path / "page.html"
    options = ["--input-size", "64x128", "--device", "cpu", "--json", str(one)]
    assert main([*common, *options, "--results", str(results), "--html", str(page)]) == 0
    assert len(list((results / "bag").glob("*.png"))) == len(frames)
    tracked = json.loads(one.read_text())
    assert main([*common, "--predictions", str(results), "--json", str(one)]) == 0
    written = json.loads(one.read_text())
    assert tracked["objects"] == written["objects"] == 2
    for key in ("j", "f", "f_wrap", "j_sphere", "visible_recall"):
        assert written[key] == pytest.approx(tracked[key]), key
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 4
    assert f"{tracked['j_and_f']:.3f}" in text
    assert "<script" not in text


def test_the_synthetic_target_only_is_scored(tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    command = ["--split", "val", "--clips", "1", "--input-size", "64x128", "--device", "cpu"]
    assert main([*command, "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert (result["clips"], result["objects"]) == (1, 1)
    assert set(result["latitude"]) == {"0-30", "30-60", "60-90"}
    assert main(["--split", "train"]) == 1


def test_a_clip_that_cannot_be_measured_costs_only_itself(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(dataset / "Annotations", dataset.parent / "guess")
    shutil.rmtree(dataset / "Annotations" / "b")
    out = dataset.parent / "scores.json"
    guess = ["--predictions", str(dataset.parent / "guess"), "--json", str(out)]
    assert main(["--dataset", "folder", "--data", str(dataset), *guess]) == 1
    result = json.loads(out.read_text())
    assert result["clips"] == 1
    assert "no frame has a label" in result["failed"]["b"]
    assert "1 of 2 clips could not be measured" in " ".join(capsys.readouterr().err.split())
