"""Exceptions of the public API. Each says what was expected, what came and how to mend it."""

from __future__ import annotations


class PanoSAM2Error(Exception):
    """Base class of every error this package raises on purpose."""


class FrameError(PanoSAM2Error, ValueError):
    """A frame has a wrong type, shape or dtype. The stream's state is unchanged."""


class PromptError(PanoSAM2Error, ValueError):
    """A prompt was rejected before any state changed.

    Attributes:
        code: machine-readable reason, one of ``BAD_COORDS``, ``BAD_MASK``, ``UNKNOWN_ID``,
            ``TOO_MANY_OBJECTS``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UnknownObjectError(PromptError):
    """An object id was named that is not being tracked."""

    def __init__(self, object_id: int, known: tuple[int, ...]) -> None:
        shown = ", ".join(map(str, known)) or "none"
        super().__init__(
            "UNKNOWN_ID",
            f"object {object_id} is not tracked (tracked ids: {shown}); prompt it first",
        )


class CheckpointError(PanoSAM2Error):
    """A weight file is missing, unreadable, or does not fit the chosen variant."""


class ConfigError(PanoSAM2Error, ValueError):
    """A configuration value is unknown or out of range."""


class ExportError(PanoSAM2Error):
    """A network cannot be exported here, or what was exported is not what torch computes."""


class SnapshotError(PanoSAM2Error, ValueError):
    """A tracker's saved state cannot be read. The stream's state is unchanged."""
