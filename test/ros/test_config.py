"""The files in config/ say what the node really does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml
from harness import Scene, Tester, start_tracker
from rcl_interfaces.srv import DescribeParameters, ListParameters
from test_inputs import TRACKER, call

from panosam2_ros.parameters import SETTINGS

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inner = (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
        found |= inner
    return found


def test_the_parameter_file_has_every_parameter_with_its_default() -> None:
    text = (CONFIG / "tracker.yaml").read_text()
    stored = flat(yaml.safe_load(text)["/**"]["ros__parameters"])
    assert stored == {setting.name: setting.default for setting in SETTINGS}
    assert [type(stored[s.name]) for s in SETTINGS] == [type(s.default) for s in SETTINGS]
    live = {setting.name.split(".")[-1] for setting in SETTINGS if setting.live}
    fixed = {setting.name.split(".")[-1] for setting in SETTINGS if not setting.live}
    for line in text.splitlines():
        match = re.match(r"\s+(\w+): .*# live", line)
        assert not (match and match[1] in fixed - live), line
        name = re.match(r"\s+(\w+): \S", line)
        if name and name[1] in live - fixed:
            assert "# live" in line, line


def test_the_networks_input_size_is_a_parameter(env, tmp_path, scene: Scene) -> None:
    settings = "model.input_size:=64x128", "publish.label_resolution:=model", "warmup_frames:=0"
    with start_tracker(env, tmp_path / "log", "/sized", *settings):
        tester = Tester("/sized/panosam2", "/sized/image")
        tester.greet(scene.frames[0])
        stamp = tester.send(scene.frames[0])
        label_image = tester.heard.labels[stamp]
        tester.close()
    assert (label_image.height, label_image.width) == (64 // 4, 128 // 4)


def test_an_input_size_without_meaning_is_refused(env, tmp_path) -> None:
    with start_tracker(env, tmp_path / "log", "/unsized", "model.input_size:=tiny"):
        tester = Tester("/unsized/panosam2", "/unsized/image")
        told = "cannot configure: input size must be HEIGHTxWIDTH or one of speed, balanced"
        tester.until(lambda: told in (tmp_path / "log").read_text(), "the error")
        tester.close()


def test_every_parameter_describes_itself(fresh: Tester) -> None:
    names = call(
        fresh, ListParameters, f"{TRACKER}/list_parameters", ListParameters.Request()
    ).result.names
    assert {setting.name for setting in SETTINGS} <= set(names)
    request = DescribeParameters.Request(names=[setting.name for setting in SETTINGS])
    told = call(fresh, DescribeParameters, f"{TRACKER}/describe_parameters", request).descriptors
    for setting, descriptor in zip(SETTINGS, told, strict=True):
        assert descriptor.description == setting.description
        numbers = descriptor.floating_point_range or descriptor.integer_range
        assert bool(numbers) == isinstance(setting.default, int | float) - isinstance(
            setting.default, bool
        ), setting.name


def test_the_security_policy_names_the_nodes_topics_and_no_others(fresh: Tester) -> None:
    policy = ElementTree.parse(CONFIG / "sros2_policy.xml").getroot()
    profile = policy.find(".//profile[@node='panosam2']")
    allowed = {}
    for kind in ("publish", "subscribe"):
        groups = profile.findall(f"topics[@{kind}='ALLOW']")
        allowed[kind] = {topic.text for group in groups for topic in group}
    node = ("panosam2", "/shared")
    publishes = dict(fresh.node.get_publisher_names_and_types_by_node(*node))
    subscribes = dict(fresh.node.get_subscriber_names_and_types_by_node(*node))
    for kind, names in (("publish", publishes), ("subscribe", subscribes)):
        plain = {
            name.replace("/shared/panosam2/", "~/").removeprefix("/shared").removeprefix("/")
            for name in names
        }
        assert plain <= allowed[kind], plain - allowed[kind]
        rest = {"clock", "parameter_events", "image/compressed"}
        assert allowed[kind] - plain <= rest, allowed[kind] - plain
    services = {
        service.text for group in profile.findall("services[@reply='ALLOW']") for service in group
    }
    offered = dict(fresh.node.get_service_names_and_types_by_node(*node))
    plain = {name.replace("/shared/panosam2/", "~/") for name in offered}
    assert plain <= services, plain - services


def test_layouts_show_topics_that_exist() -> None:
    layout = json.loads((CONFIG / "foxglove_layout.json").read_text())
    text = json.dumps(layout)
    rviz = yaml.safe_load((CONFIG / "panosam2.rviz").read_text())
    topics = set(re.findall(r'"(/panosam2/[\w/]+)"', text)) | set(
        re.findall(r"(/panosam2/[\w/]+)", json.dumps(rviz))
    )
    code = (ROOT / "panosam2_ros/outputs.py").read_text() + (
        ROOT / "panosam2_ros/tracker_node.py"
    ).read_text()
    known = {name.replace("~", "/panosam2") for name in re.findall(r'"(~/[\w/]+)"', code)}
    assert topics
    assert topics <= known, topics - known
