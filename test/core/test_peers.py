"""The peers in the harness are what they are called; switched-off parts are really off."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from recordings import scene, write_davis
from sam2.build_sam import build_sam2_video_predictor
from sam2.sam2_video_predictor import SAM2VideoPredictor
from upstream import SIZE, ask, build_predictor, make_video, save_checkpoint

from panosam2_core import CheckpointError, load_model
from panosam2_core.data.clips import ClipFrame
from panosam2_core.errors import ConfigError
from panosam2_core.evaluate import PARTS, _ours, _parser, main
from panosam2_core.evaluation import search_region
from panosam2_core.evaluation.episodes import Episode
from panosam2_core.evaluation.predictors import Prediction, make_prompt
from panosam2_core.evaluation.run import run_episode
from panosam2_core.evaluation.search_region import TRIM, SearchRegionPredictor
from panosam2_core.evaluation.upstream import UpstreamPredictor, build_upstream
from panosam2_core.geometry.erp import lonlat_grid, lonlat_to_ray

COMPARED = 9  # more than the 7 frames whose maps SAM2 keeps


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(build_predictor("hiera_t"), tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def network(checkpoint: Path) -> SAM2VideoPredictor:
    return build_upstream("hiera_t", checkpoint, "cpu", SIZE)


@pytest.fixture(scope="module")
def by_the_book(checkpoint: Path) -> SAM2VideoPredictor:
    """As SAM2's own notebook builds it."""
    return build_sam2_video_predictor(
        "configs/sam2.1/sam2.1_hiera_t.yaml",
        str(checkpoint),
        device="cpu",
        hydra_overrides_extra=[f"++model.image_size={SIZE}"],
    )


def a_mask() -> npt.NDArray[np.bool_]:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[90:170, 60:150] = True
    return mask


@pytest.mark.parametrize("kind", ["mask", "box", "point"])
def test_frame_by_frame_is_what_sam2_does_with_the_whole_video(
    by_the_book: SAM2VideoPredictor, network: SAM2VideoPredictor, kind: str, tmp_path: Path
) -> None:
    frames = make_video(tmp_path)[:COMPARED]
    prompt = {
        "mask": {"mask": a_mask()},
        "box": {"box": [59.5, 89.5, 149.5, 169.5]},
        # The pixel farthest from the edge; there are several, ours is the first.
        "point": {"points": [[99, 129]], "labels": [1]},
    }[kind]
    state = by_the_book.init_state(str(tmp_path))
    ask(by_the_book, state, 0, obj_id=1, **prompt)
    steps = by_the_book.propagate_in_video(state, 0, max_frame_num_to_track=COMPARED - 1)
    expected = {t: (logits[0, 0] > 0).numpy() for t, _, logits in steps}
    follower = UpstreamPredictor(network, kind)
    follower.start("clip")
    for t, frame in enumerate(frames):
        new = {1: a_mask()} if t == 0 else {}
        found = follower.step(ClipFrame(frame, None, str(t)), new)[1]
        assert np.array_equal(found.mask, expected[t]), t
        assert found.visible == expected[t].any()
    assert follower.seconds > 0
    shares = [mask.mean() for mask in expected.values()]
    assert len(expected) == COMPARED
    assert 0 < max(shares[1:]) < 1, "nothing was compared"


def test_an_object_may_join_later_and_clips_do_not_mix(
    network: SAM2VideoPredictor, tmp_path: Path
) -> None:
    frames = make_video(tmp_path)
    follower = UpstreamPredictor(network, "mask")
    other = np.roll(a_mask(), 80, axis=1)

    def track() -> list[Mapping[int, Prediction]]:
        follower.start("clip")
        news = [{}, {1: a_mask()}, {}, {2: other}, {}]
        return [
            follower.step(ClipFrame(f, None, ""), new)
            for f, new in zip(frames[:5], news, strict=True)
        ]

    first, second = track(), track()
    assert [sorted(found) for found in first] == [[], [1], [1], [1, 2], [1, 2]]
    for one, two in zip(first, second, strict=True):
        assert all(np.array_equal(one[i].mask, two[i].mask) for i in one)
    assert not (first[3][1].mask & first[3][2].mask).any()


def test_a_box_across_the_seam_is_refused(network: SAM2VideoPredictor) -> None:
    follower = UpstreamPredictor(network, "box")
    follower.start("clip")
    with pytest.raises(ConfigError, match="no box across the seam"):
        follower.step(
            ClipFrame(np.zeros((SIZE, SIZE, 3), np.uint8), None, ""),
            {1: np.roll(a_mask(), -100, axis=1)},
        )


def test_other_weights_are_refused_for_the_peer(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds 'hiera_t'"):
        build_upstream("hiera_s", checkpoint, "cpu", SIZE)
    model = load_model("hiera_t", checkpoint=checkpoint, device="cpu")
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    torch.save({"model": state}, tmp_path / "ours.pt")
    with pytest.raises(CheckpointError, match="no file of Meta's"):
        build_upstream("hiera_t", tmp_path / "ours.pt", "cpu", SIZE)


class RedThings:
    """A tracker of ordinary pictures: the object is what is red."""

    def __init__(self) -> None:
        self.seconds, self.ids = 0.0, set[int]()
        self.prompts: list[float] = []

    def start(self, clip: str) -> None:
        self.ids = set()

    def step(
        self, frame: ClipFrame, new: Mapping[int, npt.NDArray[np.bool_]]
    ) -> Mapping[int, Prediction]:
        red = frame.rgb[..., 0] > 128
        for mask in new.values():
            self.prompts.append(float((mask & red).sum() / (mask | red).sum()))
        self.ids |= set(new)
        return {i: Prediction(red, bool(red.any())) for i in self.ids}


SIZE_HW = (256, 512)


def cap(lon: float, lat: float, radius: float) -> npt.NDArray[np.bool_]:
    """A disc on the sphere; radians."""
    lons, lats = lonlat_grid(SIZE_HW)
    rays = lonlat_to_ray(lons[None, :], lats[:, None])
    centre = lonlat_to_ray(torch.tensor(lon), torch.tensor(lat))
    return (rays @ centre > np.cos(radius)).numpy()


@pytest.mark.parametrize("latitude", [0.0, -1.1])
def test_the_search_region_follows_over_the_seam_and_near_the_pole(latitude: float) -> None:
    def frames() -> Iterator[ClipFrame]:
        for t in range(12):
            mask = cap(2.4 + 0.15 * t, latitude, 0.2)  # from 137 degrees over the seam to -128
            if t in (5, 6):
                mask = np.zeros_like(mask)  # out of sight
            rgb = np.zeros((*SIZE_HW, 3), np.uint8)
            rgb[mask] = (255, 40, 40)
            # Beyond the search region there is something else that is red.
            rgb[cap(-0.7, 0.5, 0.1), 0] = 255
            yield ClipFrame(rgb, mask.astype(np.int32), f"{t}")

    made: list[RedThings] = []

    def make() -> RedThings:
        made.append(RedThings())
        return made[-1]

    score = run_episode(SearchRegionPredictor(make), Episode("clip", frames))
    assert len(made) == 1
    assert made[0].prompts[0] > 0.95, "the prompt is in its place in the crop"
    assert len(score.scores[1].iou) == 9
    assert min(score.scores[1].iou) > 0.9
    assert score.scores[1].absent_hits == [True, True]
    assert set(score.scores[1].events) >= {"seam"}


def evaluate(out: Path, *more: str) -> dict:
    assert main([*more, "--json", str(out)]) == 0
    result: dict = json.loads(out.read_text())
    return result


def test_peers_and_switched_off_parts_from_the_command_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_davis(tmp_path / "set", {"a": scene()})
    data = ["--dataset", "folder", "--data", str(tmp_path / "set")]
    theirs = ["--model", "hiera_t", "--checkpoint", str(checkpoint), "--device", "cpu"]
    out = tmp_path / "out.json"
    for tracker in ("sam2", "sam2_bfov"):
        result = evaluate(out, *data, *theirs, "--input-size", "128x128", "--tracker", tracker)
        assert (result["tracker"], result["input_size"]) == (tracker, [128, 128])
        assert result["objects"] == 2
    nano = [*data, "--device", "cpu", "--input-size", "64x128"]
    whole = evaluate(out, *nano)
    for part in ("pc-blocks", "previous-mask", "wrap"):
        less = evaluate(out, *nano, "--without", part)
        assert less["without"] == [part]
        assert less["j_and_f"] != whole["j_and_f"], f"{part} does nothing"
    assert evaluate(out, *nano, "--tracker", "panosam2_bfov")["objects"] == 2
    capsys.readouterr()
    for wrong, said in (
        (["--tracker", "sam2"], "sam2 has no network of nano's size"),
        (["--tracker", "sam2", "--model", "hiera_t"], "needs Meta's weights: --checkpoint FILE"),
        ([*theirs, "--tracker", "sam2", "--without", "wrap"], "--without is for our own tracker"),
        ([*theirs, "--tracker", "sam2", "--input-size", "64x128"], "square: --input-size NxN"),
    ):
        assert main([*data, *wrong]) == 1
        assert said in " ".join(capsys.readouterr().err.split())


def test_all_parts_off_is_the_network_without_them() -> None:
    """Switching off at run time is the same as building without the part."""
    torch.manual_seed(0)
    whole = load_model("nano", device="cpu")
    whole.switch_off("pc_blocks", "previous_mask")

    parts = {"pc_blocks": False, "previous_mask": False}
    less = load_model("nano", device="cpu", change=lambda config: replace(config, **parts))
    assert not [k for k in less.state_dict() if k.startswith("pano_decoder")]
    frame = torch.randint(0, 255, (1, 3, 64, 128), dtype=torch.uint8)
    masks = torch.zeros(1, 128, 8, 16).normal_()
    found = []
    for model in (whole, less):
        model.set_input_size((128, 256))
        features = model.encode_image(model.normalize(frame, pano=True), pano=True)
        found.append((features.skips[0], model.condition(features, None, masks, pano=True)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("part", PARTS)
def test_every_part_can_be_switched_off(part: str) -> None:
    args = _parser().parse_args(["--device", "cpu", "--without", part])
    tracker = _ours(args)[0]().tracker
    config, network = tracker.config, tracker.model.config
    on = {
        "pc-blocks": network.pc_blocks,
        "previous-mask": network.previous_mask,
        "long-memory": config.long_frames > 0,
        "seen-only": not config.remember_hidden,
        "motion-gate": config.motion_gate_deg > 0,
        "colours": config.least_likeness > 0,
        "prompt-view": config.prompt_view == "auto",
        "local-views": config.view != "sphere",
        "wrap": config.pano,
    }
    assert on == {name: name != part for name in PARTS}


@pytest.mark.parametrize("shift", [0, 200, 256, 300])
@pytest.mark.parametrize("kind", ["point", "box", "mask"])
def test_prompts_of_the_harness_name_the_object_wherever_it_is(kind: str, shift: int) -> None:
    mask = np.roll(cap(0.0, 0.2, 0.3), shift, axis=1)
    prompt = make_prompt(mask, kind, 5)
    assert prompt.object_id == 5
    columns = (np.flatnonzero(np.roll(mask, -shift, axis=1).any(axis=0)) + shift) % 512
    middle = (columns[len(columns) // 2] + 0.5) % 512
    if kind == "mask":
        assert np.array_equal(prompt.mask, mask)
    elif kind == "point":
        ((u, v),) = prompt.points
        assert abs((u - middle + 256) % 512 - 256) <= 3, "in the middle, not at the seam"
        assert mask[int(v), int(u)]
    else:
        x0, _, x1, _ = prompt.box
        assert x0 == columns[0]
        assert (x1 - x0) % 512 == len(columns)


def test_the_search_region_of_a_lost_object_stays_then_grows_then_is_everything() -> None:
    seen: list[int] = []

    class Watcher(RedThings):
        def step(self, frame: ClipFrame, new: Mapping) -> Mapping[int, Prediction]:
            seen.append(int((frame.rgb[..., 1] > 200).sum()))  # a fixed green thing far away
            return super().step(frame, new)

    def frames() -> Iterator[ClipFrame]:
        for t in range(14):
            mask = cap(0.0, 0.0, 0.2) if t < 2 else np.zeros(SIZE_HW, bool)
            rgb = np.zeros((*SIZE_HW, 3), np.uint8)
            rgb[mask] = (255, 0, 0)
            rgb[cap(1.6, 0.0, 0.1), 1] = 255
            yield ClipFrame(rgb, mask.astype(np.int32), f"{t}")

    run_episode(SearchRegionPredictor(Watcher), Episode("clip", frames))
    # Lost from frame 2 on: the region of frames 3 to 6 is the old one, that of frame 7 doubled.
    assert seen[:7] == [0] * 7
    assert min(seen[7:]) > 0


def test_one_false_pixel_moves_no_search_region() -> None:
    mask = cap(0.0, 0.0, 0.25)
    tidy, wild = search_region._region(mask, TRIM), mask.copy()
    wild[128, 440] = True
    found = search_region._region(wild, TRIM)
    assert abs(found.lon - tidy.lon) < 0.02
    assert abs(found.fov_h - tidy.fov_h) < 0.05
    shrunk = search_region._region(mask, 0.0)
    assert abs(shrunk.fov_h - tidy.fov_h) < 0.1 * shrunk.fov_h, "the object is not cut"
