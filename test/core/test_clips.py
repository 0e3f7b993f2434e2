"""Recordings and folders give back what was written into them, and errors that help."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recordings import LABELS, Frames, scene, stamp_ns, write_360vots, write_bag, write_davis
from rosbags.rosbag2 import StoragePlugin

from panosam2_core.data.__main__ import main
from panosam2_core.data.clips import Clip, DataError
from panosam2_core.data.datasets import open_clips


@pytest.fixture(scope="module")
def frames() -> Frames:
    return scene()


def assert_same(clip: Clip, frames: Frames, *, lossy: bool = False) -> None:
    assert len(clip) == len(frames)
    assert list(clip.annotated) == list(range(len(frames)))
    order = [1, 3, 4]
    for index, frame in zip(order, clip.read(order), strict=True):
        rgb, labels = frames[index]
        assert frame.labels is not None
        assert frame.labels.dtype == np.int32
        assert np.array_equal(frame.labels, labels)
        difference = np.abs(frame.rgb.astype(int) - rgb.astype(int))
        assert difference.mean() < 6 if lossy else not difference.any()


@pytest.mark.parametrize("plugin", list(StoragePlugin))
@pytest.mark.parametrize("compressed", [False, True])
def test_a_bag_gives_its_frames(
    plugin: StoragePlugin, compressed: bool, frames: Frames, tmp_path: Path
) -> None:
    write_bag(tmp_path / "bag", frames, plugin=plugin, compressed=compressed)
    (clip,) = open_clips(tmp_path / "bag")
    assert_same(clip, frames)
    assert_same(pickle.loads(pickle.dumps(clip)), frames)  # loader processes get a copy
    assert [f.name for f in clip.read([0])] == ["5.000000123"]
    assert len(open_clips(tmp_path)) == 1  # a folder of recordings


def test_labels_are_matched_by_stamp(frames: Frames, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", frames, labelled=lambda t: t in (1, 4))
    (clip,) = open_clips(tmp_path / "bag")
    assert list(clip.annotated) == [1, 4]
    read = list(clip.read([0, 1, 4]))
    assert read[0].labels is None
    for frame, t in zip(read[1:], (1, 4), strict=True):
        assert frame.labels is not None
        assert np.array_equal(frame.labels, frames[t][1])


def test_a_bag_without_a_match_says_so(frames: Frames, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", frames, shift_ns=1)
    with pytest.raises(DataError, match=r"bag: no label image has the stamp.*first 5\.000000124"):
        open_clips(tmp_path / "bag")


def test_missing_topics_are_named(frames: Frames, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", frames, label_topic="/masks")
    with pytest.raises(DataError, match=r"bag: expected one topic of label images.*/masks"):
        open_clips(tmp_path / "bag")
    with pytest.raises(
        DataError, match=r"bag has no image topic /nope; it has /image_raw, /masks"
    ):
        open_clips(tmp_path / "bag", label_topic="/nope")
    (clip,) = open_clips(tmp_path / "bag", label_topic="/masks", image_topic="/image_raw")
    assert_same(clip, frames)


def test_a_recording_of_the_camera_alone_says_what_to_do(frames: Frames, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", frames, labelled=None)
    with pytest.raises(DataError, match=r"bag holds no label images.*/image_raw.*data label"):
        open_clips(tmp_path / "bag")


def test_a_label_image_of_another_size_is_named(frames: Frames, tmp_path: Path) -> None:
    broken = [(rgb, ids[::2, ::2] if t == 3 else ids) for t, (rgb, ids) in enumerate(frames)]
    write_bag(tmp_path / "bag", broken)
    (clip,) = open_clips(tmp_path / "bag")
    seconds = rf"{stamp_ns(3) / 1e9:.9f}"
    with pytest.raises(DataError, match=rf"bag, {LABELS}, stamp {seconds}: labels of 64x32"):
        list(clip.read([2, 3]))


def test_a_damaged_bag_is_an_error_not_a_crash(frames: Frames, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", frames)
    (file,) = (tmp_path / "bag").glob("*.mcap")
    whole = file.read_bytes()
    for size in range(0, len(whole), len(whole) // 23):
        file.write_bytes(whole[:size])
        with pytest.raises(DataError, match="bag"):
            open_clips(tmp_path / "bag")


@pytest.mark.parametrize("resolution", ["", "480p"])
def test_davis_folders(resolution: str, frames: Frames, tmp_path: Path) -> None:
    write_davis(tmp_path, {"b": frames, "a": frames[:4]}, resolution)
    clips = open_clips(tmp_path)
    assert [clip.name for clip in clips] == ["a", "b"]
    assert_same(clips[1], frames, lossy=True)
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets/train.txt").write_text("b\n")
    assert [clip.name for clip in open_clips(tmp_path, split="train")] == ["b"]
    (tmp_path / "ImageSets/train.txt").write_text("b\nc\n")
    with pytest.raises(DataError, match="names c"):
        open_clips(tmp_path, split="train")


def test_panovos_with_labels_on_the_first_frame_only(frames: Frames, tmp_path: Path) -> None:
    write_davis(tmp_path / "train", {"one": frames})
    write_davis(tmp_path / "val", {"two": frames})
    for file in sorted((tmp_path / "val/Annotations/two").iterdir())[1:]:
        file.unlink()
    assert_same(open_clips(tmp_path, split="train")[0], frames, lossy=True)
    (clip,) = open_clips(tmp_path, split="val")
    assert list(clip.annotated) == [0]
    assert len(clip) == len(frames)
    assert next(iter(clip.read([2]))).labels is None
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        open_clips(tmp_path, split="test")


def test_360vots_joins_the_masks_of_objects(frames: Frames, tmp_path: Path) -> None:
    write_360vots(tmp_path, {"0117": frames})
    (clip,) = open_clips(tmp_path)
    assert_same(clip, frames, lossy=True)
    for file in sorted((tmp_path / "0117/mask").glob("*_1.png")):
        file.unlink()
    for t, file in enumerate(sorted((tmp_path / "0117/mask").glob("*_0.png"))):
        file.rename(file.with_name(f"{t + 700:06d}.png"))  # as in sequence 052
    (clip,) = open_clips(tmp_path)
    (frame,) = clip.read([2])
    assert np.array_equal(frame.labels, (frames[2][1] == 1).astype(np.int32))


@pytest.mark.parametrize("name", ["{clip}_{t:06d}", "{t:06d}", "{t:06d}_0", "{clip}_{t:06d}_0"])
def test_360vots_masks_are_read_by_the_clips_name(
    frames: Frames, tmp_path: Path, name: str
) -> None:
    """A clip whose name is a number must not be taken for one."""
    write_360vots(tmp_path, {"0003": frames})
    folder = tmp_path / "0003/mask"
    for file in sorted(folder.glob("*_1.png")):
        file.unlink()
    for t, file in enumerate(sorted(folder.glob("*_0.png"))):
        file.rename(folder / (name.format(clip="0003", t=t) + ".png"))
    (clip,) = open_clips(tmp_path, "360vots")
    assert list(clip.annotated) == list(range(len(frames)))
    for found, (_, ids) in zip(clip.read(range(len(frames))), frames, strict=True):
        assert np.array_equal(found.labels, (ids == 1).astype(int))


def test_all_splits_of_360vots_are_taken_when_none_is_named(
    frames: Frames, tmp_path: Path
) -> None:
    write_360vots(tmp_path / "train", {"a": frames})
    write_360vots(tmp_path / "test", {"b": frames})
    assert [clip.name for clip in open_clips(tmp_path, "auto")] == ["a", "b"]
    assert [clip.name for clip in open_clips(tmp_path, "360vots", split="test")] == ["b"]


def test_broken_files_are_named(frames: Frames, tmp_path: Path) -> None:
    write_davis(tmp_path, {"a": frames})
    (clip,) = open_clips(tmp_path)
    masks, images = tmp_path / "Annotations/a", tmp_path / "JPEGImages/a"
    (images / "00001.jpg").write_bytes(b"no image")
    (masks / "00002.png").write_bytes(b"no mask")
    Image.fromarray(frames[3][0]).save(masks / "00003.png")
    Image.fromarray(frames[4][1].astype(np.uint8)[::2]).save(masks / "00004.png")
    for index, words in (
        (1, "00001.jpg cannot be read as an image"),
        (2, "00002.png cannot be read as a mask"),
        (3, "00003.png: a mask of mode RGB"),
        (4, "00004.png: labels of 128x32 pixels for a frame of 128x64"),
    ):
        with pytest.raises(DataError, match=words):
            list(clip.read([index]))


def test_unknown_layouts_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_clips(tmp_path / "nothing")
    with pytest.raises(DataError, match="JPEGImages and Annotations"):
        open_clips(tmp_path)


def test_inspect_counts_and_draws(
    frames: Frames, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Object 1 lies across the seam, object 2 round the pole.
    ids = np.zeros((64, 128), np.int32)
    ids[20:30, 120:] = ids[20:30, :8] = 1
    ids[:4] = 2
    write_davis(tmp_path / "set", {"a": [(rgb, ids) for rgb, _ in frames]})
    sheet = tmp_path / "sheet.png"
    assert main(["inspect", str(tmp_path / "set"), "--sheet", str(sheet)]) == 0
    out = capsys.readouterr().out
    line = next(text for text in out.splitlines() if " a " in text)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["a", "6", "6", "128x64", "2", "12", "100%", "50%", cells[-1]]
    picture = np.asarray(Image.open(sheet))
    assert picture.shape == (240, 4 * 480, 3)
    plain = frames[0][0][25, 124] / 2  # half of the object's colour is in the picture
    red, green, blue = picture[25 * 240 // 64 + 2, 124 * 480 // 128] - plain
    assert red > max(green, blue) + 50
    shutil.rmtree(tmp_path / "set/JPEGImages/a")
    assert main(["inspect", str(tmp_path / "set")]) == 1


@pytest.mark.parametrize("compressed", [False, True])
def test_a_recording_and_its_label_images_become_one_bag(
    compressed: bool, frames: Frames, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bag(tmp_path / "raw", frames, compressed=compressed, labelled=lambda t: False)
    labels = tmp_path / "labels"
    labels.mkdir()
    for t in (0, 2, 5):
        dtype = np.uint16 if t == 5 else np.uint8
        Image.fromarray(frames[t][1].astype(dtype)).save(labels / f"{t:06d}.png")
    out = tmp_path / "joined"
    command = ["label", str(tmp_path / "raw"), str(labels), str(out), "--topic", "/image_raw"]
    assert main(command) == 0
    assert "6 images, 3 of them labelled" in " ".join(capsys.readouterr().err.split())
    (clip,) = open_clips(out)
    assert list(clip.annotated) == [0, 2, 5]
    for frame, t in zip(clip.read([0, 2, 5]), (0, 2, 5), strict=True):
        assert np.array_equal(frame.rgb, frames[t][0])
        assert np.array_equal(frame.labels, frames[t][1])
        assert frame.name == f"{stamp_ns(t) / 1e9:.9f}"
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "nothing").mkdir()
    command[2:4] = [str(tmp_path / "nothing"), str(tmp_path / "other")]
    assert main(command) == 1
    assert "has no label image" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "other").exists()
