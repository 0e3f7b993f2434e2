"""Every plan that comes along loads; those for Hiera-T take their first steps, small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from recordings import scene, write_360vots, write_davis

from panosam2_core import train
from panosam2_core.build import VARIANTS, build_model
from panosam2_core.training.plan import load_plan
from panosam2_core.weight_file import read_weights

PLANS = sorted((Path(__file__).parents[2] / "config/train").glob("*.yaml"))
STAGES = 5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Meta's layout with random weights."""
    torch.manual_seed(0)
    state = build_model(VARIANTS["hiera_t"]).state_dict()
    plain = {k: v for k, v in state.items() if not k.startswith(("pano_decoder.", "lsmm."))}
    path = tmp_path_factory.mktemp("weights") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": plain}, path)
    return path


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_a_plan_loads_and_begins_with_its_command(path: Path) -> None:
    plan = load_plan(path)
    assert plan.total_steps > 0
    text = path.read_text()
    head = text[: text.index("variant:")]
    assert f"python -m panosam2_core.train config/train/{path.name} --out" in head


@pytest.mark.parametrize("name", ["hiera_t_360vots", "hiera_t_panovos"])
def test_the_papers_schedule_takes_its_first_steps(
    name: str, checkpoint: Path, tmp_path: Path
) -> None:
    clips = {"a": scene(), "b": scene(index=1)}
    if name.endswith("360vots"):
        write_360vots(tmp_path / "data/train", clips)
    else:
        write_davis(tmp_path / "data/train", clips)
    path = next(path for path in PLANS if path.stem == name)
    small = [
        f"stages.{i}.{change}"
        for i in range(STAGES)
        for change in ("steps=1", "input_size=[64,128]", "frames=4", "bptt=2")
    ]
    command = [str(path), "--out", str(tmp_path / "out"), "--weights", str(checkpoint)]
    more = [f"data.0.path={tmp_path / 'data'}", "accumulate=1", "warmup_steps=0", *small]
    assert train.main([*command, *more, "--device", "cpu", "--workers", "0"]) == 0
    rows = [json.loads(row) for row in (tmp_path / "out/metrics.jsonl").open()]
    assert [row["stage"] for row in rows] == [stage.name for stage in load_plan(path).stages]
    before = read_weights(checkpoint)[0]
    trained = torch.load(tmp_path / "out/last.pt", weights_only=True)["model"]
    changed = {k for k, v in trained.items() if k in before and not torch.equal(v, before[k])}
    frozen = ("image_encoder.", "memory_encoder.mask_downsampler.")
    assert not [k for k in changed if k.startswith(frozen)]
    for part in ("memory_attention.", "sam_mask_decoder.", "memory_encoder.fuser."):
        assert [k for k in changed if k.startswith(part)], part
    # The panoramic parts began at identity, and no longer are.
    assert float(trained["pano_decoder.top.conv3.weight"].abs().max()) > 0
