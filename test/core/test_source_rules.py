"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = sorted(
    p for name in ("panosam2_core", "panosam2_ros") for p in ROOT.glob(f"{name}/**/*.py")
)
LONGEST = 60


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_are_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= LONGEST, f"{node.name}: {lines} lines, at most {LONGEST}"


def test_no_drawer_for_everything() -> None:
    assert not [path for path in LIBRARY if path.stem in ("utils", "helpers", "common", "misc")]
