"""The command line that tracks through a recording: what it reads, writes, refuses and resumes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from panosam2_core.build import load_model
from panosam2_core.media.bag import open_bag
from panosam2_core.media.frames import SourceError
from panosam2_core.media.video_writer import VideoWriter
from panosam2_core.track import main
from panosam2_core.tracker import PanoTracker
from panosam2_core.training.checkpoint import save_weights

Pixels = npt.NDArray[np.uint8]
Track = Callable[..., int]
COUNT, SIZE_HW = 6, (128, 256)
POINT = ["--point", "250,60"]
STORES = get_typestore(Stores.ROS2_JAZZY)


def scene(t: int) -> Pixels:
    """An orange square that lies across the seam and moves right, on blue."""
    rgb = np.full((*SIZE_HW, 3), (20, 30, 90), np.uint8)
    rgb[40:80, np.arange(236 + 2 * t, 276 + 2 * t) % SIZE_HW[1]] = (255, 140, 0)
    return rgb


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    for t in range(COUNT):
        cv2.imwrite(str(folder / f"{t:03d}.png"), scene(t)[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> Track:
    """The command line with nano at a quarter of its size."""
    weights = tmp_path_factory.mktemp("weights") / "small.safetensors"
    model = load_model("nano", device="cpu", input_size=SIZE_HW)
    model.config = dataclasses.replace(model.config, input_size=SIZE_HW)
    save_weights(weights, model, model.state_dict(), {})

    def run(video: Path, out: Path, *more: str) -> int:
        network = ["--checkpoint", str(weights), "--device", "cpu"]
        return main([str(video), "--out", str(out), *network, *more])

    return run


@pytest.fixture(scope="module")
def whole(track: Track, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert track(clip, out, *POINT) == 0
    return out


def labels_in(out: Path) -> dict[str, Pixels]:
    files = sorted((out / "labels").iterdir())
    return {file.name: cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files}


def scores_in(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "scores.json").read_text("utf-8"))


def frames_in(video: Path) -> list[Pixels]:
    with av.open(str(video)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def write_bag(path: Path, topics: dict[str, str], plugin: StoragePlugin) -> None:
    """A bag of the scene: topics by their kind, 'raw', 'compressed' or 'text'."""
    kinds = {"raw": raw_image, "compressed": compressed_image, "text": text}
    with Writer(path, version=9, storage_plugin=plugin) as bag:
        for topic, kind in topics.items():
            messages = [kinds[kind](t) for t in range(COUNT)]
            name = messages[0].__msgtype__
            connection = bag.add_connection(topic, name, typestore=STORES)
            for t, msg in enumerate(messages):
                raw = STORES.serialize_cdr(msg, name)
                bag.write(connection, 10**9 + t * 10**8, raw)


def header(t: int) -> Any:
    stamp = STORES.types["builtin_interfaces/msg/Time"](sec=7, nanosec=t)
    return STORES.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")


def raw_image(t: int) -> Any:
    """bgr8 with padded rows, as some drivers send."""
    padded = np.zeros((SIZE_HW[0], SIZE_HW[1] * 3 + 5), np.uint8)
    padded[:, :-5] = scene(t)[..., ::-1].reshape(SIZE_HW[0], -1)
    return STORES.types["sensor_msgs/msg/Image"](
        header(t), *SIZE_HW, "bgr8", 0, padded.shape[1], padded.ravel()
    )


def compressed_image(t: int) -> Any:
    data = cv2.imencode(".png", scene(t)[..., ::-1])[1].ravel()
    return STORES.types["sensor_msgs/msg/CompressedImage"](header(t), "bgr8; png", data)


def text(t: int) -> Any:
    return STORES.types["std_msgs/msg/String"](f"number {t}")


def test_a_folder_gives_labels_scores_and_a_video(
    track: Track, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert track(clip, out, *POINT, "--not", "20,20", "--id", "7") == 0
    labels, scores = labels_in(out), scores_in(out)
    assert list(labels) == [f"{t:06d}.png" for t in range(COUNT)]
    assert all(image.shape == SIZE_HW and image.dtype == np.uint8 for image in labels.values())
    assert [frame["frame"] for frame in scores] == list(range(COUNT))
    for image, frame in zip(labels.values(), scores, strict=True):
        (found,) = frame["objects"]
        assert (found["object_id"], found["state"], frame["stamp_ns"]) == (7, "visible", None)
        assert 0 < found["area_px"] == np.count_nonzero(image == 7)
        assert np.linalg.norm(found["bearing"]) == pytest.approx(1)
        assert found["visibility"] > 0.5
        assert 0 <= found["mask_score"] <= 1
    drawn = frames_in(out / "overlay.mp4")
    assert len(drawn) == COUNT
    # The mask is tinted, the rest is not.
    far = cv2.dilate(labels["000000.png"], np.ones((25, 25))) == 0
    far[:30] = False  # names are written there
    change = np.abs(drawn[0].astype(int) - scene(0)).mean(axis=2)
    assert change[labels["000000.png"] == 7].mean() > 30
    assert np.median(change[far]) < 10


def test_a_mask_is_taken_as_the_object(track: Track, clip: Path, tmp_path: Path) -> None:
    mask = np.zeros(SIZE_HW, np.uint8)
    mask[40:80, 100:140] = 255
    file = tmp_path / "mask.png"
    cv2.imwrite(str(file), mask)
    out = tmp_path / "out"
    assert track(clip, out, "--mask", str(file), "--id", "300", "--frames", "1") == 0
    (labels,) = labels_in(out).values()
    assert labels.dtype == np.uint16
    inside = labels == 300
    assert np.count_nonzero(inside & (mask > 0)) > 0.8 * np.count_nonzero(inside | (mask > 0))


@pytest.mark.parametrize("mode", ["P", "I;16"])
def test_a_label_image_names_several_objects(
    track: Track, clip: Path, tmp_path: Path, mode: str
) -> None:
    """As 16 bit values, and as a palette, which is how DAVIS stores its masks."""
    ids = np.zeros(SIZE_HW, np.uint16)
    ids[40:80, 100:140], ids[20:60, 10:50] = 7, 250
    image = Image.fromarray(ids if mode == "I;16" else ids.astype(np.uint8))
    if mode == "P":
        image.putpalette([value // 3 for value in range(768)])
        assert image.mode == "P"
    image.save(tmp_path / "ids.png")
    out = tmp_path / "out"
    assert track(clip, out, "--labels", str(tmp_path / "ids.png"), "--frames", "3") == 0
    first = labels_in(out)["000000.png"]
    for object_id in (7, 250):
        given, found = ids == object_id, first == object_id
        assert np.count_nonzero(given & found) > 0.8 * np.count_nonzero(given | found)
    named = [sorted(thing["object_id"] for thing in frame["objects"]) for frame in scores_in(out)]
    assert named == 3 * [[7, 250]]
    ids[ids == 250] = 0
    Image.fromarray(ids.astype(np.uint8)).save(tmp_path / "ids.png")
    assert track(clip, out, "--labels", str(tmp_path / "ids.png"), "--resume") == 1


def test_a_video_file_keeps_its_time(track: Track, tmp_path: Path) -> None:
    file, out = tmp_path / "clip.mp4", tmp_path / "out"
    with VideoWriter(file, 25) as video:
        for t in range(COUNT):
            video.write(scene(t))
    assert track(file, out, *POINT, "--frames", "3") == 0
    assert [frame["stamp_ns"] for frame in scores_in(out)] == [0, 40_000_000, 80_000_000]
    with av.open(str(out / "overlay.mp4")) as container:
        assert container.streams.video[0].average_rate == 25
    assert len(frames_in(out / "overlay.mp4")) == len(labels_in(out)) == 3


@pytest.mark.parametrize("kind", ["raw", "compressed"])
@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_bags_give_their_images(plugin: StoragePlugin, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    write_bag(folder, {"/chatter": "text", "/front": kind}, plugin)
    (file,) = (path for path in folder.iterdir() if path.suffix in (".mcap", ".db3"))
    for path in (folder, file):
        source = open_bag(path)
        assert (source.count, source.fps) == (COUNT, pytest.approx(10, abs=0.01))
        for t, frame in enumerate(source.frames):
            np.testing.assert_array_equal(frame.rgb, scene(t))
            assert frame.stamp_ns == 7 * 10**9 + t
        assert t == COUNT - 1


def test_a_bag_is_tracked_like_the_folder_it_was_made_from(
    track: Track, clip: Path, tmp_path: Path
) -> None:
    bag = tmp_path / "bag"
    write_bag(bag, {"/left": "raw", "/right": "compressed"}, StoragePlugin.MCAP)
    assert track(bag, tmp_path / "a", *POINT, "--frames", "2", "--topic", "/right") == 0
    assert track(clip, tmp_path / "b", *POINT, "--frames", "2") == 0
    for ours, theirs in zip(
        labels_in(tmp_path / "a").values(), labels_in(tmp_path / "b").values(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_topics_that_cannot_be_chosen_are_listed(
    track: Track, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two, none, out = tmp_path / "two", tmp_path / "none", tmp_path / "out"
    write_bag(two, {"/left": "raw", "/right": "compressed"}, StoragePlugin.SQLITE3)
    write_bag(none, {"/chatter": "text"}, StoragePlugin.SQLITE3)
    for bag, options, words in (
        (two, [], "several image topics: /left, /right; choose one with --topic"),
        (two, ["--topic", "/up"], "no image topic /up; it has /left, /right"),
        (none, [], "no sensor_msgs/Image or CompressedImage; it holds /chatter"),
    ):
        assert track(bag, out, *POINT, *options) == 1
        assert words in capsys.readouterr().err
    assert not out.exists()


def test_damaged_recordings_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    write_bag(folder, {"/front": "raw"}, StoragePlugin.MCAP)
    (file,) = folder.glob("*.mcap")
    whole = file.read_bytes()
    for content in (b"", b"not a recording", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(SourceError, match=r"cannot be read as a rosbag2 recording"):
            list(open_bag(file).frames)
    (folder / "metadata.yaml").write_text("nothing: here")
    with pytest.raises(SourceError, match=r"cannot be read as a rosbag2 recording"):
        open_bag(folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--point", "300,60"], "point (300, 60) is outside the 256x128 image"),
        (["--not", "30,60"], "at least one point must be on the object"),
        (["--box", "10,10,10,20"], "a positive width"),
        (["--box", "236,40,20,80", "--flat"], "box must have"),
        (["--mask", "nowhere.png"], "cannot read 'nowhere.png' as an image"),
        (["--labels", "nowhere.png"], "cannot read 'nowhere.png' as an image"),
        ([*POINT, "--hfov", "0"], "hfov_deg must be in (0, 360]"),
        ([*POINT, "--vfov", "181"], "vfov_deg must be in (0, 180]"),
        ([*POINT, "--precision", "int8"], "precision must be auto, float32 or bfloat16"),
        ([*POINT, "--id", "0"], "object_id must be 1..65535"),
        ([*POINT, "--topic", "/front"], "--topic is for recordings"),
    ],
)
def test_a_prompt_that_makes_no_sense_is_refused(
    options: list[str],
    words: str,
    track: Track,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert track(clip, tmp_path / "out", *options) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--point", "1"],
        ["--box", "1,2,3"],
        [*POINT, "--mask", "m"],
        ["--labels", "l", "--mask", "m"],
        [*POINT, "--frames", "-1"],
    ],
)
def test_wrong_usage_is_told_at_once(
    options: list[str], track: Track, clip: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as error:
        track(clip, tmp_path / "out", *options)
    assert error.value.code == 2


def test_what_cannot_be_read_is_named(
    track: Track, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    for name, words in (
        ("nowhere.mp4", "nowhere.mp4' does not exist"),
        ("empty", "empty holds no images"),
        ("text.mp4", "text.mp4 cannot be read as a video"),
    ):
        assert track(tmp_path / name, tmp_path / "out", *POINT) == 1
        assert words in capsys.readouterr().err
    odd, out = tmp_path / "odd", tmp_path / "out"
    shutil.copytree(clip, odd)
    cv2.imwrite(str(odd / "002.png"), scene(2)[:100])
    assert track(odd, out, *POINT) == 1
    assert "frame 2 is 256x100, the first is 256x128" in capsys.readouterr().err
    assert len(labels_in(out)) == len(frames_in(out / "overlay.mp4")) == 2


def test_a_network_that_knows_the_yaw_is_another_one(
    track: Track, whole: Path, clip: Path, tmp_path: Path
) -> None:
    settings = {}
    for option in ("--yaw-true", "--no-yaw-true"):
        out = tmp_path / option
        assert track(clip, out, *POINT, option) == 0
        settings[option] = json.loads((out / "run.json").read_text())["yaw_true"]
    assert settings == {"--yaw-true": True, "--no-yaw-true": False}
    assert scores_in(tmp_path / "--yaw-true") == scores_in(whole), "nano's weights say so anyway"
    assert scores_in(tmp_path / "--no-yaw-true") != scores_in(whole)


def test_a_box_across_the_seam_does_what_it_does_in_the_middle(
    track: Track, clip: Path, tmp_path: Path
) -> None:
    half, rolled = SIZE_HW[1] // 2, tmp_path / "rolled"
    rolled.mkdir()
    for t in range(COUNT):
        cv2.imwrite(str(rolled / f"{t:03d}.png"), np.roll(scene(t), half, axis=1)[..., ::-1])
    seam, middle = tmp_path / "seam", tmp_path / "middle"
    assert track(clip, seam, "--box", "234,38,22,82", "--frames", "3") == 0
    assert track(rolled, middle, "--box", "106,38,150,82", "--frames", "3") == 0
    for mask, whole in zip(labels_in(seam).values(), labels_in(middle).values(), strict=True):
        assert (whole == 1).sum() > 100
        assert (np.roll(mask, half, axis=1) != whole).sum() < 10  # rounding at the mask's edge
    crossings = 0
    for mask, frame in zip(labels_in(seam).values(), scores_in(seam), strict=True):
        (found,) = frame["objects"]
        assert found["crosses_seam"] == bool(mask[:, 0].any() and mask[:, -1].any())
        assert found["crosses_seam"] == (found["box"][0] + found["box"][2] > SIZE_HW[1])
        crossings += found["crosses_seam"]
    assert crossings  # how much of the square nano covers is its business, where it lies is not


def interrupt_after(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    """Lets Ctrl-C come while that frame is being tracked."""
    step = PanoTracker.step

    def interrupted(self: PanoTracker, *args: Any) -> Any:
        result = step(self, *args)
        if result.frame_index + 1 == frames:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(PanoTracker, "step", interrupted)


@pytest.mark.parametrize(
    "loss", ["nothing", "as in a crash", "half the state", "two label images"]
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    loss: str,
    track: Track,
    whole: Path,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        assert track(clip, out, *POINT) == 130
    assert "--resume goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    assert len(labels_in(out)) == len(frames_in(out / "overlay.mp4")) == 4
    if loss == "as in a crash":
        (out / "resume.pt").unlink()
        (out / "overlay.mp4").rename(out / "overlay.part.mp4")
        (out / "scores.json").write_bytes((out / "scores.json").read_bytes()[:-40])
    elif loss == "half the state":
        (out / "resume.pt").write_bytes((out / "resume.pt").read_bytes()[:5000])
    elif loss == "two label images":
        (out / "labels" / "000002.png").unlink()
        (out / "labels" / "000003.png").unlink()
    stepped: list[int] = []
    step = PanoTracker.step
    with monkeypatch.context() as patch:
        patch.setattr(PanoTracker, "step", lambda *args: [step(*args), stepped.append(1)][0])
        assert track(clip, out, *POINT, "--resume") == 0
    assert len(stepped) == (2 if loss == "nothing" else COUNT)
    files = [f"labels/{name}" for name in labels_in(whole)]
    for name in (*files, "scores.json", "run.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    for ours, theirs in zip(
        frames_in(out / "overlay.mp4"), frames_in(whole / "overlay.mp4"), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert len({(whole / name).read_bytes() for name in files}) > 1  # not the same thing again


def test_results_are_neither_overwritten_nor_mixed(
    track: Track, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert track(clip, out, *POINT, "--frames", "3") == 0
    kept = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert track(clip, out, *POINT) == 1
    assert "go on with --resume" in capsys.readouterr().err
    assert track(clip, out, "--point", "251,60", "--resume") == 1
    assert (
        "made with points of object 1 [[250.0, 60.0]], now it is [[251.0, 60.0]]"
        in capsys.readouterr().err
    )
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == kept
    # A shorter run leaves the longer video alone.
    assert track(clip, out, *POINT, "--resume", "--frames", "1") == 0
    assert len(labels_in(out)) == len(frames_in(out / "overlay.mp4")) == 3
