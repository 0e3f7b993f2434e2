"""The launch files: read as text everywhere, and really launched where ROS 2's launch is there."""

from __future__ import annotations

import ast
import importlib.util
import logging
import os
import re
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "launch"
FILES = sorted(FOLDER.glob("*.launch.py"))


def _has_launch() -> bool:
    # Our own folder launch/ can be imported under the same name; only the real one has this.
    spec = importlib.util.find_spec("launch")
    return spec is not None and spec.origin is not None


needs_launch = pytest.mark.skipif(not _has_launch(), reason="no ROS 2 distribution: no launch")


def _load(path: Path):
    spec = importlib.util.spec_from_file_location("launch_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_argument_that_is_used_is_declared_and_described(path: Path) -> None:
    text = path.read_text("utf-8")
    compile(text, str(path), "exec")
    table = text[text.index("ARGUMENTS = (") :]
    table = table[: table.index("\n)\n")]
    declared = dict(re.findall(r'\(\s*"(\w+)",\s*"[^"]*",\s*"([^"]+)"', table))
    declared |= dict.fromkeys(re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', text), "below")
    used = set(re.findall(r'(?:LaunchConfiguration|_flag|_value)\(\s*"(\w+)"', text))
    assert used == set(declared)
    assert all(declared.values())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_launching_starts_our_nodes_and_does_nothing_else(path: Path) -> None:
    """No shell, no download, no installation: nothing but launch's own words and our package."""
    tree = ast.parse(path.read_text("utf-8"))
    modules, names, packages = set(), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(str(node.module))
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.keyword) and node.arg == "package":
            packages.add(ast.literal_eval(node.value))
    found = {module.split(".")[0] for module in modules} - {"ament_index_python"}
    assert found == {"launch", "launch_ros"}
    assert not names & {"ExecuteProcess", "ExecuteLocal", "eval", "exec", "open", "__import__"}
    viewers = {"rviz2", "foxglove_bridge"} if path.name == "tracker.launch.py" else set()
    assert packages == {"panosam2_ros"} | viewers


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_arguments_that_can_be_few_things_say_which(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    (table,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "ARGUMENTS"
    )
    choices = {name: (default, chosen) for name, default, _, chosen in ast.literal_eval(table)}
    few = {"projection", "image_transport"}
    few |= {name for name, (default, _) in choices.items() if default in ("true", "false")}
    for name in few & set(choices):
        default, chosen = choices[name]
        assert chosen, name
        assert default in chosen, name


def test_there_are_launch_files() -> None:
    assert [path.name for path in FILES] == ["demo.launch.py", "tracker.launch.py"]


@needs_launch
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_launch_accepts_the_file_and_shows_its_arguments(path: Path) -> None:
    description = _load(path).generate_launch_description()
    arguments = description.get_launch_arguments()
    assert arguments
    assert all(argument.description for argument in arguments)


def _run(arguments: dict[str, str], seen: str) -> tuple[list[str], list[int], int]:
    """Launches the tracker until a line is seen; (lines, exit codes, launch's own)."""
    from launch import LaunchDescription, LaunchService
    from launch.actions import (
        EmitEvent,
        IncludeLaunchDescription,
        RegisterEventHandler,
        TimerAction,
    )
    from launch.event_handlers import OnProcessExit, OnProcessIO
    from launch.events import Shutdown
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    said: list[str] = []
    codes: list[int] = []

    def listen(event):
        said.append(event.text.decode())
        ready = seen in said[-1]
        return EmitEvent(event=Shutdown(reason="seen enough")) if ready else None

    service = LaunchService(argv=[])
    service.include_launch_description(
        LaunchDescription(
            [
                RegisterEventHandler(OnProcessIO(on_stdout=listen, on_stderr=listen)),
                RegisterEventHandler(
                    OnProcessExit(on_exit=lambda event, _: codes.append(event.returncode))
                ),
                IncludeLaunchDescription(
                    PythonLaunchDescriptionSource(str(FOLDER / "tracker.launch.py")),
                    launch_arguments=arguments.items(),
                ),
                TimerAction(period=60.0, actions=[EmitEvent(event=Shutdown(reason="too slow"))]),
            ]
        )
    )
    return said, codes, service.run()


@needs_launch
def test_the_tracker_is_launched_and_ends_cleanly() -> None:
    begin = time.monotonic()
    ready = "waiting to be configured"
    said, codes, _ = _run({"autostart": "false", "namespace": "launched"}, ready)
    assert any(ready in line for line in said), said
    assert codes == [0]
    assert time.monotonic() - begin < 60


VIEWERS = [("rviz", "rviz2"), ("foxglove", "foxglove_bridge")]


@needs_launch
@pytest.mark.parametrize(("argument", "package"), VIEWERS)
def test_a_viewer_that_is_not_installed_is_named(argument: str, package: str, caplog) -> None:
    from ament_index_python.packages import get_packages_with_prefixes

    if package in get_packages_with_prefixes():
        pytest.skip(f"{package} is installed")
    with caplog.at_level(logging.ERROR):
        said, codes, result = _run({argument: "true", "autostart": "false"}, "nothing")
    assert (said, codes, result) == ([], [], 1), "nothing is started"
    assert f"{argument}:=true needs the package {package}, which is not installed" in caplog.text


@needs_launch
@pytest.mark.parametrize(("argument", "package"), VIEWERS)
def test_a_viewer_is_started_with_its_layout(
    argument: str, package: str, tmp_path: Path, monkeypatch
) -> None:
    """Its place is taken by a program that says how it was started; viewers need a screen."""
    (tmp_path / "share/ament_index/resource_index/packages").mkdir(parents=True)
    (tmp_path / "share/ament_index/resource_index/packages" / package).touch()
    program = tmp_path / "lib" / package / package
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "viewer: $0 $@"\nsleep 60\n')
    program.chmod(0o755)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path}:{os.environ['AMENT_PREFIX_PATH']}")
    said, _, _ = _run({argument: "true", "autostart": "false"}, "viewer: ")
    (line,) = (text for text in said if "viewer: " in text)
    assert f"lib/{package}/{package}" in line
    assert ("config/panosam2.rviz" in line) == (argument == "rviz")
