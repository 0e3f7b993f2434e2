"""Parameter values given at the start, by -p or in a file: what is wrong with them is told."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

from panosam2_core.errors import ConfigError

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.parameter import Parameter

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a decimal point",
    str: "text (quote what looks like a number)",
}


def given(node: Node) -> Mapping[str, Parameter]:
    """What the node was started with, declared or not.

    Args:
        node: The node.

    Returns:
        Parameters by name. rclpy has no public name for them.
    """
    found: Mapping[str, Parameter] = getattr(node, "_parameter_overrides", {})
    return found


def check(
    node: Node, name: str, default: object, limits: tuple[float, float] | None = None
) -> None:
    """Checks the type and range of a value before it is declared; rclpy would end in a traceback.

    Args:
        node: The node.
        name: Of the parameter.
        default: Fixes its type.
        limits: Smallest and largest number.

    Raises:
        ConfigError: With the name, what is wanted and what was given.
    """
    parameter = given(node).get(name)
    if parameter is None:
        return
    value = parameter.value
    if type(value) is not type(default):
        wanted = _KINDS[type(default)]
        hint = ""
        if type(default) is float and type(value) is int:
            hint = f"; write {value}.0"
        elif type(default) is str:
            hint = f"; write \"'{value}'\" on a command line"
        kind = parameter.type_.name.lower().replace("_", " ")
        raise ConfigError(f"parameter {name}: expected {wanted}, got {value} ({kind}){hint}")
    if limits is not None and not limits[0] <= value <= limits[1]:
        raise ConfigError(
            f"parameter {name}: expected {limits[0]:g} to {limits[1]:g}, got {value}"
        )


def warn_of_unknown(node: Node) -> None:
    """Warns of values for parameters that the node does not have, such as misspelt ones.

    Args:
        node: Has declared its parameters.
    """
    known = sorted(node.get_parameters_by_prefix(""))
    for name in sorted(given(node)):
        if node.has_parameter(name) or name.startswith("qos_overrides."):
            continue
        nearest = _nearest(name, known)
        hint = f"did you mean {nearest}?" if nearest else "--help says where all are listed"
        node.get_logger().warning(f"there is no parameter {name}, its value is ignored; {hint}")


def _nearest(name: str, known: list[str]) -> str:
    """The name that was probably meant, empty if none is alike."""
    for other in known:  # its group was forgotten, or is another one
        if other.rpartition(".")[2] == name.rpartition(".")[2]:
            return other
    return next(iter(get_close_matches(name, known, 1)), "")
