"""Compares the names in a weight file with those of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class KeyReport:
    """Every name of a file and of a network, each in one list.

    Attributes:
        loaded: in both, of the same shape.
        new: of the network alone, in a part that the file may lack as a whole.
        missing: of the network alone.
        unexpected: of the file alone.
        reshaped: in both, of different shapes.
    """

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the file may be loaded."""
        return not (self.missing or self.unexpected or self.reshaped)

    @property
    def faults(self) -> dict[str, tuple[str, ...]]:
        """Names that keep the file from being loaded, by what is wrong with them."""
        found = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.reshaped,
        }
        return {what: keys for what, keys in found.items() if keys}


def compare_keys(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], may_lack: Sequence[str]
) -> KeyReport:
    """Compare names and shapes.

    Args:
        own: of the network.
        state: of the file.
        may_lack: prefixes of parts that the file has as a whole or not at all.

    Returns:
        The report, names in the order of the network or the file.
    """
    # Half a part is a damaged file, not one from before the part existed.
    lacks = tuple(p for p in may_lack if not any(key.startswith(p) for key in state))
    both = [key for key in own if key in state]
    absent = [key for key in own if key not in state]
    return KeyReport(
        loaded=tuple(key for key in both if own[key].shape == state[key].shape),
        new=tuple(key for key in absent if key.startswith(lacks)),
        missing=tuple(key for key in absent if not key.startswith(lacks)),
        unexpected=tuple(key for key in state if key not in own),
        reshaped=tuple(key for key in both if own[key].shape != state[key].shape),
    )
