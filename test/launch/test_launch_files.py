"""The launch files: read as text everywhere, and really launched where ROS 2's launch is there."""

from __future__ import annotations

import ast
import importlib.util
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
    used = set(re.findall(r'(?:LaunchConfiguration|_text|_value)\(\s*"(\w+)"', text))
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
    assert {module.split(".")[0] for module in modules} == {"launch", "launch_ros"}
    assert not names & {"ExecuteProcess", "ExecuteLocal", "eval", "exec", "open", "__import__"}
    assert packages == {"panosam2_ros"}


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


@needs_launch
def test_the_tracker_is_launched_and_ends_cleanly() -> None:
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
        ready = "waiting to be configured" in said[-1]
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
                    launch_arguments={"autostart": "false", "namespace": "launched"}.items(),
                ),
                TimerAction(period=60.0, actions=[EmitEvent(event=Shutdown(reason="too slow"))]),
            ]
        )
    )
    begin = time.monotonic()
    service.run()
    assert any("waiting to be configured" in line for line in said), said
    assert codes == [0]
    assert time.monotonic() - begin < 60
