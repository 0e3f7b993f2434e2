"""Builds what the node says on /diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@dataclass
class Report:
    """One line of /diagnostics.

    Attributes:
        name: What it is about, such as "input".
        facts: Everything that is known, by name.
        problems: (level, text), worst first or not.
    """

    name: str
    facts: Mapping[str, object]
    problems: list[tuple[bytes, str]] = field(default_factory=list)

    def check(self, bad: bool, level: bytes, text: str) -> Report:
        """Adds a problem if there is one.

        Args:
            bad: Whether there is one.
            level: WARN or ERROR.
            text: What it is and how to mend it.

        Returns:
            Itself.
        """
        if bad:
            self.problems.append((level, text))
        return self


def to_message(
    stamp: Time, node_name: str, hardware: str, reports: list[Report]
) -> DiagnosticArray:
    """Builds the message.

    Args:
        stamp: Now, on the node's clock.
        node_name: Goes before the name of every report.
        hardware: What it runs on.
        reports: The lines.

    Returns:
        The message.
    """
    msg = DiagnosticArray()
    msg.header.stamp = stamp
    for report in reports:
        problems = sorted(report.problems, reverse=True)
        msg.status.append(
            DiagnosticStatus(
                level=problems[0][0] if problems else OK,
                name=f"{node_name}: {report.name}",
                message="; ".join(text for _, text in problems) or "ok",
                hardware_id=hardware,
                values=[KeyValue(key=k, value=_text(v)) for k, v in report.facts.items()],
            )
        )
    return msg


def _text(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
