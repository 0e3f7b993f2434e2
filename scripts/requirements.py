"""Prints the packages that pyproject.toml declares, one per line, for pip.

Usage: python scripts/requirements.py core|train|export|dev|ros
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(group: str) -> list[str]:
    """Reads one group of requirements.

    Args:
        group: "core" for the package's own dependencies, else the name of an extra.

    Returns:
        The requirement strings, as pip reads them.

    Raises:
        KeyError: If there is no such extra.
    """
    text = Path(__file__).resolve().parent.parent.joinpath("pyproject.toml").read_text("utf-8")
    project = tomllib.loads(text)["project"]
    chosen = (
        project["dependencies"] if group == "core" else project["optional-dependencies"][group]
    )
    return list(chosen)


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1])))
