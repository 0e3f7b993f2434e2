"""The files in config/ say what the node really does."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticStatus
from harness import Scene, Tester, start_tracker
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters
from sensor_msgs.msg import CameraInfo, CompressedImage
from test_inputs import TRACKER, call, diagnosis, values

from panosam2_core.build import shipped_weights
from panosam2_ros import vision
from panosam2_ros.parameters import CHECKPOINT_VARIABLE, SETTINGS, tracker_config
from panosam2_ros.qos import profile, reliability_name

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


def test_memory_settings_reach_the_tracker() -> None:
    given = {setting.name: setting.default for setting in SETTINGS}
    assert tracker_config(given).short_frames == 6
    chosen = tracker_config(given | {"memory.short_frames": 2, "memory.long_frames": 3})
    assert (chosen.short_frames, chosen.long_frames) == (2, 3)


def test_the_networks_input_size_is_a_parameter(env, tmp_path, scene: Scene) -> None:
    settings = "model.input_size:=64x128", "publish.label_resolution:=model", "warmup_frames:=0"
    with start_tracker(env, tmp_path / "log", "/sized", *settings):
        tester = Tester("/sized/panosam2", "/sized/image")
        tester.greet(scene.frames[0])
        stamp = tester.send(scene.frames[0])
        label_image = tester.heard.labels[stamp]
        tester.close()
    assert (label_image.height, label_image.width) == (64 // 4, 128 // 4)


@pytest.mark.parametrize("by_parameter", [False, True])
def test_the_environment_names_the_weights_unless_a_parameter_does(
    env, tmp_path, by_parameter: bool
) -> None:
    """Also those of nano, which brings its own along."""
    weights = Path(shutil.copy(shipped_weights("nano"), tmp_path / "weights.safetensors"))
    settings = ["warmup_frames:=0", *[f"model.checkpoint:={weights}"] * by_parameter]
    chosen = env | {CHECKPOINT_VARIABLE: "/nowhere.pt" if by_parameter else str(weights)}
    with start_tracker(chosen, tmp_path / "log", "/chosen", *settings):
        tester = Tester("/chosen/panosam2", "/chosen/image")
        report = diagnosis(
            tester,
            "model",
            wanted=lambda s: "checkpoint" in values(s),
            tracker="/chosen/panosam2",
        )
        tester.close()
    assert values(report)["checkpoint"] == str(weights)


@pytest.mark.parametrize(
    ("variable", "variant", "told"),
    [
        ("/nowhere.pt", "nano", "the file is that of $PANOSAM2_CHECKPOINT"),
        ("", "hiera_t", "or set $PANOSAM2_CHECKPOINT"),
    ],
)
def test_weights_that_are_missing_are_told_with_where_they_are_named(
    env, tmp_path, variable: str, variant: str, told: str
) -> None:
    chosen = env | {CHECKPOINT_VARIABLE: variable}
    with start_tracker(chosen, tmp_path / "log", "/missing", f"model.variant:={variant}"):
        tester = Tester("/missing/panosam2", "/missing/image")
        report = diagnosis(
            tester,
            "tracker",
            wanted=lambda s: s.level == DiagnosticStatus.ERROR,
            tracker="/missing/panosam2",
        )
        tester.close()
    assert told in report.message


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


POLICY = ElementTree.parse(CONFIG / "sros2_policy.xml").getroot()
# What sros2's schema (policy.xsd, version 0.2.0) lets each element hold and say of itself.
SCHEMA = {
    "policy": ({"enclaves"}, {"version"}),
    "enclaves": ({"enclave"}, set()),
    "enclave": ({"profiles"}, {"path"}),
    "profiles": ({"profile"}, set()),
    "profile": ({"topics", "services"}, {"ns", "node"}),
    "topics": ({"topic"}, {"publish", "subscribe"}),
    "services": ({"service"}, {"reply", "request"}),
    "topic": (set(), set()),
    "service": (set(), set()),
}


def test_the_security_policy_is_one_that_sros2_reads() -> None:
    assert POLICY.attrib == {"version": "0.2.0"}
    (profile,) = POLICY.iter("profile")
    assert profile.attrib == {"ns": "/", "node": "panosam2"}
    for element in POLICY.iter():
        children, attributes = SCHEMA[element.tag]
        assert {child.tag for child in element} <= children
        assert bool(len(element)) == bool(children), f"{element.tag} must not be empty"
        assert set(element.attrib) <= attributes
        if element.tag in ("topics", "services"):
            assert set(element.attrib.values()) == {"ALLOW"}, "what is not named is denied"
        if not children:
            assert re.fullmatch(r"(~/)?[a-z][a-z_/]*[a-z]", element.text), "no wildcards"


def allowed(kind: str) -> list[str]:
    """Names in the policy, as of the node /panosam2."""
    found = [item.text for group in POLICY.iter() if kind in group.attrib for item in group]
    return sorted(
        text.replace("~", "/panosam2") if text[0] == "~" else f"/{text}" for text in found
    )


def endpoints(tester: Tester, namespace: str) -> dict[str, set[str]]:
    """What a running tracker really has, as if its namespace were /."""
    node = tester.node
    ask = {
        "publish": node.get_publisher_names_and_types_by_node,
        "subscribe": node.get_subscriber_names_and_types_by_node,
        "reply": node.get_service_names_and_types_by_node,
        "request": node.get_client_names_and_types_by_node,
    }
    return {
        kind: {name.removeprefix(namespace) for name, _ in by_node("panosam2", namespace)}
        for kind, by_node in ask.items()
    }


def test_the_security_policy_is_the_least_the_node_needs(env, tmp_path, fresh: Tester) -> None:
    """Every endpoint of two running nodes, one per transport and clock, and nothing else."""
    settings = ("image_transport:=compressed", "use_sim_time:=true", "warmup_frames:=0")
    has = endpoints(fresh, "/shared")
    with start_tracker(env, tmp_path / "log", "/other", *settings):
        tester = Tester("/other/panosam2", "/other/image")
        camera = tester.node.create_publisher(
            CompressedImage, "/other/image/compressed", profile(2)
        )
        info = tester.node.create_publisher(CameraInfo, "/other/camera_info", profile(2))
        for publisher in (camera, info):
            tester.until(lambda p=publisher: p.get_subscription_count() > 0, "the subscription")
        # What a node has is told by another topic than what has matched, and may come later.
        more = {"/image/compressed", "/camera_info", "/clock"}
        named = tester.node.get_node_names_and_namespaces
        tester.until(lambda: ("panosam2", "/other") in named(), "its name")
        tester.until(lambda: more <= endpoints(tester, "/other")["subscribe"], "its graph")
        other = endpoints(tester, "/other")
        tester.close()
    assert other["subscribe"] - has["subscribe"] == more
    if not vision.AVAILABLE:
        has["publish"] |= {"/panosam2/label_info", "/panosam2/detections"}
    for kind, names in has.items():
        assert allowed(kind) == sorted(names | other[kind]), kind


MARKERS = "visualization_msgs/msg/MarkerArray"


def layouts() -> dict[str, set[tuple[str, str]]]:
    """(topic, type that the panel or display shows; "" for any) of both layouts."""
    foxglove = json.loads((CONFIG / "foxglove_layout.json").read_text())
    panels = foxglove["configById"]
    image = re.compile(r"sensor_msgs/msg/(Compressed)?Image")
    shown = set()
    for panel in panels.values():
        mode = panel.get("imageMode", {})
        shown |= {(mode[key], image) for key in ("imageTopic",) if key in mode}
        shown |= {(mode[key], "sensor_msgs/msg/CameraInfo") for key in mode if "calib" in key}
        shown |= {(topic, MARKERS) for topic in panel.get("topics", {})}
        shown |= {(path["value"], "") for path in panel.get("paths", ())}
        shown |= {(panel[k], "") for k in ("topicPath", "topicToRender") if k in panel}
    rviz = yaml.safe_load((CONFIG / "panosam2.rviz").read_text())["Visualization Manager"]
    kinds = {
        "rviz_default_plugins/MarkerArray": MARKERS,
        "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    }
    displays = {
        (display["Topic"]["Value"], kinds[display["Class"]])
        for display in rviz["Displays"]
        if "Topic" in display
    }
    return {"foxglove": shown, "rviz": displays}


def leaves(layout: object) -> set[str]:
    if isinstance(layout, str):
        return {layout}
    return leaves(layout["first"]) | leaves(layout["second"])


@pytest.mark.parametrize("program", ["foxglove", "rviz"])
def test_layouts_show_topics_and_types_of_the_running_node(fresh: Tester, program: str) -> None:
    topics = dict(fresh.node.get_publisher_names_and_types_by_node("panosam2", "/shared"))
    shown = layouts()[program]
    assert len(shown) >= 3
    for path, kind in shown:
        topic, *fields = path.split(".")
        name = topic if topic == "/diagnostics" else topic.replace("/panosam2", "/shared/panosam2")
        assert name in topics, topic
        (published,) = topics[name]
        assert re.fullmatch(kind, published) if kind else True, (topic, published)
        for field in fields:
            package, _, message = published.split("/")
            made = getattr(importlib.import_module(f"{package}.msg"), message)
            assert field in made.get_fields_and_field_types()


def test_every_panel_of_the_foxglove_layout_is_in_its_place() -> None:
    foxglove = json.loads((CONFIG / "foxglove_layout.json").read_text())
    assert leaves(foxglove["layout"]) == set(foxglove["configById"])


def test_rviz_listens_as_the_node_publishes(fresh: Tester) -> None:
    """A reliable display of a best-effort topic would stay empty."""
    rviz = yaml.safe_load((CONFIG / "panosam2.rviz").read_text())["Visualization Manager"]
    for display in rviz["Displays"]:
        if "Topic" in display:
            name = display["Topic"]["Value"].replace("/panosam2", "/shared/panosam2")
            (publisher,) = fresh.node.get_publishers_info_by_topic(name)
            wanted = display["Topic"]["Reliability Policy"].lower().replace(" ", "_")
            assert reliability_name(publisher.qos_profile) == wanted


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("hfov_deg:=180", "hfov_deg: expected a number with a decimal point, got 180 (integer)"),
        ("max_objects:=many", "max_objects: expected a whole number, got many (string)"),
        ("memory.short_frames:=7", "memory.short_frames: expected 1 to 6, got 7"),
        ("hfov_deg:=.nan", "hfov_deg: expected 1 to 360, got nan"),
    ],
)
def test_a_value_of_the_wrong_kind_is_one_line_and_no_traceback(
    env, given: str, told: str
) -> None:
    command = [sys.executable, "-m", "panosam2_ros.tracker_node", "--ros-args", "-p", given]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = (done.stdout + done.stderr).splitlines()
    assert f"parameter {told}" in line


def test_misspelt_parameters_are_told_with_the_nearest_name(env, tmp_path) -> None:
    file = tmp_path / "params.yaml"
    wrong = {"hfov_dge": 180.0, "occluded_below": 0.5, "other": {"plugh": 1}, "max_objects": 7}
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": wrong}}))
    log = tmp_path / "log"
    with start_tracker(env, log, "/misspelt", "autostart:=false", "--params-file", str(file)):
        tester = Tester("/misspelt/panosam2", "/misspelt/image")
        tester.until(lambda: "waiting to be configured" in log.read_text(), "the node")
        got = call(
            tester,
            GetParameters,
            "/misspelt/panosam2/get_parameters",
            GetParameters.Request(names=["max_objects", "hfov_deg"]),
        ).values
        tester.close()
    warnings = [line for line in log.read_text().splitlines() if "there is no parameter" in line]
    assert [re.sub(r".*there is no parameter ", "", line) for line in warnings] == [
        "hfov_dge, its value is ignored; did you mean hfov_deg?",
        "occluded_below, its value is ignored; did you mean visibility.occluded_below?",
        "other.plugh, its value is ignored; --help says where all are listed",
    ]
    assert (got[0].integer_value, got[1].double_value) == (7, 360.0)
