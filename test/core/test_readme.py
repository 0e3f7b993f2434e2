"""What the README shows runs as it is printed."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest

from panosam2_core.media.video_writer import VideoWriter

README = Path(__file__).parents[2] / "README.md"


def test_the_snippet_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    snippet, *_ = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    frame = np.full((512, 1024, 3), 90, np.uint8)
    frame[440:511, 900:1020] = (230, 40, 40)
    with contextlib.closing(VideoWriter(Path("walk.mp4"), 10)) as video:
        for _ in range(2):
            video.write(frame)
    exec(compile(snippet, str(README), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1"]
    assert lines[0].split()[1] == "VISIBLE"
